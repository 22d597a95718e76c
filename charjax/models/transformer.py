"""The transformer: a decoder in the form of GPT-2.

Letters: B batch, T time, N outputs, C context length (the cache's length), D width of the
residual stream, H heads, V vocabulary.
"""

import math
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.typing import DTypeLike

from charjax.models.attention import (
    Attention,
    FeedForward,
    Gelu,
    KeysValues,
    attention_weights,
)
from charjax.models.contract import CharModel, Memory, check_window
from charjax.models.layers import EMBEDDING, ENDS, Dropout, Embedding, Norm, Readout, float32_logits
from charjax.models.residual import NORM_FIRST, Residual, ResidualBlock
from charjax.models.roles import Parameter, Role, Roles, dense
from charjax.models.taps import Tap
from charjax.models.transformer_taps import transformer_taps
from charjax.ops.choice import compiles_layers_once
from charjax.ops.rotary import rotary_angles


class Block(nn.Module):
    """GPT-2's block: x + Attention(LN(x)), then x + MLP(LN(x)) (Radford et al. 2019).

    Attributes:
      n_head: H.
      dropout: rate.
      bias: the linear layers and norms have biases.
      dtype: of the products.
      activation: of the MLP.
    """

    n_head: int
    dropout: float
    bias: bool
    dtype: DTypeLike
    activation: Gelu

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
        """Compute a block.

        Args:
          x_BTD: the stream.
          cache: keys and values of the positions before, or None at the start of a text.
          start: position of the first of the T.
          angles: of rotary positions, or None.
          num_outputs: N.
          train: dropout.

        Returns:
          the stream (B, N, D) at the last N positions, and the cache with the T keys and values.
        """
        drop = Dropout(self.dropout, deterministic=not train)
        attention = Attention(self.n_head, self.dropout, self.bias, self.dtype, name="attention")
        feed_forward = FeedForward(self.bias, self.activation, self.dtype, name="mlp")
        norm_1 = Norm(self.bias, self.dtype, name="norm_1")
        norm_2 = Norm(self.bias, self.dtype, name="norm_2")
        o_BND, cache = attention(
            norm_1(x_BTD), cache, start, angles, num_outputs=num_outputs, train=train
        )
        x_BND = x_BTD[:, -num_outputs:] + drop(o_BND)
        return x_BND + drop(feed_forward(norm_2(x_BND))), cache


# Traced and lowered once for all blocks of one shape, which makes start-up faster; the compiler
# inlines every call. A seed's parameters and dropout masks depend on `nn.jit`.
_JittedBlock = nn.jit(Block, static_argnames=("num_outputs", "train"))
_JittedResidualBlock = nn.jit(ResidualBlock, static_argnames=("num_outputs", "train"))


class Cache(NamedTuple):
    """Every layer's keys and values, and the number of positions in them (int32)."""

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
      bias: linear layers and norms have biases; the readout has none, as in GPT-2.
      tie_embeddings: the readout is the token embedding.
      positions: "learned" or "rotary".
      residual: the way in which a sublayer joins the stream, see Block and ResidualBlock.
      activation: "gelu" (by erf, as nanoGPT) or "gelu_tanh" (its approximation, as GPT-2, minGPT
        and makemore).
      scale_embeddings: x = sqrt(D) E[tokens] + P[positions], as in Vaswani et al. 2017; a
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
    has_attention: ClassVar[bool] = True
    flops_formula: ClassVar[str] = "3 x (2 (12 L D D + D V) + 4 L T D)"

    @property
    def roles(self) -> Roles:  # type: ignore[override]
        """The parameters' roles; a scheme may draw by the activation."""
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
        """Return the cache of an empty text."""
        shape = (batch_size, self.n_head, self.context_length, self.d_model // self.n_head)
        # Separate arrays, so that a caller can donate them.
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
        x_BTD = Dropout(self.dropout, deterministic=not train)(x_BTD)
        is_training = train and cache is None and not self.is_initializing()
        if is_training and num_outputs in (None, T) and compiles_layers_once(self.n_layer):
            x_BTD = self._scan_blocks(x_BTD, angles)
        else:
            x_BTD, cache = self._unrolled_blocks(x_BTD, cache, angles, num_outputs, train=train)
        x_BND = x_BTD
        if self.residual in NORM_FIRST:
            x_BND = Norm(self.bias, self.dtype, name="final_norm")(x_BTD)
        if self.tie_embeddings:
            logits_BNV = float32_logits(x_BND, embedding.embedding.T.astype(self.dtype))
        else:
            logits_BNV = Readout(self.vocab_size, False, self.dtype, name="readout")(x_BND)
        return logits_BNV, cache

    def _unrolled_blocks(
        self,
        x_BTD: Array,
        cache: Cache | None,
        angles: tuple[Array, Array] | None,
        num_outputs: int | None,
        *,
        train: bool,
    ) -> tuple[Array, Cache | None]:
        """Return the stream (B, N, D) after the last block, and the cache with the T tokens."""
        T, start, layers = x_BTD.shape[1], 0 if cache is None else cache.length, []
        for i in range(self.n_layer):
            # After the last attention, only the outputs' positions are needed.
            N = num_outputs if num_outputs and i == self.n_layer - 1 else T
            block = self._block(f"block_{i}", jitted=train or self.is_initializing())
            layer = None if cache is None else cache.layers[i]
            x_BTD, layer = block(x_BTD, layer, start, angles, num_outputs=N, train=train)
            layers.append(layer)
        return x_BTD, None if cache is None else Cache(tuple(layers), cache.length + T)

    def _scan_blocks(self, x_BTD: Array, angles: tuple[Array, Array] | None) -> Array:
        """Compute the blocks in training as a loop over their stacked parameters.

        Each has the dropout key that it has in `_unrolled_blocks`.
        """
        T = x_BTD.shape[1]
        blocks = [self._block(f"block_{i}", jitted=True) for i in range(self.n_layer)]
        params = [self.variables["params"][block.name] for block in blocks]
        keys = [block.make_rng("dropout") for block in blocks] if self.dropout else []
        block = self._block(None, jitted=False, parent=None)

        def body(x_BTD: Array, layer: tuple[Any, Array | None]) -> tuple[Array, None]:
            params, key = layer
            rngs = {} if key is None else {"dropout": key}
            arguments: tuple[Any, ...] = (x_BTD, None, 0, angles)
            settings = {"num_outputs": T, "train": True}
            return block.apply({"params": params}, *arguments, **settings, rngs=rngs)[0], None

        stacked = jax.tree.map(lambda *each: jnp.stack(each), *params)
        keys_L = jnp.stack(keys) if keys else None
        x_BTD, _ = lax.scan(body, x_BTD, (stacked, keys_L))
        return x_BTD

    def _block(self, name: str | None, *, jitted: bool, **others: Any) -> nn.Module:
        settings: dict[str, Any] = {
            "n_head": self.n_head,
            "dropout": self.dropout,
            "bias": self.bias,
            "dtype": self.dtype,
            "activation": self.activation,
            "name": name,
            **others,
        }
        if self.residual == "pre_norm":
            return (_JittedBlock if jitted else Block)(**settings)
        make = _JittedResidualBlock if jitted else ResidualBlock
        return make(residual=self.residual, n_layer=self.n_layer, **settings)

    @property
    def forward_flops(self) -> float:
        """2 (12 L D D + D V) + 4 L T D: attention is counted over the whole context."""
        L, D, T = self.n_layer, self.d_model, self.context_length
        return 2.0 * (12 * L * D * D + D * self.vocab_size) + 4.0 * L * T * D

    @property
    def matrix_weights(self) -> int:
        """The kernels of all blocks, 12 L D D."""
        return 12 * self.n_layer * self.d_model**2

    @property
    def widest_product(self) -> tuple[int, int]:
        """The MLP's."""
        return self.d_model, 4 * self.d_model

    @property
    def embedding_scale(self) -> float:
        """sqrt(D) with `scale_embeddings`."""
        return math.sqrt(self.d_model) if self.scale_embeddings else 1.0

    def saved_values(self, length: int) -> int:
        """Estimate 24 numbers per unit of the stream, as XLA's figures were."""
        return 24 * self.n_layer * self.d_model * length

    def activation_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Return the stream and the attention's weights in all blocks, and the logits."""
        L, T, D = self.n_layer, length, self.d_model
        return {
            "stream": (L, T, D),
            "weights": (L, self.n_head, T, T),
            # The derivative of one block's scores, whatever the number of blocks.
            "block": (self.n_head, T, T),
            "logits": (T, self.vocab_size),
        }

    def attention_weights(self, qkv_BTE: Array) -> Array:
        """See CharModel."""
        return attention_weights(qkv_BTE, self.n_head, rotary=self.positions == "rotary")

    def taps(self) -> tuple[Tap, ...]:
        """Describe the layers."""
        return transformer_taps(self)
