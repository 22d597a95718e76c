"""The transformer: a decoder in the form of GPT-2.

Letters: B batch, T time, N outputs, C context length (the cache's length), D width of the
residual stream, H heads, K width of a head (D = H K), V vocabulary.
"""

import math
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.typing import DTypeLike

from charjax.models.contract import CharModel, Memory, check_window
from charjax.models.layers import (
    EMBEDDING,
    ENDS,
    Embedding,
    Linear,
    Norm,
    Readout,
    float32_logits,
)
from charjax.models.roles import Parameter, Role, dense
from charjax.ops.activation import gelu, gelu_tanh
from charjax.ops.attention import causal_attention
from charjax.ops.precision import wide_dtype
from charjax.ops.rotary import rotary_angles, rotate

Residual = Literal["pre_norm", "deepnorm", "rezero", "layerscale", "plain"]
_NORM_FIRST = ("pre_norm", "layerscale")
Gelu = Literal["gelu", "gelu_tanh"]
_GELUS = {"gelu": gelu, "gelu_tanh": gelu_tanh}


class KeysValues(NamedTuple):
    """One layer's keys and values (B, H, C, K): with heads first, decoding on a CPU is fastest."""

    keys: Array
    values: Array


class Cache(NamedTuple):
    """Every layer's keys and values, and how many of the C places are taken (int32)."""

    layers: tuple[KeysValues, ...]
    length: Array


class Transformer(CharModel):
    """GPT-2 (Radford et al. 2019; Vaswani et al. 2017): normalisation before each sublayer.

        x = E[tokens] + P[positions]
        x = x + Attention(LN(x)), then x = x + MLP(LN(x)), in each of n_layer blocks
        logits = LN(x) E^T, or LN(x) W if not tied

    Dropout is where nanoGPT has it: on the embeddings, the weights of the attention and the
    output of every sublayer. With rotary positions (Su et al. 2021) there is no P: queries and
    keys are turned by angles that grow with the position.

    Attributes:
      context_length: C.
      n_layer: blocks.
      n_head: H.
      d_model: D.
      dropout: rate.
      bias: whether linear layers and norms have biases; the readout has none, as in GPT-2.
      tie_embeddings: whether the readout is the token embedding.
      positions: "learned" or "rotary".
      residual: how a sublayer is joined to the stream, see Block.
      activation: "gelu" (by erf, as nanoGPT) or "gelu_tanh" (its approximation, as GPT-2, minGPT
        and makemore).
      scale_embeddings: whether x = sqrt(D) E[tokens] + P[positions], as in Vaswani et al. 2017; a
        tied readout is E nevertheless.
    """

    context_length: int
    n_layer: int
    n_head: int
    d_model: int
    dropout: float
    bias: bool
    tie_embeddings: bool
    positions: Literal["learned", "rotary"]
    residual: Residual = "pre_norm"
    activation: Gelu = "gelu"
    scale_embeddings: bool = False
    memory: ClassVar[Memory] = "windowed"

    @property
    def roles(self) -> tuple[tuple[str, Parameter], ...]:  # type: ignore[override]
        """Of the parameters; a scheme may draw by the activation."""
        return (
            *ENDS,
            ("position_embedding/embedding", EMBEDDING),
            (
                r"block_\d+/attention/qkv/kernel",
                dense(gates=3, gate_names=("query", "key", "value"), in_block=True),
            ),
            (r"block_\d+/mlp/up/kernel", dense(activation=self.activation, in_block=True)),
            (
                r"block_\d+/(attention/out|mlp/down)/kernel",
                dense(Role.RESIDUAL_OUTPUT, in_block=True),
            ),
            (r"block_\d+/residual_gain_\d", Parameter(Role.RESIDUAL_GAIN, in_block=True)),
            (r"block_\d+/norm_\d/scale", Parameter(Role.GAIN, in_block=True)),
            (r"block_\d+/.*/bias", Parameter(Role.BIAS, in_block=True)),
            ("final_norm/scale", Parameter(Role.GAIN, before_readout=True)),
            ("final_norm/bias", Parameter(Role.BIAS, before_readout=True)),
        )

    @property
    def capacity(self) -> int:
        """The context length."""
        return self.context_length

    def init_cache(self, batch_size: int) -> Cache:
        """Nothing read."""
        shape = (batch_size, self.n_head, self.context_length, self.d_model // self.n_head)
        # Arrays of their own, so that a caller can donate them.
        layers = tuple(
            KeysValues(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))
            for _ in range(self.n_layer)
        )
        return Cache(layers, jnp.zeros((), jnp.int32))

    @nn.compact
    def __call__(
        self,
        tokens_BT: Array,
        cache: Cache | None = None,
        *,
        num_outputs: int | None = None,
        train: bool = False,
    ) -> tuple[Array, Cache | None]:
        """See CharModel."""
        T = tokens_BT.shape[1]
        check_window(T, self.context_length)
        start = 0 if cache is None else cache.length
        embedding = Embedding(self.vocab_size, self.d_model, name="token_embedding")
        x_BTD, angles = embedding(tokens_BT), None
        if self.scale_embeddings:
            x_BTD *= math.sqrt(self.d_model)
        if self.positions == "learned":
            table = Embedding(self.context_length, self.d_model, name="position_embedding")
            x_BTD += lax.dynamic_slice_in_dim(table.embedding, start, T)
        else:
            angles = rotary_angles(start + jnp.arange(T), self.d_model // self.n_head)
        x_BTD = x_BTD.astype(self.dtype)
        x_BTD = nn.Dropout(self.dropout, deterministic=not train)(x_BTD)
        layers = []
        make_block = _TracedOnce if train or self.is_initializing() else Block
        for i in range(self.n_layer):
            # What follows the last attention is needed for the outputs only.
            N = num_outputs if num_outputs and i == self.n_layer - 1 else T
            block = make_block(
                self.n_head,
                self.dropout,
                self.bias,
                self.dtype,
                self.residual,
                self.n_layer,
                self.activation,
                name=f"block_{i}",
            )
            layer = None if cache is None else cache.layers[i]
            x_BTD, layer = block(x_BTD, layer, start, angles, N, train)
            layers.append(layer)
        x_BND = x_BTD
        if self.residual in _NORM_FIRST:
            x_BND = Norm(self.bias, self.dtype, name="final_norm")(x_BTD)
        if self.tie_embeddings:
            logits_BNV = float32_logits(x_BND, embedding.embedding.T.astype(self.dtype))
        else:
            logits_BNV = Readout(self.vocab_size, False, self.dtype, name="readout")(x_BND)
        return logits_BNV, None if cache is None else Cache(tuple(layers), cache.length + T)


class Block(nn.Module):
    """Attention and a two-layer network, each a sublayer F that is added to what it read.

    pre_norm     x + F(LN(x))                (Radford et al. 2019)
    deepnorm     LN(alpha x + F(x)), alpha = (2 n_layer)^(1/4) (Wang et al. 2022)
    rezero       x + g F(x), g a number      (Bachlechner et al. 2020)
    layerscale   x + g F(LN(x)), g a vector  (Touvron et al. 2021)
    plain        x + F(x)                    (as T-Fixup needs, Huang et al. 2020)

    The norm after the last block goes with those two that normalise what they read.
    """

    n_head: int
    dropout: float
    bias: bool
    dtype: DTypeLike
    residual: Residual
    n_layer: int
    activation: Gelu

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        cache: KeysValues | None,
        start: Array | int,
        angles: tuple[Array, Array] | None,
        num_outputs: int,
        train: bool,
    ) -> tuple[Array, KeysValues | None]:
        """Returns the last `num_outputs` positions, and the cache with the T keys and values."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        attention = Attention(self.n_head, self.dropout, self.bias, self.dtype, name="attention")
        read_BTD = self._read(x_BTD, 1)
        o_BND, cache = attention(read_BTD, cache, start, angles, num_outputs, train)
        x_BND = self._add(x_BTD[:, -num_outputs:], drop(o_BND), 1)
        feed_forward = FeedForward(self.bias, self.activation, self.dtype, name="mlp")
        y_BND = feed_forward(self._read(x_BND, 2))
        return self._add(x_BND, drop(y_BND), 2), cache

    def _read(self, x_BTD: Array, sublayer: int) -> Array:
        """What a sublayer is given of the stream."""
        if self.residual not in _NORM_FIRST:
            return x_BTD
        return Norm(self.bias, self.dtype, name=f"norm_{sublayer}")(x_BTD)

    def _add(self, x_BTD: Array, y_BTD: Array, sublayer: int) -> Array:
        """The stream with a sublayer's output in it."""
        if self.residual == "deepnorm":
            alpha = (2 * self.n_layer) ** 0.25
            return Norm(self.bias, self.dtype, name=f"norm_{sublayer}")(alpha * x_BTD + y_BTD)
        if self.residual in ("rezero", "layerscale"):
            shape = () if self.residual == "rezero" else (x_BTD.shape[-1],)
            gain = self.param(f"residual_gain_{sublayer}", nn.initializers.ones, shape, jnp.float32)
            # In float32, as the gain's gradient is a sum over batch and time.
            y_BTD = (y_BTD.astype(wide_dtype(self.dtype)) * gain).astype(self.dtype)
        return x_BTD + y_BTD


class FeedForward(nn.Module):
    """GELU(x W_up) W_down, four times as wide within."""

    bias: bool
    activation: Gelu
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        """(B, T, D) to (B, T, D)."""
        D = x_BTD.shape[-1]
        h_BTF = _GELUS[self.activation](_linear(self, 4 * D, "up")(x_BTD))
        return _linear(self, D, "down")(h_BTF)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(K)) v, each position over itself and those before it, in H heads."""

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
        num_outputs: int,
        train: bool,
    ) -> tuple[Array, KeysValues | None]:
        """As Block."""
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


# Traced and lowered once for all the blocks of one shape, which start-up is glad of; the compiler
# then inlines every call of it.
_TracedOnce = nn.jit(Block, static_argnums=(5, 6))


def _append(cache: KeysValues, k_BTHK: Array, v_BTHK: Array, start: Array | int) -> KeysValues:
    def write(old_BHCK: Array, new_BTHK: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(old_BHCK, new_BTHK.swapaxes(1, 2), start, axis=2)

    return KeysValues(write(cache.keys, k_BTHK), write(cache.values, v_BTHK))


def cached_attention(q_BTHK: Array, cache: KeysValues, start: Array | int) -> Array:
    """Attention of the T queries at start, start + 1, ... over the keys up to each one's own.

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
    seen_TC = jnp.arange(C) <= start + jnp.arange(T)[:, None]
    weights_BHTC = jax.nn.softmax(jnp.where(seen_TC, scores_BHTC, -jnp.inf), axis=-1)
    return jnp.einsum("bhtc,bhck->bthk", weights_BHTC.astype(q_BTHK.dtype), cache.values)


def _linear(parent: Attention | FeedForward, features: int, name: str) -> Linear:
    return Linear(features, parent.bias, parent.dtype, name=name)
