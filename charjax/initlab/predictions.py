"""What mean-field theory says of a network as it was drawn: its own variances, layer by layer.

The variances are small numbers that are found on the device (`weight_moments`); from them and the
mean square of the embeddings that a batch brings, the theory goes on in float64 on the host.
Where there is no theory there is NaN: the gated cells, attention's outputs and so the stream
behind them.

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
from charjax.models.bigram import Bigram
from charjax.models.bow import BagOfCharacters
from charjax.models.contract import CharModel
from charjax.models.mlp import MLP
from charjax.models.recurrent import RNN
from charjax.models.roles import Role
from charjax.models.transformer import Transformer
from charjax.models.wavenet import WaveNet

Floats = NDArray[np.float64]


class WeightMoments(NamedTuple):
    """Of each layer, as the model sees it: (L,) float32, NaN where there is no such parameter.

    Attributes:
      weights: σ_w², the kernel's mean square times its fan_in; of a table its mean square.
      input_weights: the same of the kernel by which a recurrent cell reads the layer below.
      biases: σ_b², the mean square of what is added; of a readout the variance.
      gains: mean square of the scale of a norm: the one that the product goes through (mlp,
        wavenet), that the input comes through (transformer), or that the layer is.
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
    """What the theory says of each layer: (L,) float64, NaN where it says nothing.

    Attributes:
      preactivation_std: sqrt(q), the root mean square before the activation.
      std: the standard deviation after it.
      saturated: part of |h| > 0.97, of tanh.
    """

    preactivation_std: Floats
    std: Floats
    saturated: Floats


def weight_moments(model: CharModel, params: Any) -> WeightMoments:
    """The variances of the parameters that the model sees; pure, for use under jit and vmap."""
    rows = [_moments(model, layer, params) for layer in find_layers(model)]
    return WeightMoments(*(jnp.stack(column) for column in zip(*rows, strict=True)))


def predict_layers(
    model: CharModel, moments: WeightMoments, mean_squares: ArrayLike, times: int = 1
) -> Prediction:
    """The theory of one network.

    Args:
      model: of a trained family. Batch norm is taken to use the batch's statistics.
      moments: of the network's parameters, as numbers on the host.
      mean_squares: (L,) of what each layer gives out (mean**2 + std**2 of LayerStats). Used are
        those that depend on the text: the embeddings', and of a bag of characters the average's;
        and of a transformer with tied embeddings that of the last norm's input.
      times: T, over which a recurrent network's layers are averaged.

    Returns:
      One number for each layer, in the order of `find_layers`.
    """
    layers = find_layers(model)
    known = _Known(*(np.asarray(column, np.float64) for column in moments))
    squares_L = np.asarray(mean_squares, np.float64)
    if isinstance(model, MLP | WaveNet):
        q_L = _stack(layers, known, squares_L)
    elif isinstance(model, RNN):
        q_L = _recurrent(layers, known, squares_L, times)
    elif isinstance(model, Transformer):
        q_L = _transformer(layers, known)
        q_L[-1] += own_logit(model, moments, squares_L) ** 2 / model.vocab_size
    else:
        q_L = np.full(len(layers), math.nan)
        if isinstance(model, Bigram):
            q_L[0] = known.weights[0]
        elif isinstance(model, BagOfCharacters):
            q_L[-1] = known.weights[-1] * squares_L[-2] + known.biases[-1]
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
    """The loss that Gaussian logits of the predicted size give, in nats a target.

    Args:
      model: of a trained family.
      scheme: that it was drawn by; one that reads the text makes logits that know the targets.
      moments: as of `predict_layers`.
      prediction: that function's result.
      mean_squares: as of `predict_layers`.
      repeats: how often a target is the character before it.

    Returns:
      NaN where the theory says nothing.
    """
    q, shift = prediction.preactivation_std[-1] ** 2, own_logit(model, moments, mean_squares)
    if scheme.reads_text or math.isnan(q):
        return math.nan
    std = math.sqrt(max(0.0, q - shift**2 / model.vocab_size))
    return theory.initial_loss(std, model.vocab_size, shift, repeats)


def own_logit(model: CharModel, moments: WeightMoments, mean_squares: ArrayLike) -> float:
    """What tied embeddings add to the logit of the symbol just read; 0 where they are not tied.

    Its vector's product with itself, d E^2 g / s: the last norm, of gain g, has divided the stream
    by its root mean square s (as measured; attention has no theory here). NaN without such a norm.
    """
    if not (isinstance(model, Transformer) and model.tie_embeddings):
        return 0.0
    if model.residual not in ("pre_norm", "layerscale"):
        return math.nan
    # The layers end in: the last block, its norm, the readout.
    stream = math.sqrt(np.asarray(mean_squares, np.float64)[-3])
    product = float(moments.weights[-1]) * math.sqrt(float(moments.gains[-1]))
    if model.scale_embeddings:
        product *= math.sqrt(model.d_model)
    return product / stream if stream else math.nan


def _after(layer: Layer, q: float) -> tuple[float, float]:
    """Standard deviation after the activation, and the saturated part of it."""
    if not q <= theory.LARGEST:
        return math.nan, math.nan
    if layer.activation == "linear":
        return math.sqrt(q), 0.0
    activation = theory.find_activation(layer.activation)
    mean = theory.expect(activation.function, math.sqrt(q), activation.kinks)
    std = math.sqrt(max(0.0, _second_moment(q, activation) - mean**2))
    bounded = layer.activation == "tanh"
    return std, theory.saturated_fraction(q, activation) if bounded else 0.0


def _second_moment(q: float, activation: theory.Activation) -> float:
    """The theory's, NaN beyond its range: of a network that was drawn absurdly large."""
    return theory.second_moment(q, activation) if q <= theory.LARGEST else math.nan


def _stack(layers: tuple[Layer, ...], known: _Known, squares_L: Floats) -> Floats:
    """q of each layer of a feed-forward stack upon the embeddings (Poole et al. 2016)."""
    q_L, square = [math.nan], squares_L[0]
    for i, layer in enumerate(layers[1:], start=1):
        normed = not math.isnan(known.gains[i])
        q = known.weights[i] * square + known.biases[i]
        if normed:
            q = (known.gains[i] if q > 0 else 0.0) + known.shifts[i]
        q_L.append(q)
        square = _second_moment(q, theory.find_activation(layer.activation))
    return np.array(q_L)


def _recurrent(layers: tuple[Layer, ...], known: _Known, squares_L: Floats, times: int) -> Floats:
    """Mean of q over T times from a state of 0.

    Of lengths, weights that are the same at all times make no difference in a wide network (Chen,
    Pennington and Schoenholz 2018, arXiv:1806.05394).
    """
    q_L, below_T = [math.nan], np.full(times, squares_L[0])
    for i, layer in enumerate(layers[1:-1], start=1):
        activation = theory.find_activation(layer.activation)
        q_T, square = np.empty(times), 0.0
        for t, below in enumerate(below_T):
            q_T[t] = known.input_weights[i] * below + known.weights[i] * square + known.biases[i]
            square = _second_moment(q_T[t], activation)
            below_T[t] = square
        q_L.append(float(q_T.mean()))
    return np.array([*q_L, known.weights[-1] * below_T.mean() + known.biases[-1]])


def _transformer(layers: tuple[Layer, ...], known: _Known) -> Floats:
    """q of what reads a norm, and of what reads the network's own hidden layer."""
    q_L = np.full(len(layers), math.nan)
    normed_L = known.gains + known.shifts
    for i, layer in enumerate(layers):
        if layer.kernel is None:
            q_L[i] = normed_L[i]
        elif layer.name.endswith("mlp/down") and not math.isnan(q_L[i - 1]):
            activation = theory.find_activation(layers[i - 1].activation)
            square = _second_moment(q_L[i - 1], activation)
            q_L[i] = known.weights[i] * square + known.biases[i]
        elif layer.name.endswith(("qkv", "mlp/up", "readout")):
            q_L[i] = known.weights[i] * normed_L[i] + known.biases[i]
    return q_L


def _moments(model: CharModel, layer: Layer, params: Any) -> WeightMoments:
    none = jnp.float32(jnp.nan)
    weights = input_weights = none
    biases = jnp.zeros(())
    if layer.kernel is not None:
        path, _, name = layer.kernel.rpartition("/")
        module = _at(params, path)
        is_table = layer.role is Role.EMBEDDING
        # A tied readout sums over the vectors' own axis.
        tied = layer.role is Role.READOUT and name == "embedding"
        fan_in = 1 if is_table else module[name].shape[1 if tied else 0]
        weights = fan_in * _square(module[name])
        if name == "hidden_kernel":
            input_weights = module["input_kernel"].shape[0] * _square(module["input_kernel"])
            biases = _square(module["input_bias"] + module["hidden_bias"])
        elif "bias" in module:
            biases = (jnp.var if layer.role is Role.READOUT else _square)(module["bias"])
    gains = shifts = none
    norm = _norm_of(model, layer)
    if norm is not None:
        found = _at(params, norm)
        gains = _square(found["scale"])
        shifts = _square(found["bias"]) if "bias" in found else jnp.zeros(())
    return WeightMoments(weights, input_weights, biases, gains, shifts)


def _norm_of(model: CharModel, layer: Layer) -> str | None:
    """The path of the norm that WeightMoments tells of."""
    name, _, rest = layer.name.partition("/")
    if isinstance(model, MLP | WaveNet) and model.norm == "batch":
        return f"norm_{name.rpartition('_')[2]}" if layer.activation == "tanh" else None
    if not isinstance(model, Transformer):
        return None
    first, post = model.residual in ("pre_norm", "layerscale"), model.residual == "deepnorm"
    if name in ("final_norm", "readout"):
        last = f"block_{model.n_layer - 1}/norm_2"
        return "final_norm" if first else last if post else None
    if post and rest == "attention/qkv":
        index = int(name.removeprefix("block_"))
        return f"block_{index - 1}/norm_2" if index else None
    norms = {"attention/qkv": 1, "mlp/up": 2} if first else {"mlp/up": 1, "": 2} if post else {}
    in_block = name.startswith("block_") and rest in norms
    return f"{name}/norm_{norms[rest]}" if in_block else None


def _at(tree: Any, path: str) -> Any:
    for name in filter(None, path.split("/")):
        tree = tree[name]
    return tree


def _square(x: Array) -> Array:
    return jnp.mean(jnp.square(x))
