"""Predictions of mean-field theory for a network as it was drawn, layer by layer.

The variances of its parameters are found on the device (`weight_moments`); from them and the mean
square of a batch's embeddings, the theory is computed in float64 on the host. Each layer describes
its input (`charjax.models.taps.Layer`). Where there is no theory there is NaN: gated cells,
attention's outputs and so the stream behind them.

Letters: L layers, T time.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from charjax import theory
from charjax.init.scheme import Scheme
from charjax.initlab.activations.layers import Layer, find_layers
from charjax.models.contract import CharModel
from charjax.models.roles import Role

Floats = NDArray[np.float64]


class WeightMoments(NamedTuple):
    """Moments of each layer's parameters, multipliers applied: (L,) float32, NaN without one.

    Attributes:
      weights: σ_w², the kernel's mean square times its fan_in; of a table its mean square.
      input_weights: σ_w² of the kernel by which a recurrent cell reads the layer below.
      biases: σ_b², the mean square of the biases; of a readout their variance.
      gains: mean square of the scale of the layer's norm (see Layer).
      shifts: mean square of that norm's bias.
    """

    weights: Array
    input_weights: Array
    biases: Array
    gains: Array
    shifts: Array


class _Known(NamedTuple):
    """WeightMoments on the host."""

    weights: Floats
    input_weights: Floats
    biases: Floats
    gains: Floats
    shifts: Floats


class Prediction(NamedTuple):
    """The theory of each layer: (L,) float64, NaN where there is none.

    Attributes:
      preactivation_std: sqrt(q), the root mean square before the activation.
      std: the standard deviation after it.
      saturated: part of |h| > 0.97, of tanh.
    """

    preactivation_std: Floats
    std: Floats
    saturated: Floats


def weight_moments(model: CharModel, params: Any) -> WeightMoments:
    """Compute the parameters' moments, multipliers applied; pure, for use under jit and vmap."""
    rows = [_moments(layer, params) for layer in find_layers(model)]
    return WeightMoments(*(jnp.stack(column) for column in zip(*rows, strict=True)))


def predict_layers(
    model: CharModel, moments: WeightMoments, mean_squares: ArrayLike, times: int = 1
) -> Prediction:
    """Predict the layers of one network.

    Args:
      model: of a trained family. Batch norm is taken to use the batch's statistics.
      moments: of the network's parameters, as numbers on the host.
      mean_squares: (L,) of each layer's outputs (mean**2 + std**2 of LayerStats). Used are
        those that depend on the text: the embeddings', and of a bag of characters the average's;
        and of a transformer with tied embeddings that of the last norm's input.
      times: T, over which a recurrent network's layers are averaged.

    Returns:
      One number for each layer, in the order of `find_layers`.
    """
    layers = find_layers(model)
    known = _Known(*(np.asarray(column, np.float64) for column in moments))
    squares_L = np.asarray(mean_squares, np.float64)
    q_L = _preactivations(layers, known, squares_L, times)
    q_L[-1] += own_logit(model, moments, squares_L) ** 2 / model.vocab_size
    rows = [_after(layer, q) for layer, q in zip(layers, q_L, strict=True)]
    return Prediction(np.sqrt(q_L), *map(np.array, zip(*rows, strict=True)))


def predict_loss(
    model: CharModel,
    scheme: Scheme,
    moments: WeightMoments,
    prediction: Prediction,
    mean_squares: ArrayLike,
    repeats: float,
) -> float:
    """Predict the loss of Gaussian logits of the predicted size, in nats per target.

    Args:
      model: of a trained family.
      scheme: of its parameters; one that reads the text makes logits that depend on the targets.
      moments: as for `predict_layers`.
      prediction: its result.
      mean_squares: as for `predict_layers`.
      repeats: how often a target is the character before it.

    Returns:
      NaN where there is no theory.
    """
    q, shift = prediction.preactivation_std[-1] ** 2, own_logit(model, moments, mean_squares)
    if scheme.reads_text or math.isnan(q):
        return math.nan
    std = math.sqrt(max(0.0, q - shift**2 / model.vocab_size))
    return theory.initial_loss(std, model.vocab_size, shift, repeats)


def own_logit(model: CharModel, moments: WeightMoments, mean_squares: ArrayLike) -> float:
    """Predict the part of the symbol just read in its logit; 0 where embeddings are not tied.

    Its vector's product with itself, d E^2 g / s: the last norm, of gain g, has divided the stream
    by its root mean square s (as measured; attention has no theory here). NaN without such a norm.
    """
    layers = find_layers(model)
    if not _is_tied(layers[-1]):
        return 0.0
    # The layers end in: the last block, its norm, the readout.
    if layers[-2].name != layers[-2].norm:
        return math.nan
    stream = math.sqrt(np.asarray(mean_squares, np.float64)[-3])
    product = float(moments.weights[-1]) * math.sqrt(float(moments.gains[-1]))
    product *= model.embedding_scale
    return product / stream if stream else math.nan


def _is_tied(layer: Layer) -> bool:
    """Return true for a readout whose kernel is a table of embeddings."""
    return layer.role is Role.READOUT and str(layer.kernel).endswith("/embedding")


def _after(layer: Layer, q: float) -> tuple[float, float]:
    """Return the standard deviation after the activation, and the saturated part."""
    if not q <= theory.LARGEST:
        return math.nan, math.nan
    if layer.activation == "linear":
        return math.sqrt(q), 0.0
    activation = theory.find_activation(layer.activation)
    try:
        mean = theory.expect(activation.function, math.sqrt(q), activation.kinks)
    except ValueError:  # an activation of the user's own that grows without bounds
        return math.nan, math.nan
    std = math.sqrt(np.maximum(0.0, _second_moment(q, activation) - mean**2))
    bounded = layer.activation == "tanh"
    return std, theory.saturated_fraction(q, activation) if bounded else 0.0


def _second_moment(q: float, activation: theory.Activation) -> float:
    """Return E[φ²], NaN beyond the theory's range: of a network that was drawn absurdly large."""
    try:
        return theory.second_moment(q, activation) if q <= theory.LARGEST else math.nan
    except ValueError:  # of an activation of the user's own
        return math.nan


def _preactivations(
    layers: tuple[Layer, ...], known: _Known, squares_L: Floats, times: int
) -> Floats:
    """Return q of each layer: the mean square of its product, before the activation.

    Feed-forward layers are Poole et al. 2016's; a norm sets the size of its output whatever its
    input. A recurrent layer starts from a state of 0, and q is the mean over the times. Of lengths,
    weights that are the same at all times make no difference in a wide network (Chen, Pennington
    and Schoenholz 2018, arXiv:1806.05394).
    """
    normed_L = known.gains + known.shifts
    q_L = np.full(len(layers), math.nan)
    # Mean square of the layer before after its activation; where there is no theory, as measured.
    before: float | Floats = math.nan
    for i, layer in enumerate(layers):
        weights, biases = known.weights[i], known.biases[i]
        if layer.kernel is None:
            q_L[i] = normed_L[i]
        elif layer.reads == "table":
            q_L[i] = weights
        elif layer.reads == "norm":
            q_L[i] = weights * normed_L[i] + biases
        elif layer.reads == "previous":
            q_L[i] = weights * np.mean(before) + biases
            if layer.norm is not None:
                q_L[i] = (known.gains[i] if q_L[i] > 0 else 0.0) + known.shifts[i]
        elif layer.reads == "state":
            q_T, before = _recurrence(layer, known, i, np.broadcast_to(before, times))
            q_L[i] = q_T.mean()
            continue
        if layer.reads is None:
            before = squares_L[i]
        else:
            before = _second_moment(q_L[i], theory.find_activation(layer.activation))
    return q_L


def _recurrence(layer: Layer, known: _Known, i: int, below_T: Floats) -> tuple[Floats, Floats]:
    """Return q and the state's mean square at each time, given the layer below's."""
    activation = theory.find_activation(layer.activation)
    q_T, squares_T = np.empty(len(below_T)), np.empty(len(below_T))
    square = 0.0
    for t, below in enumerate(below_T):
        q_T[t] = known.input_weights[i] * below + known.weights[i] * square + known.biases[i]
        squares_T[t] = square = _second_moment(q_T[t], activation)
    return q_T, squares_T


def _moments(layer: Layer, params: Any) -> WeightMoments:
    none = jnp.float32(jnp.nan)
    weights = input_weights = none
    biases = jnp.zeros(())
    if layer.kernel is not None:
        path, _, name = layer.kernel.rpartition("/")
        module = _at(params, path)
        is_table = layer.role is Role.EMBEDDING
        # A tied readout sums over the vectors' own axis.
        fan_in = 1 if is_table else module[name].shape[1 if _is_tied(layer) else 0]
        weights = fan_in * _square(module[name])
        if layer.role is Role.RECURRENT:
            input_weights = module["input_kernel"].shape[0] * _square(module["input_kernel"])
            biases = _square(module["input_bias"] + module["hidden_bias"])
        elif "bias" in module:
            biases = (jnp.var if layer.role is Role.READOUT else _square)(module["bias"])
    gains = shifts = none
    if layer.norm is not None:
        found = _at(params, layer.norm)
        gains = _square(found["scale"])
        shifts = _square(found["bias"]) if "bias" in found else jnp.zeros(())
    return WeightMoments(weights, input_weights, biases, gains, shifts)


def _at(tree: Any, path: str) -> Any:
    for name in filter(None, path.split("/")):
        tree = tree[name]
    return tree


def _square(x: Array) -> Array:
    return jnp.mean(jnp.square(x))
