"""The sublayers of a transformer's block: attention over the positions so far, and an MLP.

Letters: B batch, T time, N outputs, C context length (the cache's length), D width of the
residual stream, H heads, K width of a head (D = H K), E = 3 D, S time of the keys, F width
within the MLP.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.typing import DTypeLike

from charjax.models.layers import Linear
from charjax.models.own import activation_of
from charjax.ops.activation import gelu, gelu_tanh
from charjax.ops.attention import causal_attention
from charjax.ops.precision import wide_dtype
from charjax.ops.rotary import rotary_angles, rotate

# Or an activation of the user's own.
Gelu = Literal["gelu", "gelu_tanh"] | str
_GELUS = {"gelu": gelu, "gelu_tanh": gelu_tanh}


class KeysValues(NamedTuple):
    """One layer's keys and values (B, H, C, K): with heads first, decoding on a CPU is fastest."""

    keys: Array
    values: Array


class FeedForward(nn.Module):
    """GELU(x W_up) W_down, with F = 4 D."""

    bias: bool
    activation: Gelu
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        """(B, T, D) to (B, T, D)."""
        D = x_BTD.shape[-1]
        activation = _GELUS.get(self.activation) or activation_of(self.activation)
        h_BTF = activation(_linear(self, 4 * D, "up")(x_BTD))
        return _linear(self, D, "down")(h_BTF)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(K)) v in H heads, each position over itself and those before it."""

    n_head: int
    dropout: float
    bias: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        cache: KeysValues | None,
        start: Array | int,
        angles: tuple[Array, Array] | None,
        *,
        num_outputs: int,
        train: bool,
    ) -> tuple[Array, KeysValues | None]:
        """Attend, with the arguments and results of `charjax.models.transformer.Block`."""
        B, T, D = x_BTD.shape
        qkv_BTHK = _linear(self, 3 * D, "qkv")(x_BTD).reshape(B, T, 3 * self.n_head, -1)
        q_BTHK, k_BTHK, v_BTHK = jnp.split(qkv_BTHK, 3, axis=2)
        if angles is not None:
            q_BTHK, k_BTHK = rotate(q_BTHK, angles), rotate(k_BTHK, angles)
        if cache is None:
            rate = self.dropout if train else 0.0
            key = self.make_rng("dropout") if rate else None
            o_BTHK = causal_attention(q_BTHK, k_BTHK, v_BTHK, dropout_rate=rate, dropout_key=key)
        else:
            cache = _append(cache, k_BTHK, v_BTHK, start)
            o_BTHK = cached_attention(q_BTHK, cache, start)
        o_BND = o_BTHK[:, -num_outputs:].reshape(B, num_outputs, D)
        return _linear(self, D, "out")(o_BND), cache


def _append(cache: KeysValues, k_BTHK: Array, v_BTHK: Array, start: Array | int) -> KeysValues:
    def write(old_BHCK: Array, new_BTHK: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(old_BHCK, new_BTHK.swapaxes(1, 2), start, axis=2)

    return KeysValues(write(cache.keys, k_BTHK), write(cache.values, v_BTHK))


def cached_attention(q_BTHK: Array, cache: KeysValues, start: Array | int) -> Array:
    """Attend from the T queries at start, start + 1, ... over the keys up to each position.

    Args:
      q_BTHK: (B, T, H, K).
      cache: keys and values with those of the T positions already in it.
      start: position of the first query.

    Returns:
      (B, T, H, K).
    """
    T, K = q_BTHK.shape[1], q_BTHK.shape[-1]
    C = cache.keys.shape[2]
    scores_BHTC = jnp.einsum(
        "bthk,bhck->bhtc", q_BTHK, cache.keys, preferred_element_type=wide_dtype(q_BTHK.dtype)
    ) / math.sqrt(K)
    visible_TC = jnp.arange(C) <= start + jnp.arange(T)[:, None]
    weights_BHTC = jax.nn.softmax(jnp.where(visible_TC, scores_BHTC, -jnp.inf), axis=-1)
    return jnp.einsum("bhtc,bhck->bthk", weights_BHTC.astype(q_BTHK.dtype), cache.values)


def _linear(parent: Attention | FeedForward, features: int, name: str) -> Linear:
    return Linear(features, parent.bias, parent.dtype, name=name)


def attention_weights(qkv_BTE: Array, n_head: int, *, rotary: bool) -> Array:
    """Return the weights of causal attention, (B, H, T, S) float32, see CharModel."""
    B, T, _ = qkv_BTE.shape
    qkv_BTHK = qkv_BTE.reshape(B, T, 3 * n_head, -1)
    q_BTHK, k_BTHK, _ = jnp.split(qkv_BTHK, 3, axis=2)
    if rotary:
        angles = rotary_angles(jnp.arange(T), q_BTHK.shape[-1])
        q_BTHK, k_BTHK = rotate(q_BTHK, angles), rotate(k_BTHK, angles)
    scores_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK) / math.sqrt(q_BTHK.shape[-1])
    visible_TS = jnp.tri(T, dtype=bool)
    return jax.nn.softmax(jnp.where(visible_TS, scores_BHTS, -jnp.inf), axis=-1)
