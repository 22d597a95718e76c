"""Causal attention.

Letters: B batch, T time (queries), S time (keys), H heads, K width of a head, J heads of keys and
values, of which H is a multiple.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from charjax.ops.choice import QUERY_BLOCK, attention_version
from charjax.ops.dropout import keep_mask
from charjax.ops.linear import row_major
from charjax.ops.long_attention import long_attention, tiled_keep_mask
from charjax.ops.precision import wide_dtype


def causal_attention(
    q_BTHK: Array,
    k_BTJK: Array,
    v_BTJK: Array,
    *,
    window: int | None = None,
    softcap: float = 0.0,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    recompute: bool = False,
) -> Array:
    """softmax(q k' / sqrt(K)) v over the positions up to each query's (Vaswani et al. 2017).

    Args:
      q_BTHK: queries (B, T, H, K).
      k_BTJK: keys (B, T, J, K), of the same dtype; each head of them serves H / J of queries
        (Ainslie et al. 2023, arXiv:2305.13245).
      v_BTJK: values, likewise.
      window: the most keys that a query sees, its own position's included; None: all.
      softcap: c, by which scores become c tanh(score / c) (arXiv:2408.00118); 0 leaves them.
      dropout_rate: part of the weights set to 0, the others scaled up; 0 needs no key.
      dropout_key: typed PRNG key.
      recompute: save no weights for the backward pass, which computes them again. Tiles and cuDNN
        do so anyway.

    Returns:
      (B, T, H, K), of the dtype of q. Softmax is in float32.

    Raises:
      TypeError: a dropout_rate without a dropout_key.
    """
    version = attention_version(q_BTHK, dropout_rate, softcap)
    if dropout_rate and dropout_key is None:
        raise TypeError(f"dropout_rate is {dropout_rate}, but there is no dropout_key")
    settings: dict[str, Any] = {"window": window, "softcap": softcap, "dropout_rate": dropout_rate}
    if recompute and version in ("blocks", "plain"):

        @jax.checkpoint
        def attend(q_BTHK: Array, k_BTJK: Array, v_BTJK: Array, key: Array | None) -> Array:
            return causal_attention(q_BTHK, k_BTJK, v_BTJK, dropout_key=key, **settings)

        o_BTHK: Array = attend(q_BTHK, k_BTJK, v_BTJK, dropout_key)
        return o_BTHK
    if version == "tiles":
        return long_attention(q_BTHK, k_BTJK, v_BTJK, dropout_key=dropout_key, **settings)
    if version == "plain":
        return causal_attention_reference(
            q_BTHK, k_BTJK, v_BTJK, dropout_key=dropout_key, **settings
        )
    if version == "cudnn":
        local = None if window is None else (window - 1, 0)
        return jax.nn.dot_product_attention(
            q_BTHK,
            k_BTJK,
            v_BTJK,
            is_causal=True,
            local_window_size=local,
            implementation="cudnn",
        )
    keep_BHTS = _keep(q_BTHK, k_BTJK, dropout_rate, dropout_key)
    k_BTHK, v_BTHK = _repeated(k_BTJK, q_BTHK), _repeated(v_BTJK, q_BTHK)
    o_BHTK = _in_blocks(
        *(x.swapaxes(1, 2) for x in (q_BTHK, k_BTHK, v_BTHK)), keep_BHTS, dropout_rate, window
    )
    return o_BHTK.swapaxes(1, 2)


def causal_attention_reference(
    q_BTHK: Array,
    k_BTJK: Array,
    v_BTJK: Array,
    *,
    window: int | None = None,
    softcap: float = 0.0,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Array:
    """Compute `causal_attention` plainly; the same key drops the same weights."""
    k_BTHK, v_BTHK = _repeated(k_BTJK, q_BTHK), _repeated(v_BTJK, q_BTHK)
    scores_BHTS = jnp.einsum(
        "bthk,bshk->bhts", q_BTHK, k_BTHK, preferred_element_type=wide_dtype(q_BTHK.dtype)
    )
    if softcap:
        scale = math.sqrt(q_BTHK.shape[-1])
        # `_masked` divides by the scale.
        scores_BHTS = soft_capped(scores_BHTS / scale, softcap) * scale
    keep_BHTS = _keep(q_BTHK, k_BTJK, dropout_rate, dropout_key)
    masked_BHTS = _masked(scores_BHTS, q_BTHK.shape[-1], 0, window)
    weights_BHTS = jax.nn.softmax(masked_BHTS, axis=-1)
    weights_BHTS = _drop(weights_BHTS, keep_BHTS, dropout_rate)
    return jnp.einsum("bhts,bshk->bthk", weights_BHTS.astype(q_BTHK.dtype), v_BTHK)


def soft_capped(x: Array, cap: float) -> Array:
    """Return cap tanh(x / cap), which is x near 0 and within (-cap, cap) anywhere."""
    return cap * jnp.tanh(x / cap)


def _repeated(x_BTJK: Array, q_BTHK: Array) -> Array:
    """Return (B, T, H, K): each head of keys or values as often as heads of queries share it."""
    times = q_BTHK.shape[2] // x_BTJK.shape[2]
    return x_BTJK if times == 1 else jnp.repeat(x_BTJK, times, axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _in_blocks(
    q_BHTK: Array,
    k_BHTK: Array,
    v_BHTK: Array,
    keep_BHTS: Array | None,
    dropout_rate: float,
    window: int | None,
) -> Array:
    """Compute one block of queries after another, without the scores of keys after a whole block.

    Nor those of keys so far before it that no query of it sees them.

    Only reverse-mode derivatives (and forward ones of those) are defined.
    """
    return _blocks_forward(q_BHTK, k_BHTK, v_BHTK, keep_BHTS, dropout_rate, window)[0]


def _blocks_forward(
    q_BHTK: Array,
    k_BHTK: Array,
    v_BHTK: Array,
    keep_BHTS: Array | None,
    dropout_rate: float,
    window: int | None,
) -> tuple[Array, tuple[Any, ...]]:
    """Divide by the sum of the weights after the sum over keys: K numbers per query, not S."""
    dtype, wide = q_BHTK.dtype, wide_dtype(q_BHTK.dtype)
    outputs, weights, sums = [], [], []
    for first, start, end in _blocks(q_BHTK.shape[2], window):
        scores_BHTS = jnp.einsum(
            "bhtk,bhsk->bhts",
            q_BHTK[:, :, start:end],
            k_BHTK[:, :, first:end],
            preferred_element_type=wide,
        )
        scores_BHTS = _masked(scores_BHTS, q_BHTK.shape[-1], start - first, window)
        largest = jnp.max(scores_BHTS, axis=-1, keepdims=True)
        weights_BHTS = jnp.exp(scores_BHTS - largest)
        sums.append(jnp.sum(weights_BHTS, axis=-1, keepdims=True))
        weights_BHTS = weights_BHTS.astype(dtype)
        keep = _of_block(keep_BHTS, first, start, end)
        dropped_BHTS = _drop(weights_BHTS, keep, dropout_rate)
        outputs.append(jnp.einsum("bhts,bhsk->bhtk", dropped_BHTS, v_BHTK[:, :, first:end]))
        weights.append(weights_BHTS)
    rate_BHT1 = 1 / jnp.concatenate(sums, axis=2)
    o_BHTK = (jnp.concatenate(outputs, axis=2).astype(wide) * rate_BHT1).astype(dtype)
    return o_BHTK, (q_BHTK, k_BHTK, v_BHTK, keep_BHTS, o_BHTK, rate_BHT1, weights)


def _blocks_backward(
    dropout_rate: float, window: int | None, saved: tuple[Any, ...], g_BHTK: Array
) -> Any:
    """Differentiate softmax: ds = p (dp - sum(p dp)), and sum(p dp) is g o of the query."""
    q_BHTK, k_BHTK, v_BHTK, keep_BHTS, o_BHTK, rate_BHT1, weights = saved
    dtype, wide = q_BHTK.dtype, wide_dtype(q_BHTK.dtype)
    scale = 1 / math.sqrt(q_BHTK.shape[-1])
    g_BHTK = g_BHTK.astype(wide) * rate_BHT1
    mean_BHT1 = jnp.sum(g_BHTK * o_BHTK.astype(wide), axis=-1, keepdims=True)
    g_BHTK = g_BHTK.astype(dtype)
    dq, dk, dv = [], [], []
    blocks = _blocks(q_BHTK.shape[2], window)
    for (first, start, end), weights_BHTS in zip(blocks, weights, strict=True):
        g, v = g_BHTK[:, :, start:end], v_BHTK[:, :, first:end]
        keep = _of_block(keep_BHTS, first, start, end)
        dp_BHTS = jnp.einsum("bhtk,bhsk->bhts", g, v, preferred_element_type=wide)
        dp_BHTS = _drop(dp_BHTS, keep, dropout_rate) - mean_BHT1[:, :, start:end]
        ds_BHTS = (weights_BHTS.astype(wide) * dp_BHTS * scale).astype(dtype)
        dropped_BHTS = _drop(weights_BHTS, keep, dropout_rate)
        dq.append(jnp.einsum("bhts,bhsk->bhtk", ds_BHTS, k_BHTK[:, :, first:end]))
        # Products with a transposed left operand are slow, so it is copied into that order first.
        dk.append(jnp.einsum("bhst,bhtk->bhsk", _transposed(ds_BHTS), q_BHTK[:, :, start:end]))
        dv.append(jnp.einsum("bhst,bhtk->bhsk", _transposed(dropped_BHTS), g))
    return jnp.concatenate(dq, axis=2), _summed(dk, blocks), _summed(dv, blocks), None


_in_blocks.defvjp(_blocks_forward, _blocks_backward)


def _blocks(T: int, window: int | None) -> list[tuple[int, int, int]]:
    """Return of each block of queries the first key that it sees, its start and its end.

    The first key is the first one of a block, too, so that keys can be summed block by block.
    """
    starts = range(0, T, QUERY_BLOCK)
    reach = T if window is None else window - 1
    return [
        (max(start - reach, 0) // QUERY_BLOCK * QUERY_BLOCK, start, min(start + QUERY_BLOCK, T))
        for start in starts
    ]


def _of_block(keep_BHTS: Array | None, first: int, start: int, end: int) -> Array | None:
    return None if keep_BHTS is None else keep_BHTS[:, :, start:end, first:end]


def _transposed(x_BHTS: Array) -> Array:
    """Return (B, H, S, T), in that order in memory."""
    return row_major(x_BHTS.swapaxes(2, 3))


def _summed(parts_BHSK: list[Array], blocks: list[tuple[int, int, int]]) -> Array:
    """Sum, in float32, the parts of all blocks of queries; each begins at the first key seen."""
    dtype = parts_BHSK[0].dtype
    wide = wide_dtype(dtype)
    whole = []
    for _, start, end in blocks:
        parts = [
            part[:, :, start - first : end - first].astype(wide)
            for part, (first, query, _) in zip(parts_BHSK, blocks, strict=True)
            if first <= start <= query
        ]
        whole.append(functools.reduce(jnp.add, parts).astype(dtype))
    return jnp.concatenate(whole, axis=2)


def _keep(
    q_BTHK: Array, k_BTJK: Array, dropout_rate: float, dropout_key: Array | None
) -> Array | None:
    """Draw a mask of the weights (B, H, T, S) that are not dropped; None without dropout."""
    if not dropout_rate:
        return None
    assert dropout_key is not None
    B, T, H, _ = q_BTHK.shape
    if attention_version(q_BTHK, dropout_rate) == "tiles":
        return tiled_keep_mask(dropout_key, dropout_rate, (B, H, T, T), k_BTJK.shape[2])
    return keep_mask(dropout_key, dropout_rate, (B, H, T, T))


def _masked(scores_BHTS: Array, K: int, start: int, window: int | None) -> Array:
    """Divide by sqrt(K), and set keys that a query does not see to -inf.

    The first query is at position `start`, counted from the first key.
    """
    T, S = scores_BHTS.shape[-2:]
    is_seen_TS = jnp.tri(T, S, start, dtype=bool)
    if window is not None:
        is_seen_TS &= ~jnp.tri(T, S, start - window, dtype=bool)
    return jnp.where(is_seen_TS, scores_BHTS / math.sqrt(K), -jnp.inf)


def _drop(weights_BHTS: Array, keep_BHTS: Array | None, dropout_rate: float) -> Array:
    if keep_BHTS is None:
        return weights_BHTS
    return jnp.where(keep_BHTS, weights_BHTS / (1 - dropout_rate), 0.0)
