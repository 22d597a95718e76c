"""Causal attention over long texts, in tiles: a program of one size, and memory linear in T.

The softmax over keys is computed online, one tile of keys after another (Milakov and Gimelshein
2018, arXiv:1805.02867), and the weights are computed again in the backward pass, as FlashAttention
does (Dao et al. 2022, arXiv:2205.14135).

Letters: B batch, T time, H heads, K width of a head, J heads of keys and values, G = H / J, N
tiles, Q positions of a tile, R = G Q rows of queries that read one head of keys, S keys of a tile.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from charjax.ops.dropout import keep_mask
from charjax.ops.linear import row_major
from charjax.ops.precision import wide_dtype

# Under which a policy of `jax.checkpoint` may save what the backward pass reads of a forward one.
ATTENDED = "attended"
# Positions of a tile. Dropout's masks are drawn tile by tile, so another number draws others.
TILE = 128


class Form(NamedTuple):
    """The constants of a program.

    Attributes:
      window: the most keys that a query sees; None: all before it.
      softcap: c of c tanh(score / c); 0 leaves scores.
      rate: part of the weights that is dropped.
      tile: Q.
    """

    window: int | None
    softcap: float
    rate: float
    tile: int


def long_attention(
    q_BTHK: Array,
    k_BTJK: Array,
    v_BTJK: Array,
    *,
    window: int | None = None,
    softcap: float = 0.0,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    tile: int = TILE,
) -> Array:
    """Compute `ops.attention.causal_attention` in tiles of queries and keys.

    Args:
      q_BTHK: queries (B, T, H, K).
      k_BTJK: keys (B, T, J, K).
      v_BTJK: values, likewise.
      window: as of `causal_attention`.
      softcap: likewise.
      dropout_rate: likewise.
      dropout_key: likewise; `tiled_keep_mask` gives the whole mask.
      tile: Q.

    Returns:
      (B, T, H, K). Only reverse-mode derivatives (and forward ones of those) are defined.
    """
    T, H = q_BTHK.shape[1:3]
    J, form = k_BTJK.shape[2], Form(window, softcap, dropout_rate, tile)
    q_NBJRK, k_NBJSK, v_NBJSK = (_tiles(x, J, tile) for x in (q_BTHK, k_BTJK, v_BTJK))
    o_NBJRK = _attend(q_NBJRK, k_NBJSK, v_NBJSK, dropout_key, form)
    return _whole(o_NBJRK, T, H)


def tiled_keep_mask(
    key: Array, rate: float, shape: tuple[int, int, int, int], heads: int, tile: int = TILE
) -> Array:
    """Return the mask of all weights that `long_attention` draws tile by tile.

    Args:
      key: typed PRNG key.
      rate: part that is dropped.
      shape: (B, H, T, T).
      heads: J.
      tile: Q.

    Returns:
      bool (B, H, T, T); true above the diagonal's tiles, which no query sees.
    """
    B, H, T, _ = shape
    N, Q = -(-T // tile), tile
    rows = []
    for i in range(N):
        drawn = [
            _tile_mask(key, rate, (B, heads, H // heads * Q, Q), i, j).reshape(B, H, Q, Q)
            for j in range(i + 1)
        ]
        later = jnp.ones((B, H, Q, (N - i - 1) * Q), bool)
        rows.append(jnp.concatenate([*drawn, later], axis=3))
    return jnp.concatenate(rows, axis=2)[:, :, :T, :T]


def _tiles(x_BTHK: Array, J: int, tile: int) -> Array:
    """Return (N, B, J, R, K): heads that share keys are rows of one; zeros are added at the end."""
    B, T, H, K = x_BTHK.shape
    N, G = -(-T // tile), H // J
    x_BTHK = jnp.pad(x_BTHK, ((0, 0), (0, N * tile - T), (0, 0), (0, 0)))
    x_NBJGQK = x_BTHK.reshape(B, N, tile, J, G, K).transpose(1, 0, 3, 4, 2, 5)
    return x_NBJGQK.reshape(N, B, J, G * tile, K)


def _whole(x_NBJRK: Array, T: int, H: int) -> Array:
    """Return (B, T, H, K), the inverse of `_tiles`."""
    N, B, J, R, K = x_NBJRK.shape
    tile = R // (H // J)
    x_BNQJGK = x_NBJRK.reshape(N, B, J, H // J, tile, K).transpose(1, 0, 4, 2, 3, 5)
    return x_BNQJGK.reshape(B, N * tile, H, K)[:, :T]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    q_NBJRK: Array, k_NBJSK: Array, v_NBJSK: Array, dropout_key: Array | None, form: Form
) -> Array:
    return _forward(q_NBJRK, k_NBJSK, v_NBJSK, dropout_key, form)[0]


def _forward(
    q_NBJRK: Array, k_NBJSK: Array, v_NBJSK: Array, dropout_key: Array | None, form: Form
) -> tuple[Array, tuple[Any, ...]]:
    """Save the logarithm of each query's sum of weights, not the weights."""
    dtype, wide = q_NBJRK.dtype, wide_dtype(q_NBJRK.dtype)

    def one_tile(_: None, row: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        i, q_BJRK = row

        def add_keys(j: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            o_BJRK, sum_BJR1, largest_BJR1 = sums
            scores_BJRS, _ = _scores(q_BJRK, k_NBJSK[j], i, j, form)
            new_BJR1 = jnp.maximum(largest_BJR1, jnp.max(scores_BJRS, axis=-1, keepdims=True))
            weights_BJRS = jnp.exp(scores_BJRS - new_BJR1)
            shrink_BJR1 = jnp.exp(largest_BJR1 - new_BJR1)
            sum_BJR1 = sum_BJR1 * shrink_BJR1 + jnp.sum(weights_BJRS, axis=-1, keepdims=True)
            dropped_BJRS = _drop(weights_BJRS, dropout_key, i, j, form).astype(dtype)
            part_BJRK = _product("bjrs,bjsk->bjrk", dropped_BJRS, v_NBJSK[j], wide)
            return o_BJRK * shrink_BJR1 + part_BJRK, sum_BJR1, new_BJR1

        B, J, R, K = q_BJRK.shape
        # Finite: a query may see no key of the first tile.
        least_BJR1 = jnp.full((B, J, R, 1), jnp.finfo(wide).min, wide)
        nothing = (jnp.zeros((B, J, R, K), wide), jnp.zeros((B, J, R, 1), wide), least_BJR1)
        sums = lax.fori_loop(_first_keys(i, form), i + 1, add_keys, nothing)
        o_BJRK, sum_BJR1, largest_BJR1 = sums
        return None, ((o_BJRK / sum_BJR1).astype(dtype), largest_BJR1 + jnp.log(sum_BJR1))

    numbers_N = jnp.arange(len(q_NBJRK), dtype=jnp.int32)
    _, (o_NBJRK, log_NBJR1) = lax.scan(one_tile, None, (numbers_N, q_NBJRK))
    o_NBJRK, log_NBJR1 = (checkpoint_name(x, ATTENDED) for x in (o_NBJRK, log_NBJR1))
    return o_NBJRK, (q_NBJRK, k_NBJSK, v_NBJSK, dropout_key, o_NBJRK, log_NBJR1)


def _backward(form: Form, saved: tuple[Any, ...], g_NBJRK: Array) -> Any:
    """Differentiate softmax: ds = p (dp - sum(p dp)), and sum(p dp) is g o of the query.

    One tile of keys after another, with scores transposed, (S, R): two of the three products of
    them then need no transposed left operand, which is slow.
    """
    q_NBJRK, k_NBJSK, v_NBJSK, dropout_key, o_NBJRK, log_NBJR1 = saved
    dtype, wide = q_NBJRK.dtype, wide_dtype(q_NBJRK.dtype)
    N, scale = len(q_NBJRK), 1 / math.sqrt(q_NBJRK.shape[-1])
    mean_NBJR = jnp.sum(g_NBJRK.astype(wide) * o_NBJRK.astype(wide), axis=-1)
    log_NBJ1R, mean_NBJ1R = log_NBJR1.swapaxes(3, 4), mean_NBJR[:, :, :, None]

    def one_tile(dq_NBJRK: Array, row: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        j, k_BJSK, v_BJSK = row

        def add_queries(i: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            dq_NBJRK, dk_BJSK, dv_BJSK = sums
            q_BJRK, g_BJRK = q_NBJRK[i], g_NBJRK[i]
            scores_BJSR, slope_BJSR = _scores(q_BJRK, k_BJSK, i, j, form, transposed=True)
            weights_BJSR = jnp.exp(scores_BJSR - log_NBJ1R[i])
            dp_BJSR = _product("bjsk,bjrk->bjsr", v_BJSK, g_BJRK, wide)
            drop = functools.partial(_drop, key=dropout_key, i=i, j=j, form=form, transposed=True)
            ds_BJSR = weights_BJSR * (drop(dp_BJSR) - mean_NBJ1R[i]) * scale
            if slope_BJSR is not None:
                ds_BJSR *= slope_BJSR
            ds_BJSR, p_BJSR = ds_BJSR.astype(dtype), drop(weights_BJSR).astype(dtype)
            ds_BJRS = row_major(ds_BJSR.swapaxes(2, 3))
            dq_BJRK = dq_NBJRK[i] + _product("bjrs,bjsk->bjrk", ds_BJRS, k_BJSK, wide)
            return (
                lax.dynamic_update_index_in_dim(dq_NBJRK, dq_BJRK, i, 0),
                dk_BJSK + _product("bjsr,bjrk->bjsk", ds_BJSR, q_BJRK, wide),
                dv_BJSK + _product("bjsr,bjrk->bjsk", p_BJSR, g_BJRK, wide),
            )

        nothing = jnp.zeros(k_BJSK.shape, wide)
        sums = (dq_NBJRK, nothing, nothing)
        dq_NBJRK, *rest = lax.fori_loop(j, _after_queries(j, N, form), add_queries, sums)
        dk_BJSK, dv_BJSK = (x.astype(dtype) for x in rest)
        return dq_NBJRK, (dk_BJSK, dv_BJSK)

    rows = (jnp.arange(N, dtype=jnp.int32), k_NBJSK, v_NBJSK)
    dq_NBJRK, (dk_NBJSK, dv_NBJSK) = lax.scan(one_tile, jnp.zeros(q_NBJRK.shape, wide), rows)
    return dq_NBJRK.astype(dtype), dk_NBJSK, dv_NBJSK, None


_attend.defvjp(_forward, _backward)


def _first_keys(i: Array, form: Form) -> Array | int:
    """Return the first tile of keys that tile i of queries sees."""
    if form.window is None:
        return 0
    return jnp.maximum(i * form.tile - (form.window - 1), 0) // form.tile


def _after_queries(j: Array, N: int, form: Form) -> Array | int:
    """Return the first tile of queries after those that see tile j of keys."""
    if form.window is None:
        return N
    last = (j + 1) * form.tile - 1 + form.window - 1
    return jnp.minimum(last // form.tile + 1, N)


def _scores(
    q_BJRK: Array, k_BJSK: Array, i: Array, j: Array, form: Form, *, transposed: bool = False
) -> tuple[Array, Array | None]:
    """Return the scores of a tile, -inf where a key is not seen, and the derivative of the cap.

    (B, J, R, S), or (B, J, S, R) transposed.
    """
    wide, K, Q = wide_dtype(q_BJRK.dtype), q_BJRK.shape[-1], form.tile
    shape = (q_BJRK.shape[2], k_BJSK.shape[2])
    if transposed:
        scores = _product("bjsk,bjrk->bjsr", k_BJSK, q_BJRK, wide)
        rows, columns = (lax.broadcasted_iota(jnp.int32, shape[::-1], axis) for axis in (1, 0))
    else:
        scores = _product("bjrk,bjsk->bjrs", q_BJRK, k_BJSK, wide)
        rows, columns = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    scores, slope = scores / math.sqrt(K), None
    if form.softcap:
        bent = jnp.tanh(scores / form.softcap)
        scores, slope = form.softcap * bent, 1 - jnp.square(bent)
    # Positions that a key lies before a query; rows are positions, head after head.
    distance = (i - j) * Q + rows % Q - columns
    is_seen = distance >= 0
    if form.window is not None:
        is_seen &= distance < form.window
    return jnp.where(is_seen, scores, -jnp.inf), slope


def _drop(
    weights: Array, key: Array | None, i: Array, j: Array, form: Form, *, transposed: bool = False
) -> Array:
    """Drop weights (B, J, R, S), or (B, J, S, R) transposed, by the mask of tile (i, j)."""
    if not form.rate or key is None:
        return weights
    shape = weights.swapaxes(2, 3).shape if transposed else weights.shape
    keep = _tile_mask(key, form.rate, shape, i, j)
    keep = keep.swapaxes(2, 3) if transposed else keep
    return jnp.where(keep, weights / (1 - form.rate), 0.0)


def _tile_mask(
    key: Array, rate: float, shape: tuple[int, ...], i: Array | int, j: Array | int
) -> Array:
    return keep_mask(jax.random.fold_in(jax.random.fold_in(key, i), j), rate, shape)


def _product(subscripts: str, a: Array, b: Array, wide: Any) -> Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=wide)
