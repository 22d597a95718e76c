"""Statistics of what flows through layers: moments, saturation, dead units, histograms.

Letters: A arrays, B batch, T targets, P places, D width, L layers, K bins, N values.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax.models.roles import Activation

BINS = 64
# A tanh is called saturated where |h| is above this, as in Building makemore Part 3.
SATURATED = 0.97
_BOUNDED = ("tanh", "gates")


class LayerValues(NamedTuple):
    """What a layer gives out, and its product before the activation: (B, P, D) float32 each.

    What all rows of a batch share has one row.
    """

    value: Array
    preactivation: Array


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


def reduce_layers(
    activations: list[Activation],
    values: tuple[LayerValues, ...],
    slopes: list[Array],
    weights_BT: Array,
) -> LayerStats:
    """Statistics of layers, given what is done to their products, and gradients as their values.

    Layers that are alike are measured at once: a deep network is as quickly compiled as a shallow
    one.
    """
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
    elif activation in ("relu", "gelu", "gelu_tanh"):
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
