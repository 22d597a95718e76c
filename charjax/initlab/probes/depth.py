"""Correlation of inputs and of positions, layer by layer.

Letters: B batch, T targets, P positions, D width, N vectors, L layers.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from charjax import theory
from charjax.initlab.activations.layers import counted_places, find_layers
from charjax.initlab.predictions import Prediction, WeightMoments
from charjax.models.contract import CharModel


def input_correlation(z_BPD: Array, weights_BT: Array) -> Array:
    """Return the mean correlation of two contexts in a layer, at the position of the last target.

    z_a z_b / (|z_a| |z_b|) of the pre-activations, not centred, over all pairs of rows (Poole et
    al. 2016).

    Args:
      z_BPD: a layer's pre-activations.
      weights_BT: 1 for a target, 0 for padding, in the last T positions.

    Returns:
      float32 scalar; NaN for a single row.
    """
    T, P = weights_BT.shape[1], z_BPD.shape[1]
    last_B = P - 1 - jnp.argmax(weights_BT[:, ::-1] > 0, axis=1)
    if P < T or len(z_BPD) != len(weights_BT):
        return jnp.float32(jnp.nan)
    z_BD = jnp.take_along_axis(z_BPD, last_B[:, None, None], axis=1)[:, 0]
    return _mean_cosine(z_BD, jnp.ones(len(z_BD), bool))


def predict_correlation(
    model: CharModel, moments: WeightMoments, prediction: Prediction, measured_L: ArrayLike
) -> NDArray[np.float64]:
    """Predict `input_correlation` (theory.correlation_map) from its value in the embedding.

    Args:
      model: of a trained family.
      moments: of its parameters.
      prediction: of its layers.
      measured_L: the measured correlations, of which the embedding's is used.

    Returns:
      (L,) float64; NaN where no theory applies: families that are not plain stacks, and batch
      norm, which makes the rows of a batch depend on each other.
    """
    layers = find_layers(model)
    c_L = np.full(len(layers), math.nan)
    if any(layer.reads != "previous" or layer.norm is not None for layer in layers[1:]):
        return c_L
    c = float(np.asarray(measured_L)[0])
    for i in range(1, len(layers)):
        weights, biases = float(moments.weights[i]), float(moments.biases[i])
        q = float(prediction.preactivation_std[i]) ** 2
        if not weights or not q or math.isnan(c):
            break
        if i == 1:
            c = ((q - biases) * c + biases) / q
        else:
            before = theory.find_activation(layers[i - 1].activation)
            square = float(prediction.preactivation_std[i - 1]) ** 2
            c = theory.correlation_map(min(c, 1.0), square, before, weights, biases)
        c_L[i] = c
    return c_L


def token_cosine(h_BPD: Array, weights_BT: Array) -> Array:
    """Return the mean cosine between the vectors at different positions of a row.

    It is 1 where all positions have the same vector, as in rank collapse (Dong et al. 2021).
    Padding does not count; rows with fewer than two positions are left out.

    Args:
      h_BPD: a layer's output.
      weights_BT: as of `input_correlation`.

    Returns:
      float32 scalar; NaN where no row has two positions.
    """
    counted_BP = counted_places(weights_BT, *h_BPD.shape[:2])
    return jnp.nanmean(jax.vmap(_mean_cosine)(h_BPD, counted_BP))


def effective_rank(h_ND: ArrayLike) -> float:
    """Return exp of the entropy of the singular values over their sum (Roy and Vetterli 2007).

    Args:
      h_ND: vectors, as rows.

    Returns:
      A number from 1 to min(N, D); NaN for a matrix of zeros.
    """
    values = np.linalg.svd(np.asarray(h_ND, np.float64), compute_uv=False)
    shares = values[values > 0] / np.sum(values)
    return math.exp(-float(np.sum(shares * np.log(shares)))) if len(shares) else math.nan


def _mean_cosine(h_ND: Array, counted_N: Array) -> Array:
    """Return the mean cosine of all pairs of counted rows; NaN where a vector is 0."""
    unit_ND = h_ND / jnp.linalg.norm(h_ND, axis=1, keepdims=True)
    unit_ND = jnp.where(counted_N[:, None], unit_ND, 0.0)
    count = jnp.sum(counted_N.astype(jnp.float32))
    total = jnp.sum(jnp.square(jnp.sum(unit_ND, axis=0)))
    return (total - count) / (count * (count - 1))
