"""The transformer: a decoder in the form of GPT-2.

Letters: B batch, T time, N outputs, C context length (the cache's length), D width of the
residual stream, H heads, V vocabulary.
"""

import math
from typing import Any, ClassVar, Literal, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.typing import DTypeLike

from charjax.models import transformer_sizes as sizes
from charjax.models.attention import (
    Attention,
    AttentionForm,
    AttentionScale,
    FeedForward,
    KeysValues,
    MLPActivation,
    attention_weights,
)
from charjax.models.contract import CharModel, Memory, check_window
from charjax.models.layers import (
    Dropout,
    Embedding,
    NormForm,
    NormKind,
    Readout,
    Shift,
    float32_logits,
    make_norm,
)
from charjax.models.repeated_blocks import Compute, Remat, recomputed_blocks, scan_blocks
from charjax.models.residual import NORM_FIRST, Residual, ResidualBlock
from charjax.models.roles import Roles
from charjax.models.taps import Tap
from charjax.models.transformer_packing import KernelForm
from charjax.models.transformer_taps import transformer_roles, transformer_taps
from charjax.ops.attention import soft_capped
from charjax.ops.choice import compiles_layers_once
from charjax.ops.normalization import EPSILON
from charjax.ops.rotary import ROTARY_BASE, rotary_angles


class Block(nn.Module):
    """GPT-2's block: x + Attention(LN(x)), then x + MLP(LN(x)) (Radford et al. 2019).

    Attributes:
      n_head: H.
      dropout: rate.
      bias: the linear layers and norms have biases.
      dtype: of the products.
      activation: of the MLP.
      norm: before each sublayer.
      form: of attention.
      d_ff: width within the MLP; None: see `mlp_width`.
    """

    n_head: int
    dropout: float
    bias: bool
    dtype: DTypeLike
    activation: MLPActivation
    norm: NormForm = NormForm()
    form: AttentionForm = AttentionForm()
    d_ff: int | None = None

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
        attention = Attention(
            self.n_head, self.dropout, self.bias, self.dtype, self.form, name="attention"
        )
        feed_forward = FeedForward(self.bias, self.activation, self.dtype, self.d_ff, name="mlp")
        norm_1 = make_norm(self.norm, self.bias, self.dtype, "norm_1")
        norm_2 = make_norm(self.norm, self.bias, self.dtype, "norm_2")
        o_BND, cache = attention(
            norm_1(x_BTD), cache, start, angles, num_outputs=num_outputs, train=train
        )
        x_BND = x_BTD[:, -num_outputs:] + drop(o_BND)
        return x_BND + drop(feed_forward(norm_2(x_BND), train=train)), cache


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
      activation: "gelu" (by erf, as nanoGPT), "gelu_tanh" (its approximation, as GPT-2, minGPT
        and makemore), "relu2", or gated, "swiglu" and "geglu", see FeedForward.
      scale_embeddings: x = sqrt(D) E[tokens] + P[positions], as in Vaswani et al. 2017; a
        tied readout is E nevertheless.
      norm: "layernorm" or "rmsnorm", wherever there is one.
      qk_norm: the norm of each head's queries and keys too, see AttentionForm.
      n_kv_head: heads of keys and values, shared by equal groups of the H; None: H.
      window: a position sees itself and the window - 1 before it; None: the whole context.
      attn_softcap: c of the scores, see AttentionForm; 0 is off.
      final_softcap: c of the logits, likewise.
      d_ff: width within the MLP; None: see `charjax.models.attention.mlp_width`.
      rotary_base: of the angles of rotary positions.
      norm_epsilon: the number under the root of every norm.
      attention_scale: of the scores, see AttentionForm.
      remat: what training computes again in the backward pass: nothing, whole blocks (Chen et al.
        2016, arXiv:1604.06174), or the weights of the attention (Korthikanti et al. 2022,
        arXiv:2205.05198).
      scan_layers: train the blocks in a loop; auto: where `compiles_layers_once`.
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
    activation: MLPActivation = "gelu"
    scale_embeddings: bool = False
    norm: NormKind = "layernorm"
    qk_norm: bool = False
    n_kv_head: int | None = None
    window: int | None = None
    attn_softcap: float = 0.0
    final_softcap: float = 0.0
    d_ff: int | None = None
    rotary_base: float = ROTARY_BASE
    norm_epsilon: float = EPSILON
    attention_scale: AttentionScale = "inverse_sqrt"
    remat: Remat = "none"
    scan_layers: Literal["auto", "true", "false"] = "auto"
    memory: ClassVar[Memory] = "windowed"
    has_attention: ClassVar[bool] = True
    flops_formula: ClassVar[str] = "3 x (2 (12 L D D + D V) + 4 L T D)"

    @property
    def roles(self) -> Roles:  # type: ignore[override]
        """The parameters' roles; a scheme may draw by the activation."""
        return transformer_roles(self.activation)

    @property
    def form(self) -> AttentionForm:
        """The form of every block's attention."""
        return AttentionForm(
            None if self.n_kv_head == self.n_head else self.n_kv_head,
            self.norm_form if self.qk_norm else None,
            self.attn_softcap,
            self.window,
            self.rotary_base,
            self.attention_scale,
            self.remat == "attention",
        )

    @property
    def norm_form(self) -> NormForm:
        """The form of every norm."""
        return NormForm(self.norm, self.norm_epsilon)

    @property
    def capacity(self) -> int:
        """The context length."""
        return self.context_length

    def init_cache(self, batch_size: int) -> Cache:
        """Return the cache of an empty text."""
        heads = self.n_kv_head or self.n_head
        shape = (batch_size, heads, self.context_length, self.d_model // self.n_head)
        # Separate arrays, so that a caller can donate them.
        layers = tuple(
            KeysValues(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))
            for _ in range(self.n_layer)
        )
        return Cache(layers, jnp.zeros((), jnp.int32))

    def short_cache(self, batch_size: int, length: int) -> Cache:
        """See CharModel."""
        positions = min(length, self.context_length)
        cache: Cache = self.clone(context_length=positions, parent=None).init_cache(batch_size)
        return cache

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
            width = self.d_model // self.n_head
            angles = rotary_angles(start + jnp.arange(T), width, self.rotary_base)
        x_BTD = x_BTD.astype(self.dtype)
        x_BTD = Dropout(self.dropout, deterministic=not train)(x_BTD)
        is_training = train and cache is None and not self.is_initializing()
        in_loop = self._is_loop and num_outputs in (None, T)
        if is_training and (in_loop or self.remat == "block"):
            x_BTD = self._repeated_blocks(x_BTD, angles, num_outputs or T)
        else:
            x_BTD, cache = self._unrolled_blocks(x_BTD, cache, angles, num_outputs, train=train)
        x_BND = x_BTD
        if self.residual in NORM_FIRST:
            x_BND = make_norm(self.norm_form, self.bias, self.dtype, "final_norm")(x_BTD)
        elif self.residual == "fixup":
            x_BND = Shift(self.dtype, name="final_shift")(x_BTD)
        if self.tie_embeddings:
            logits_BNV = float32_logits(x_BND, embedding.embedding.T.astype(self.dtype))
        else:
            logits_BNV = Readout(self.vocab_size, False, self.dtype, name="readout")(x_BND)
        if self.final_softcap:
            logits_BNV = soft_capped(logits_BNV, self.final_softcap)
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

    @property
    def _is_loop(self) -> bool:
        """Return true if the blocks are trained in a loop."""
        if self.scan_layers == "auto":
            return compiles_layers_once(self.n_layer)
        return self.scan_layers == "true" and self.n_layer > 1

    def _repeated_blocks(
        self, x_BTD: Array, angles: tuple[Array, Array] | None, num_outputs: int
    ) -> Array:
        """Compute the blocks in training; each has the dropout key of `_unrolled_blocks`."""
        compute, layers = self._pure_block(angles), self._layers()
        if self._is_loop and num_outputs == x_BTD.shape[1]:
            return scan_blocks(compute, x_BTD, *layers, self.remat)
        return recomputed_blocks(compute, x_BTD, *layers, num_outputs)

    def _layers(self) -> tuple[list[Any], list[Array | None]]:
        """Return the blocks' parameters, and the dropout keys that each has in a module."""
        blocks = [self._block(f"block_{i}", jitted=True) for i in range(self.n_layer)]
        params = [self.variables["params"][block.name] for block in blocks]
        return params, [block.make_rng("dropout") if self.dropout else None for block in blocks]

    def _pure_block(self, angles: tuple[Array, Array] | None) -> Compute:
        """Return a block as a function of the stream, its parameters, its key and N."""
        block = self._block(None, jitted=False, parent=None)

        def compute(x_BTD: Array, params: Any, key: Array | None, num_outputs: int) -> Array:
            rngs = {} if key is None else {"dropout": key}
            settings: dict[str, Any] = {"num_outputs": num_outputs, "train": True, "rngs": rngs}
            x_BND: Array = block.apply({"params": params}, x_BTD, None, 0, angles, **settings)[0]
            return x_BND

        return compute

    def _block(self, name: str | None, *, jitted: bool, **others: Any) -> nn.Module:
        settings: dict[str, Any] = {
            "n_head": self.n_head,
            "dropout": self.dropout,
            "bias": self.bias,
            "dtype": self.dtype,
            "activation": self.activation,
            "norm": self.norm_form,
            "form": self.form,
            "d_ff": self.d_ff,
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
        return sizes.forward_flops(self)

    @property
    def matrix_weights(self) -> int:
        """The kernels of all blocks, 12 L D D."""
        return self.n_layer * sizes.block_weights(self)

    @property
    def widest_product(self) -> tuple[int, int]:
        """The MLP's."""
        return self.d_model, sizes.mlp_width(self)

    @property
    def embedding_scale(self) -> float:
        """sqrt(D) with `scale_embeddings`."""
        return math.sqrt(self.d_model) if self.scale_embeddings else 1.0

    @property
    def is_plain(self) -> bool:
        """GPT-2's block, in any form of the residual connections."""
        return sizes.is_plain(self)

    @property
    def kernel_form(self) -> KernelForm | None:
        """See CharModel."""
        return sizes.kernel_form(self)

    def saved_values(self, length: int) -> int:
        """Estimate 24 numbers per unit of the stream, as XLA's figures were, and what is more."""
        return sizes.saved_values(self, length)

    def activation_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Return the stream and the attention's weights in all blocks, and the logits."""
        return sizes.activation_shapes(self, length)

    def attention_weights(self, qkv_BTE: Array, params: Any = None) -> Array:
        """See CharModel."""
        rotary = self.positions == "rotary"
        return attention_weights(qkv_BTE, params, self.n_head, self.form, rotary=rotary)

    def taps(self) -> tuple[Tap, ...]:
        """Describe the layers."""
        return transformer_taps(self)
