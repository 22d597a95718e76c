"""The entropy of attention heads.

Letters: B batch, T time (queries), S time (keys), H heads, E = 3 H K with K the width of a head,
L blocks.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from charjax import theory
from charjax.initlab.activations.layers import Layer, counted_places, find_layers
from charjax.initlab.predictions import Prediction
from charjax.models.contract import CharModel


def attention_entropy(
    model: CharModel, qkv_BTE: Array, weights_BT: Array, params: Any = None
) -> Array:
    """Return the entropy of each head's weights, mean over positions, in nats: (H,) float32.

    Args:
      model: a model with attention.
      qkv_BTE: passed to `CharModel.attention_weights`.
      weights_BT: 1 for a target, 0 for padding, which does not count.
      params: of the attention, likewise.
    """
    p_BHTS = model.attention_weights(qkv_BTE, params)
    entropy_BHT = -jnp.sum(p_BHTS * jnp.log(jnp.where(p_BHTS > 0, p_BHTS, 1.0)), axis=-1)
    counted_BT = counted_places(weights_BT, *qkv_BTE.shape[:2]).astype(jnp.float32)
    return jnp.einsum("bht,bt->h", entropy_BHT, counted_BT) / jnp.sum(counted_BT)


def attention_inputs(
    layers: tuple[Layer, ...], outputs: Sequence[Array], params: Any
) -> list[tuple[Array, Any]]:
    """Return (queries, keys and values side by side, parameters) of each block's attention.

    Args:
      layers: of the model.
      outputs: of the layers.
      params: of the model.
    """
    found = []
    for i, layer in enumerate(layers):
        module, _, name = layer.name.rpartition("/")
        if not module.endswith("attention") or name not in ("qkv", "query"):
            continue
        # Keys and values of fewer heads have a layer of their own, the next one.
        parts = outputs[i : i + 1 + (name == "query")]
        module_params = params
        for part in module.split("/"):
            module_params = module_params[part]
        found.append((jnp.concatenate(parts, axis=-1), module_params))
    return found


class EntropyTheory(NamedTuple):
    """The predicted entropy of attention, mean over positions, in nats.

    Attributes:
      uniform: the mean of log t: equal weights on t keys, or on as many as a window has.
      predicted_L: by block, of theory.causal_attention at the scores' predicted size; NaN where
        that size is not known, and where queries and keys are normalised, scores capped or seen
        through a window.
    """

    uniform: float
    predicted_L: NDArray[np.float64]


def predict_entropy(
    model: CharModel, prediction: Prediction, weights_BT: ArrayLike, positions: int
) -> EntropyTheory:
    """Predict `attention_entropy`, for uncorrelated keys.

    Args:
      model: a model with attention.
      prediction: of its layers. Queries and keys of variance q have scores of standard
        deviation q.
      weights_BT: as of `attention_entropy`.
      positions: T.
    """
    counted_BT = counted_places(jnp.asarray(weights_BT), len(np.asarray(weights_BT)), positions)
    share_T = np.asarray(counted_BT, np.float64).sum(axis=0)
    share_T /= share_T.sum()
    predicted = []
    stds, names = prediction.preactivation_std, [layer.name for layer in find_layers(model)]
    window = getattr(model, "window", None) or positions
    changes_scores = any(
        getattr(model, name, None) for name in ("qk_norm", "attn_softcap", "window")
    )
    # It comes with queries of another size than keys.
    changes_scores |= getattr(model, "attention_scale", "inverse_sqrt") != "inverse_sqrt"
    for i, name in enumerate(names):
        if not name.endswith(("attention/qkv", "attention/query")):
            continue
        score = stds[i] * stds[i + name.endswith("query")]
        known = not math.isnan(score) and not changes_scores
        means_T = theory.causal_attention(score, positions).entropy_T if known else math.nan
        predicted.append(float(np.sum(share_T * means_T)))
    uniform = float(share_T @ np.log(np.minimum(np.arange(1.0, positions + 1), window)))
    return EntropyTheory(uniform, np.array(predicted))
