"""The singular values of a network's input-output Jacobian.

Letters: B batch, P places, D width of the input, H width of the output, K singular values.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from charjax.initlab.activations.families import find_taps
from charjax.initlab.activations.intercept import Arrays, see, see_slopes
from charjax.initlab.activations.taps import Pass
from charjax.models.contract import CharModel


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Of the singular values of a Jacobian.

    Attributes:
      mean: of the singular values.
      std: of them.
      largest: singular value.
      smallest: singular value; 0 below what float32 can tell from it.
      condition: the largest over the smallest, infinite over 0: a layer norm before the readout
        takes out two directions.
      rank: how many are not 0.
      squared_mean: mean of their squares.
      squared_relative_variance: variance of the squares over their squared mean, as
        theory.JacobianMoments has it.
    """

    mean: float
    std: float
    largest: float
    smallest: float
    condition: float
    rank: int
    squared_mean: float
    squared_relative_variance: float


def embedding_jacobian(model: CharModel, variables: Any, inputs_BS: Array) -> Array:
    """d (what the readout reads at a row's last place) / d (the embeddings of its context).

    Of the first row of a batch; with batch norm the others take part in its statistics, else they
    are not computed. Every vector that the row has in the layer "token_embedding" counts.

    Args:
      model: of a family with a hidden layer.
      variables: as of `measure_layers`.
      inputs_BS: tokens.

    Returns:
      (H, P D) float32.

    Raises:
      ValueError: the embedding is the readout (a bigram): there is nothing between.
    """
    taps = find_taps(model)
    if len(taps) < 3:
        raise ValueError("there is nothing between the embedding and the logits")
    embedding, hidden = taps[0], taps[-2]
    doors = embedding.doors | hidden.doors
    if "batch_stats" not in variables:
        inputs_BS = inputs_BS[:1]

    def output(arrays: Arrays) -> Array:
        h_BPD = hidden.value(Pass(variables, inputs_BS, 1, arrays))
        return h_BPD[0, -1].astype(jnp.float32)

    def gradient(direction_H: Array) -> Array:
        watched = see_slopes(
            model,
            variables,
            inputs_BS,
            1,
            doors,
            lambda _, arrays: jnp.dot(output(arrays), direction_H),
            train=True,
        )
        seen = Pass(variables, inputs_BS, 1, watched.arrays)
        slope_BPD = embedding.gradient(seen, watched.slopes)
        return slope_BPD[0].astype(jnp.float32).ravel()

    shape = jax.eval_shape(
        lambda v: output(see(model, v, inputs_BS, 1, doors, train=True)[1]), variables
    )
    return jax.vmap(gradient)(jnp.eye(shape.shape[0]))


def spectrum(jacobian_HD: ArrayLike) -> Spectrum:
    """The singular values of a matrix that was computed in float32, as numbers."""
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
