"""Statistics of activations and gradients: moments, saturation, dead units, histograms.

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
    """A layer's output, and its product before the activation: (B, P, D) float32 each.

    An array that all rows of a batch share has one row.
    """

    value: Array
    preactivation: Array


class LayerStats(NamedTuple):
    """Statistics of each layer's output, (L,) float32 each unless said otherwise.

    Positions that are padding (whose targets have weight 0) do not count.

    Attributes:
      mean: after the activation.
      std: likewise, about that mean.
      saturated: part of the values with |h| > 0.97, of tanh and gated layers; 0 for others.
      dead: part of the units that are inactive at every position of the batch: of ReLU and GELU,
        h <= 0 everywhere; of tanh and gated layers, |h| > 0.97 everywhere (the white columns in
        the makemore lectures); 0 for others.
      preactivation_std: root mean square of the product before the activation, with its bias or
        batch norm: the theory's sqrt(q). Of a recurrent cell, of all gates' x W_i + b_i + h W_h +
        b_h (of a GRU before the reset gate is applied).
      gradient_mean: of the derivative of the loss (mean over the batch's targets) with respect to
        each value, after the activation; of a recurrent cell's state with its effect on all later
        times.
      gradient_std: likewise, about that mean.
      activation_low: lower edge of a histogram of the values: mean - 4 std, or their minimum.
      activation_high: upper edge: mean + 4 std, or their maximum. Values beyond an edge are
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
    gradients: list[Array],
    weights_BT: Array,
) -> LayerStats:
    """Compute the statistics of layers from their activation functions, values and gradients.

    Layers of one activation and shape are measured at once: a deep network compiles as fast as a
    shallow one.
    """
    alike: dict[Any, list[int]] = {}
    for i, (h_BPD, z_BPD) in enumerate(values):
        alike.setdefault((activations[i], h_BPD.shape, z_BPD.shape), []).append(i)
    groups = []
    for (activation, (rows, places, _), _), indices in alike.items():
        counted_BP = counted_places(weights_BT, rows, places)
        measure = functools.partial(_layer_stats, activation, counted_BP)
        columns = (*zip(*values, strict=True), gradients)
        stacked = [jnp.stack([array[i] for i in indices]) for array in columns]
        groups.append(jax.vmap(measure)(*stacked))
    order = np.argsort([i for indices in alike.values() for i in indices])
    return jax.tree.map(lambda *columns: jnp.concatenate(columns)[order], *groups)


def counted_places(weights_BT: Array, rows: int, places: int) -> Array:
    """Return a mask of a layer's places (rows, places) that are not padding.

    Those of targets with a weight count, and those before them if their row has any.
    """
    is_target_BT = weights_BT > 0
    B, T = is_target_BT.shape
    has_target_B1 = jnp.any(is_target_BT, axis=1, keepdims=True)
    before = jnp.broadcast_to(has_target_B1, (B, max(0, places - T)))
    counted_BP = jnp.concatenate([before, is_target_BT], axis=1)[:, -places:]
    return counted_BP if rows == B else jnp.any(counted_BP, axis=0, keepdims=True)


def _layer_stats(
    activation: Activation, counted_BP: Array, h_BPD: Array, z_BPD: Array, gradient_BPD: Array
) -> LayerStats:
    # Both at once: half of the operations to compile.
    both = _describe(jnp.stack([h_BPD, gradient_BPD]), counted_BP)
    forward, backward = (_Distribution(*(column[i] for column in both)) for i in range(2))
    saturated_BPD = jnp.abs(h_BPD) > SATURATED
    inactive_BPD = jnp.zeros_like(saturated_BPD)
    if activation in _BOUNDED:
        inactive_BPD = saturated_BPD
    elif activation in ("relu", "gelu", "gelu_tanh"):
        inactive_BPD = h_BPD <= 0
    dead_D = jnp.all(inactive_BPD | ~counted_BP[..., None], axis=(0, 1))
    is_bounded = jnp.float32(activation in _BOUNDED)
    return LayerStats(
        mean=forward.mean,
        std=forward.std,
        saturated=is_bounded * _mean(saturated_BPD.astype(jnp.float32), counted_BP),
        dead=jnp.mean(dead_D.astype(jnp.float32)),
        preactivation_std=jnp.sqrt(_mean(jnp.square(z_BPD), counted_BP)),
        gradient_mean=backward.mean,
        gradient_std=backward.std,
        activation_low=forward.low,
        activation_high=forward.high,
        activation_counts=forward.counts,
        gradient_low=backward.low,
        gradient_high=backward.high,
        gradient_counts=backward.counts,
    )


class _Distribution(NamedTuple):
    """Mean, standard deviation and histogram (K,)."""

    mean: Array
    std: Array
    low: Array
    high: Array
    counts: Array


def _describe(x_ABPD: Array, counted_BP: Array) -> _Distribution:
    """Describe each of several arrays; outliers are in the bins at the ends."""
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
    """Average over the last three axes, where they count."""
    share = jnp.maximum(jnp.mean(counted_BP.astype(jnp.float32)), 1e-30)
    return jnp.mean(jnp.where(counted_BP[..., None], x, 0.0), axis=(-3, -2, -1)) / share
