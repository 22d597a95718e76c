"""The singular values of a network's input-output Jacobian.

Letters: B batch, P positions, D width of the input, H width of the output, K singular values.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from charjax import theory
from charjax.initlab.activations.intercept import record, record_gradients
from charjax.initlab.activations.layers import find_layers
from charjax.initlab.predictions import Prediction, WeightMoments
from charjax.models.contract import CharModel
from charjax.models.taps import Arrays, Recording


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Statistics of the singular values of a Jacobian.

    Attributes:
      mean: mean singular value.
      std: standard deviation of the singular values.
      largest: largest singular value.
      smallest: smallest singular value; 0 if below the resolution of float32.
      condition: largest / smallest; infinite where that is 0: a layer norm before the readout
        projects out two directions.
      rank: number of singular values above 0.
      squared_mean: mean of the squares.
      squared_relative_variance: variance of the squares over their squared mean, as in
        theory.JacobianMoments.
    """

    mean: float
    std: float
    largest: float
    smallest: float
    condition: float
    rank: int
    squared_mean: float
    squared_relative_variance: float


class SpectrumTheory(NamedTuple):
    """Predictions for `Spectrum`; NaN where no theory applies.

    Attributes:
      squared_mean: of the squared singular values.
      squared_relative_variance: of them, for Gaussian weights.
    """

    squared_mean: float
    squared_relative_variance: float


def predict_spectrum(
    model: CharModel, moments: WeightMoments, prediction: Prediction, shape: tuple[int, int]
) -> SpectrumTheory:
    """Predict the spectrum of `embedding_jacobian` for a stack of wide layers without norms.

    The sum of squares is the number of outputs times the product over layers of σ_w² E[φ'(z)²].
    The variance is that of theory.jacobian_moments, for layers that are all as wide as the input.

    Args:
      model: of a trained family.
      moments: of its parameters.
      prediction: of its layers.
      shape: (H, P D) of the Jacobian.
    """
    layers = find_layers(model)[1:-1]
    unknown = SpectrumTheory(math.nan, math.nan)
    if any(layer.reads != "previous" or layer.norm is not None for layer in layers):
        return unknown
    mean, relative = 1.0, 0.0
    for i, layer in enumerate(layers, start=1):
        weights, q = float(moments.weights[i]), float(prediction.preactivation_std[i]) ** 2
        if not weights > 0 or not q > 0:
            return unknown
        activation = theory.find_activation(layer.activation)
        first, second = (theory.derivative_moment(q, activation, k) for k in (1, 2))
        if first == 0:
            return unknown
        mean *= weights * first
        relative += second / first**2
    H, inputs = shape
    return SpectrumTheory(mean * H / min(shape), relative if inputs == H else math.nan)


def embedding_jacobian(model: CharModel, variables: Any, inputs_BS: Array) -> Array:
    """Return d (input of the readout at the last position) / d (embeddings of the context).

    The Jacobian is that of a batch's first row; the other rows are computed only where batch norm
    takes its statistics from them. Every vector of the row in the layer "token_embedding" counts.

    Args:
      model: of a family with a hidden layer.
      variables: as for `measure_layers`.
      inputs_BS: tokens.

    Returns:
      (H, P D) float32.

    Raises:
      ValueError: the embedding is the readout (a bigram), with nothing between the two.
    """
    taps = model.taps()
    if len(taps) < 3:
        raise ValueError("there is nothing between the embedding and the logits")
    embedding, hidden = taps[0], taps[-2]
    points = embedding.points | hidden.points
    if "batch_stats" not in variables:
        inputs_BS = inputs_BS[:1]

    def output(arrays: Arrays) -> Array:
        h_BPD = hidden.value(Recording(variables, inputs_BS, 1, arrays))
        return h_BPD[0, -1].astype(jnp.float32)

    def gradient(direction_H: Array) -> Array:
        recorded = record_gradients(
            model,
            variables,
            inputs_BS,
            1,
            points,
            lambda _, arrays: jnp.dot(output(arrays), direction_H),
            train=True,
        )
        recording = Recording(variables, inputs_BS, 1, recorded.arrays)
        gradient_BPD = embedding.gradient(recording, recorded.gradients)
        return gradient_BPD[0].astype(jnp.float32).ravel()

    shape = jax.eval_shape(
        lambda v: output(record(model, v, inputs_BS, 1, points, train=True)[1]), variables
    )
    return jax.vmap(gradient)(jnp.eye(shape.shape[0]))


def spectrum(jacobian_HD: ArrayLike) -> Spectrum:
    """Summarise the singular values of a matrix that was computed in float32."""
    matrix_HD = np.asarray(jacobian_HD, np.float64)
    values_K = np.linalg.svd(matrix_HD, compute_uv=False)
    noise = values_K[0] * max(matrix_HD.shape) * np.finfo(np.float32).eps
    values_K = np.where(values_K > noise, values_K, 0.0)
    squares_K = values_K**2
    mean = float(squares_K.mean())
    return Spectrum(
        mean=float(values_K.mean()),
        std=float(values_K.std()),
        largest=float(values_K[0]),
        smallest=float(values_K[-1]),
        condition=float(values_K[0] / values_K[-1]) if values_K[-1] else math.inf,
        rank=int(np.count_nonzero(values_K)),
        squared_mean=mean,
        squared_relative_variance=float(squares_K.var() / mean**2) if mean else math.nan,
    )
