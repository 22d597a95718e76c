"""Causal attention.

Letters: B batch, T time (queries), S time (keys), H heads, K width of a head.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from charjax.ops.choice import QUERY_BLOCK, attention_version
from charjax.ops.precision import wide_dtype


def causal_attention(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHK: Array,
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Array:
    """softmax(q k' / sqrt(K)) v over the positions up to each query's (Vaswani et al. 2017).

    Args:
      q_BTHK: queries (B, T, H, K).
      k_BTHK: keys, of the same shape and dtype.
      v_BTHK: values, of the same shape and dtype.
      dropout_rate: part of the weights set to 0, the others scaled up; 0 needs no key.
      dropout_key: typed PRNG key.

    Returns:
      (B, T, H, K), of the dtype of q. Softmax is in float32.

    Raises:
      TypeError: a dropout_rate without a dropout_key.
    """
    version = attention_version(q_BTHK, dropout_rate)
    if version == "plain":
        return causal_attention_reference(
            q_BTHK, k_BTHK, v_BTHK, dropout_rate=dropout_rate, dropout_key=dropout_key
        )
    if version == "cudnn":
        return jax.nn.dot_product_attention(
            q_BTHK, k_BTHK, v_BTHK, is_causal=True, implementation="cudnn"
        )
    q_BHTK, k_BHTK, v_BHTK = (x.swapaxes(1, 2) for x in (q_BTHK, k_BTHK, v_BTHK))
    keep_BHTS = _keep(q_BTHK, dropout_rate, dropout_key)
    outputs, T = [], q_BTHK.shape[1]
    for start in range(0, T, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, T)
        # The scores of keys that come after the whole block are not computed.
        scores_BHTS = jnp.einsum(
            "bhtk,bhsk->bhts",
            q_BHTK[:, :, start:end],
            k_BHTK[:, :, :end],
            preferred_element_type=wide_dtype(q_BTHK.dtype),
        )
        keep = None if keep_BHTS is None else keep_BHTS[:, :, start:end, :end]
        weights_BHTS = _weights(scores_BHTS, q_BTHK, start, keep, dropout_rate)
        outputs.append(jnp.einsum("bhts,bhsk->bhtk", weights_BHTS, v_BHTK[:, :, :end]))
    return jnp.concatenate(outputs, axis=2).swapaxes(1, 2)


def causal_attention_reference(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHK: Array,
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Array:
    """The plain version of `causal_attention`; the same key drops the same weights."""
    scores_BHTS = jnp.einsum(
        "bthk,bshk->bhts", q_BTHK, k_BTHK, preferred_element_type=wide_dtype(q_BTHK.dtype)
    )
    keep_BHTS = _keep(q_BTHK, dropout_rate, dropout_key)
    weights_BHTS = _weights(scores_BHTS, q_BTHK, 0, keep_BHTS, dropout_rate)
    return jnp.einsum("bhts,bshk->bthk", weights_BHTS, v_BTHK)


def _keep(q_BTHK: Array, dropout_rate: float, dropout_key: Array | None) -> Array | None:
    """Which weights (B, H, T, S) are not dropped; None: all are kept."""
    if not dropout_rate:
        return None
    if dropout_key is None:
        raise TypeError(f"dropout_rate is {dropout_rate}, but there is no dropout_key")
    B, T, H, _ = q_BTHK.shape
    return jax.random.bernoulli(dropout_key, 1 - dropout_rate, (B, H, T, T))


def _weights(
    scores_BHTS: Array, q_BTHK: Array, start: int, keep_BHTS: Array | None, dropout_rate: float
) -> Array:
    """Softmax over the keys up to each query's own, the first query being at `start`."""
    T, S = scores_BHTS.shape[-2:]
    seen_TS = jnp.tri(T, S, start, dtype=bool)
    scores_BHTS = jnp.where(seen_TS, scores_BHTS / math.sqrt(q_BTHK.shape[-1]), -jnp.inf)
    weights_BHTS = jax.nn.softmax(scores_BHTS, axis=-1)
    if keep_BHTS is not None:
        weights_BHTS = jnp.where(keep_BHTS, weights_BHTS / (1 - dropout_rate), 0.0)
    return weights_BHTS.astype(q_BTHK.dtype)
