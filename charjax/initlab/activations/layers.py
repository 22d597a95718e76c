"""Activations and gradients of each layer of a network, reduced on the device.

Everything here is pure, and can be traced under jit and vmap.

Letters: B batch, S inputs, T targets, N outputs, L layers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from charjax.errors import UserError
from charjax.initlab.activations.intercept import record, record_gradients
from charjax.initlab.activations.statistics import (
    BINS,
    LayerStats,
    LayerValues,
    counted_places,
    reduce_layers,
)
from charjax.models.contract import CharModel
from charjax.models.taps import Arrays, Layer, Recording, Tap
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


class ParameterStats(NamedTuple):
    """Statistics of each layer's kernel, multipliers applied: (L,) float32, NaN without a kernel.

    Attributes:
      weight_std: of its entries.
      gradient_std: of the loss's derivatives with respect to them.
      gradient_to_data: one over the other, as in Building makemore Part 3; infinite where all
        entries are equal.
      gradient_norm: the square root of the sum of the derivatives' squares.
    """

    weight_std: Array
    gradient_std: Array
    gradient_to_data: Array
    gradient_norm: Array


def find_layers(model: CharModel) -> tuple[Layer, ...]:
    """Return the layers of a model of a trained family, in the order of computation.

    Raises:
      ValueError: a family that is not trained.
      UserError: a family of the user's own without layers to look into.
    """
    return tuple(tap.layer for tap in _taps(model))


def _taps(model: CharModel) -> tuple[Tap, ...]:
    if type(model).taps is CharModel.taps and not model.fitted:
        raise UserError(
            f"model.kind: {type(model).__name__} has no taps(), which describes the layers; probes "
            "and sweeps look into them: see charjax.models.taps, or docs/own.md"
        )
    return model.taps()


def layer_values(
    model: CharModel, variables: Any, inputs_BS: Array, num_outputs: int, *, train: bool
) -> tuple[Array, tuple[LayerValues, ...]]:
    """Logits (B, N, V) and every layer's values; arguments as of `measure_layers`.

    The last places of each layer are those of the N outputs.
    """
    taps = _taps(model)
    points = frozenset(point for tap in taps for point in tap.points)
    logits_BNV, arrays = record(model, variables, inputs_BS, num_outputs, points, train=train)
    recording = Recording(variables, inputs_BS, num_outputs, arrays)
    return logits_BNV, tuple(_values(tap, recording) for tap in taps)


def _values(tap: Tap, recording: Recording) -> LayerValues:
    value, product = tap.value(recording), tap.preactivation(recording)
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
    """Run a batch forward and backward.

    Dropout is left out: the whole network is measured.

    Args:
      model: of a trained family.
      variables: the parameters as the model reads them (multipliers applied), and other
        collections.
      inputs_BS: tokens.
      targets_BT: the characters after the last T of them.
      weights_BT: 1 for a target, 0 for padding.
      train: batch norm takes this batch's statistics, not its running ones.

    Returns:
      the loss in nats per target, and the layers' statistics in the order of `find_layers`.
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
    """Measure the layers, and return their values too: for one network, where there is memory."""
    taps = _taps(model)
    points = frozenset(point for tap in taps for point in tap.points)
    total = jnp.maximum(jnp.sum(weights_BT), 1.0)

    def loss_of(logits_BTV: Array, _: Arrays) -> Array:
        return jnp.sum(cross_entropy(logits_BTV, targets_BT) * weights_BT) / total

    num_outputs = targets_BT.shape[1]
    recorded = record_gradients(
        model, variables, inputs_BS, num_outputs, points, loss_of, train=train
    )
    recording = Recording(variables, inputs_BS, num_outputs, recorded.arrays)
    everything = tuple(_values(tap, recording) for tap in taps)
    gradients = [tap.gradient(recording, recorded.gradients).astype(jnp.float32) for tap in taps]
    activations = [tap.layer.activation for tap in taps]
    stats = reduce_layers(activations, everything, gradients, weights_BT)
    weight_std = _of_kernels(jnp.std, taps, variables["params"])
    gradient_std = _of_kernels(jnp.std, taps, recorded.param_gradients)
    gradient_norm = _of_kernels(optax.tree.norm, taps, recorded.param_gradients)
    ratio = gradient_std / weight_std
    kernels = ParameterStats(weight_std, gradient_std, ratio, gradient_norm)
    return recorded.loss, stats, kernels, everything


def _of_kernels(measure: Callable[[Array], Array], taps: tuple[Tap, ...], tree: Any) -> Array:
    """Compute a number for each layer's kernel in a tree of parameters, (L,)."""
    paths = [tap.layer.kernel for tap in taps]
    none = jnp.float32(jnp.nan)
    return jnp.stack([none if path is None else measure(_find(tree, path)) for path in paths])


def _find(tree: Any, path: str) -> Array:
    for name in path.split("/"):
        tree = tree[name]
    return tree
