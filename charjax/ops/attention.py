"""Causal attention.

Letters: B batch, T time (queries), S time (keys), H heads, K width of a head.
"""

import jax
import jax.numpy as jnp
from jax import Array


def causal_attention(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHK: Array,
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Array:
    """softmax(q k' / sqrt(K)) v over the positions up to each query's (Vaswani et al. 2017)."""
    T, K = q_BTHK.shape[1], q_BTHK.shape[-1]
    scores_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK).astype(jnp.float32) * K**-0.5
    scores_BHTS = jnp.where(jnp.tri(T, dtype=bool), scores_BHTS, -jnp.inf)
    weights_BHTS = jax.nn.softmax(scores_BHTS, axis=-1)
    if dropout_rate:
        assert dropout_key is not None
        kept_BHTS = jax.random.bernoulli(dropout_key, 1 - dropout_rate, weights_BHTS.shape)
        weights_BHTS = jnp.where(kept_BHTS, weights_BHTS / (1 - dropout_rate), 0.0)
    return jnp.einsum("bhts,bshk->bthk", weights_BHTS.astype(v_BTHK.dtype), v_BTHK)
