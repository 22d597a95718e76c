"""What flows through each layer of a network, forth and back, reduced on the device.

Everything here is pure, and can be traced under jit and vmap.

Letters: A arrays, B batch, S inputs, T targets, P places, D width, L layers, K bins, N values.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from charjax.initlab.families import Layer, Pass, Tap, find_taps
from charjax.initlab.watching import Arrays, see, see_slopes
from charjax.models.contract import CharModel
from charjax.models.roles import Activation
from charjax.training.step import cross_entropy

__all__ = [
    "BINS",
    "Layer",
    "LayerStats",
    "LayerValues",
    "ParameterStats",
    "counted_places",
    "find_layers",
    "inspect_layers",
    "layer_values",
    "measure_layers",
]

BINS = 64
# A tanh is called saturated where |h| is above this, as in nn-zero-to-hero part 4.
SATURATED = 0.97
_BOUNDED = ("tanh", "gates")


class LayerStats(NamedTuple):
    """Of what each layer gives out, (L,) float32 each unless said otherwise.

    Positions that are padding (whose targets have weight 0) do not count.

    Attributes:
      mean: after the activation.
      std: likewise, about that mean.
      saturated: part of the values with |h| > 0.97, of tanh and gated layers; 0 for others.
      dead: part of the units that no position of the batch makes alive: of ReLU and GELU, h <= 0
        everywhere; of tanh and gated layers, |h| > 0.97 everywhere (the lectures' white columns);
        0 for others.
      preactivation_std: root mean square of the product before the activation, with its bias or
        batch norm: the theory's sqrt(q). Of a recurrent cell, of all gates' x W_i + b_i + h W_h +
        b_h (of a GRU before the reset gate is applied).
      gradient_mean: of the derivative of the loss (mean over the batch's targets) with respect to
        each value, after the activation; of a recurrent cell's state with all that later times do
        with it.
      gradient_std: likewise, about that mean.
      activation_low: lower edge of a histogram of the values: mean - 4 std, or their minimum.
      activation_high: upper edge: mean + 4 std, or their maximum. What lies beyond an edge is
        counted in the last bin there.
      activation_counts: (L, 64) int32.
      gradient_low: of the gradients' histogram.
      gradient_high: likewise.
      gradient_counts: (L, 64) int32.
    """

    mean: Array
    std: Array
    saturated: Array
    dead: Array
    preactivation_std: Array
    gradient_mean: Array
    gradient_std: Array
    activation_low: Array
    activation_high: Array
    activation_counts: Array
    gradient_low: Array
    gradient_high: Array
    gradient_counts: Array


class LayerValues(NamedTuple):
    """What a layer gives out, and its product before the activation: (B, P, D) float32 each.

    What all rows of a batch share has one row.
    """

    value: Array
    preactivation: Array


class ParameterStats(NamedTuple):
    """Of each layer's kernel, as the model sees it; (L,) float32, NaN for a layer without one.

    Attributes:
      weight_std: of its entries.
      gradient_std: of the loss's derivatives with respect to them.
      gradient_to_data: one over the other, as in nn-zero-to-hero part 4; infinite where all
        entries are equal.
      gradient_norm: the square root of the sum of the derivatives' squares.
    """

    weight_std: Array
    gradient_std: Array
    gradient_to_data: Array
    gradient_norm: Array


def find_layers(model: CharModel) -> tuple[Layer, ...]:
    """The layers of a model of a trained family, in the order of computation.

    Raises:
      ValueError: a family that is not trained.
    """
    return tuple(tap.layer for tap in find_taps(model))


def layer_values(
    model: CharModel, variables: Any, inputs_BS: Array, num_outputs: int, *, train: bool
) -> tuple[Array, tuple[LayerValues, ...]]:
    """Logits (B, N, V) and every layer's values; arguments as of `measure_layers`.

    The last places of each layer are those of the N outputs.
    """
    taps = find_taps(model)
    doors = frozenset(door for tap in taps for door in tap.doors)
    logits_BNV, arrays = see(model, variables, inputs_BS, num_outputs, doors, train=train)
    seen = Pass(variables, inputs_BS, num_outputs, arrays)
    return logits_BNV, tuple(_values(tap, seen) for tap in taps)


def _values(tap: Tap, seen: Pass) -> LayerValues:
    value, product = tap.value(seen), tap.preactivation(seen)
    return LayerValues(value.astype(jnp.float32), product.astype(jnp.float32))


def measure_layers(
    model: CharModel,
    variables: Any,
    inputs_BS: Array,
    targets_BT: Array,
    weights_BT: Array,
    *,
    train: bool,
) -> tuple[Array, LayerStats, ParameterStats]:
    """Run a batch forth and back.

    Dropout is left out: what is measured is the whole network.

    Args:
      model: of a trained family.
      variables: the parameters as the model sees them (multipliers applied), and other
        collections.
      inputs_BS: tokens.
      targets_BT: the characters after the last T of them.
      weights_BT: 1 for a target, 0 for padding.
      train: whether batch norm takes this batch's statistics, or its running ones.

    Returns:
      the loss in nats a target, and the layers' statistics in the order of `find_layers`.
    """
    loss, stats, kernels, _ = inspect_layers(
        model, variables, inputs_BS, targets_BT, weights_BT, train=train
    )
    return loss, stats, kernels


def inspect_layers(
    model: CharModel,
    variables: Any,
    inputs_BS: Array,
    targets_BT: Array,
    weights_BT: Array,
    *,
    train: bool,
) -> tuple[Array, LayerStats, ParameterStats, tuple[LayerValues, ...]]:
    """`measure_layers`, and the values themselves: for one network, where there is room."""
    taps = find_taps(model)
    doors = frozenset(door for tap in taps for door in tap.doors)
    total = jnp.maximum(jnp.sum(weights_BT), 1.0)

    def loss_of(logits_BTV: Array, _: Arrays) -> Array:
        return jnp.sum(cross_entropy(logits_BTV, targets_BT) * weights_BT) / total

    num_outputs = targets_BT.shape[1]
    watched = see_slopes(model, variables, inputs_BS, num_outputs, doors, loss_of, train=train)
    seen = Pass(variables, inputs_BS, num_outputs, watched.arrays)
    everything = tuple(_values(tap, seen) for tap in taps)
    slopes = [tap.gradient(seen, watched.slopes).astype(jnp.float32) for tap in taps]
    activations = [tap.layer.activation for tap in taps]
    stats = _all_stats(activations, everything, slopes, weights_BT)
    weight_std = _of_kernels(jnp.std, taps, variables["params"])
    gradient_std = _of_kernels(jnp.std, taps, watched.param_slopes)
    gradient_norm = _of_kernels(optax.tree.norm, taps, watched.param_slopes)
    ratio = gradient_std / weight_std
    kernels = ParameterStats(weight_std, gradient_std, ratio, gradient_norm)
    return watched.loss, stats, kernels, everything


def counted_places(weights_BT: Array, rows: int, places: int) -> Array:
    """Which of a layer's places (rows, places) are not padding.

    Those of targets with a weight count, and those before them if their row has any.
    """
    is_target_BT = weights_BT > 0
    B, T = is_target_BT.shape
    begun_B1 = jnp.any(is_target_BT, axis=1, keepdims=True)
    before = jnp.broadcast_to(begun_B1, (B, max(0, places - T)))
    counted_BP = jnp.concatenate([before, is_target_BT], axis=1)[:, -places:]
    return counted_BP if rows == B else jnp.any(counted_BP, axis=0, keepdims=True)


def _all_stats(
    activations: list[Activation],
    values: tuple[LayerValues, ...],
    slopes: list[Array],
    weights_BT: Array,
) -> LayerStats:
    """The layers that are alike at once: a deep network is as quickly compiled as a shallow one."""
    alike: dict[Any, list[int]] = {}
    for i, (h_BPD, z_BPD) in enumerate(values):
        alike.setdefault((activations[i], h_BPD.shape, z_BPD.shape), []).append(i)
    groups = []
    for (activation, (rows, places, _), _), indices in alike.items():
        counted_BP = counted_places(weights_BT, rows, places)
        measure = functools.partial(_layer_stats, activation, counted_BP)
        stacked = [
            jnp.stack([array[i] for i in indices]) for array in (*zip(*values, strict=True), slopes)
        ]
        groups.append(jax.vmap(measure)(*stacked))
    order = np.argsort([i for indices in alike.values() for i in indices])
    return jax.tree.map(lambda *columns: jnp.concatenate(columns)[order], *groups)


def _layer_stats(
    activation: Activation, counted_BP: Array, h_BPD: Array, z_BPD: Array, slope_BPD: Array
) -> LayerStats:
    # Both at once: half as much for the compiler to do.
    both = _describe(jnp.stack([h_BPD, slope_BPD]), counted_BP)
    forth, back = (_Distribution(*(column[i] for column in both)) for i in range(2))
    saturated_BPD = jnp.abs(h_BPD) > SATURATED
    asleep_BPD = jnp.zeros_like(saturated_BPD)
    if activation in _BOUNDED:
        asleep_BPD = saturated_BPD
    elif activation in ("relu", "gelu"):
        asleep_BPD = h_BPD <= 0
    dead_D = jnp.all(asleep_BPD | ~counted_BP[..., None], axis=(0, 1))
    is_bounded = jnp.float32(activation in _BOUNDED)
    return LayerStats(
        mean=forth.mean,
        std=forth.std,
        saturated=is_bounded * _mean(saturated_BPD.astype(jnp.float32), counted_BP),
        dead=jnp.mean(dead_D.astype(jnp.float32)),
        preactivation_std=jnp.sqrt(_mean(jnp.square(z_BPD), counted_BP)),
        gradient_mean=back.mean,
        gradient_std=back.std,
        activation_low=forth.low,
        activation_high=forth.high,
        activation_counts=forth.counts,
        gradient_low=back.low,
        gradient_high=back.high,
        gradient_counts=back.counts,
    )


class _Distribution(NamedTuple):
    """Mean, standard deviation and histogram (K,)."""

    mean: Array
    std: Array
    low: Array
    high: Array
    counts: Array


def _describe(x_ABPD: Array, counted_BP: Array) -> _Distribution:
    """Of each of several arrays; outliers are in the bins at the ends."""
    counted_BP1 = counted_BP[..., None]
    wide = lambda number_A: number_A[:, None, None, None]  # noqa: E731
    mean_A = _mean(x_ABPD, counted_BP)
    std_A = jnp.sqrt(_mean(jnp.square(x_ABPD - wide(mean_A)), counted_BP))
    axes = (1, 2, 3)
    lowest_A = jnp.min(jnp.where(counted_BP1, x_ABPD, jnp.inf), axes)
    highest_A = jnp.max(jnp.where(counted_BP1, x_ABPD, -jnp.inf), axes)
    low_A = jnp.maximum(lowest_A, mean_A - 4 * std_A)
    high_A = jnp.minimum(highest_A, mean_A + 4 * std_A)
    # Where all values are equal they are counted in the first bin.
    scale_A = jnp.where(high_A > low_A, BINS / (high_A - low_A), 0.0)
    bins = jnp.clip((x_ABPD - wide(low_A)) * wide(scale_A), 0, BINS - 1).astype(jnp.int32)
    bins = jnp.where(counted_BP1, bins, BINS).reshape(len(x_ABPD), -1)
    counts_AK = jax.vmap(lambda bin_N: jnp.bincount(bin_N, length=BINS + 1)[:BINS])(bins)
    return _Distribution(mean_A, std_A, low_A, high_A, counts_AK)


def _mean(x: Array, counted_BP: Array) -> Array:
    """Over the last three axes, where they count."""
    share = jnp.maximum(jnp.mean(counted_BP.astype(jnp.float32)), 1e-30)
    return jnp.mean(jnp.where(counted_BP[..., None], x, 0.0), axis=(-3, -2, -1)) / share


def _of_kernels(measure: Callable[[Array], Array], taps: tuple[Tap, ...], tree: Any) -> Array:
    """A number for each layer's kernel in a tree of parameters, (L,)."""
    paths = [tap.layer.kernel for tap in taps]
    none = jnp.float32(jnp.nan)
    return jnp.stack([none if path is None else measure(_find(tree, path)) for path in paths])


def _find(tree: Any, path: str) -> Array:
    for name in path.split("/"):
        tree = tree[name]
    return tree
