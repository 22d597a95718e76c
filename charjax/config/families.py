"""The model families: each family's settings, and what is known of it before JAX starts.

A new family is a class here, in `ModelConfig`, and a module of its own in `charjax.models`.
"""

import itertools
import typing
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from charjax.config.family import FamilyConfig, TrainedConfig
from charjax.config.fields import Count, OrOwn, Period, Rate, Width
from charjax.config.values import format_value


class NgramConfig(FamilyConfig):
    """Counts of n-grams, smoothed (Kneser and Ney 1995; Chen and Goodman 1999)."""

    fitted: ClassVar[bool] = True
    has_readout: ClassVar[bool] = False
    learns_from_zeros: ClassVar[bool] = False
    is_linear_layers: ClassVar[bool] = False

    kind: Literal["ngram"] = Field("ngram", description="the model family")
    order: int = Field(5, ge=1, le=32, description="n: a character given the n - 1 before it")
    smoothing: Literal["additive", "kneser_ney", "modified_kneser_ney"] = Field(
        "kneser_ney", description="add alpha; one discount per order; three discounts per order"
    )
    alpha: float = Field(1.0, gt=0, description="additive: the count added to every n-gram")
    prune: tuple[Period, ...] = Field(
        (),
        description="Kneser-Ney: n-grams seen so often or less are left out, a count for each "
        "length from 1 (0: none), the last for all longer ones, as KenLM's lmplz --prune",
    )

    @model_validator(mode="after")
    def _check_prune(self) -> "NgramConfig":
        if any((*self.prune[:1], *(b < a for a, b in itertools.pairwise(self.prune)))):
            raise ValueError(
                f"model.prune: {format_value(self.prune)} given; it must begin with 0, as every "
                "character keeps its count, and never decrease, as in [0, 0, 1]"
            )
        if len(self.prune) > self.order:
            raise ValueError(
                f"model.prune: {format_value(self.prune)} given, {len(self.prune)} counts, but "
                f"model.order={self.order} has n-grams of no more lengths: leave some out"
            )
        return self


class BigramConfig(TrainedConfig):
    """A table of V x V logits."""

    default_context: ClassVar[int] = 8
    fixed_size: ClassVar[str] = "that of its text's table"
    has_hidden_kernels: ClassVar[bool] = False
    has_readout: ClassVar[bool] = False
    is_linear_layers: ClassVar[bool] = False

    kind: Literal["bigram"] = Field("bigram", description="the model family")


class BowConfig(TrainedConfig):
    """A causal average of embeddings."""

    width_field: ClassVar[str | None] = "d_embed"
    has_hidden_kernels: ClassVar[bool] = False

    kind: Literal["bow"] = Field("bow", description="the model family")
    d_embed: Width = Field(64, description="width of an embedding")


class MLPConfig(TrainedConfig):
    """The feed-forward model of Bengio et al. 2003; context_length is its window."""

    default_context: ClassVar[int] = 8
    window_is_shape: ClassVar[bool] = True
    # One list holds both.
    depth_field: ClassVar[str | None] = "hidden"
    width_field: ClassVar[str | None] = "hidden"
    is_plain_stack: ClassVar[bool] = True

    kind: Literal["mlp"] = Field("mlp", description="the model family")
    d_embed: Width = Field(10, description="width of an embedding")
    hidden: tuple[Width, ...] = Field((200,), description="widths of the hidden layers")
    norm: Literal["none", "batch"] = Field("none", description="normalisation before each tanh")
    blank: bool = Field(
        False, description="a symbol of its own stands before a line's start, as in makemore.py"
    )
    activation: Annotated[Literal["tanh", "relu"], OrOwn("model.activation")] = Field(
        "tanh", description="of the hidden layers"
    )

    @property
    def depth(self) -> int:
        """Hidden layers."""
        return len(self.hidden)

    @property
    def width(self) -> int:
        """Units of the first hidden layer; 0 without any."""
        return self.hidden[0] if self.hidden else 0

    def resized(self, depth: int, width: int) -> dict[str, Any]:
        """Return hidden layers of one width."""
        return {"hidden": (width,) * depth}


class WaveNetConfig(TrainedConfig):
    """A tree of pairs (van den Oord et al. 2016, plain); context_length is its window."""

    default_context: ClassVar[int] = 8
    window_is_shape: ClassVar[bool] = True
    width_field: ClassVar[str | None] = "d_hidden"
    is_plain_stack: ClassVar[bool] = True

    kind: Literal["wavenet"] = Field("wavenet", description="the model family")
    d_embed: Width = Field(24, description="width of an embedding")
    d_hidden: Width = Field(128, description="width of every level")
    norm: Literal["none", "batch"] = Field("none", description="normalisation before each tanh")
    activation: Annotated[Literal["tanh", "relu"], OrOwn("model.activation")] = Field(
        "tanh", description="of every level"
    )

    @property
    def depth(self) -> int:
        """Levels: the context is fused two by two."""
        return ((self.context_length or self.default_context) - 1).bit_length()

    @model_validator(mode="after")
    def _check_context(self) -> "WaveNetConfig":
        length = self.context_length
        if length is not None and (length < 2 or length & (length - 1)):
            raise ValueError(
                f"model.context_length: {length} given; a tree of pairs needs a power of two "
                "from 2 on, as in model.context_length = 8"
            )
        return self


class _RecurrentConfig(TrainedConfig):
    carries: ClassVar[bool] = True
    depth_field: ClassVar[str | None] = "n_layer"
    width_field: ClassVar[str | None] = "d_hidden"
    is_linear_layers: ClassVar[bool] = False

    n_layer: int = Field(1, ge=1, le=64, description="number of layers")
    d_embed: Width = Field(128, description="width of an embedding")
    d_hidden: Width = Field(256, description="width of the hidden state")
    dropout: Rate = Field(0.0, description="rate of dropout on every layer's output")


class RNNConfig(_RecurrentConfig):
    """The simple recurrent network of Elman 1990."""

    is_plain_recurrence: ClassVar[bool] = True

    kind: Literal["rnn"] = Field("rnn", description="the model family")
    activation: Annotated[Literal["tanh", "relu"], OrOwn("model.activation")] = Field(
        "tanh", description="of the hidden state"
    )


class _NormedRecurrentConfig(_RecurrentConfig):
    norm: Literal["none", "layernorm"] = Field(
        "none",
        description="normalise the input's and the state's part in the gates, and an LSTM's cell",
    )


class GRUConfig(_NormedRecurrentConfig):
    """The gated recurrent unit of Cho et al. 2014, as PyTorch and cuDNN write it."""

    has_forget_gate: ClassVar[bool] = True

    kind: Literal["gru"] = Field("gru", description="the model family")


class LSTMConfig(_NormedRecurrentConfig):
    """The long short-term memory of Hochreiter and Schmidhuber 1997, with a forget gate."""

    has_forget_gate: ClassVar[bool] = True

    kind: Literal["lstm"] = Field("lstm", description="the model family")


class MinGRUConfig(_RecurrentConfig):
    """The minimal gated recurrent unit of Feng et al. 2024: gates do not read the state."""

    # No kernel multiplies the state.
    is_linear_layers: ClassVar[bool] = True

    kind: Literal["mingru"] = Field("mingru", description="the model family")


class MinLSTMConfig(_RecurrentConfig):
    """The minimal long short-term memory of Feng et al. 2024: gates do not read the state."""

    # No kernel multiplies the state.
    is_linear_layers: ClassVar[bool] = True
    has_forget_gate: ClassVar[bool] = True

    kind: Literal["minlstm"] = Field("minlstm", description="the model family")


class TransformerConfig(TrainedConfig):
    """The decoder of GPT-2 (Radford et al. 2019): pre-norm, causal attention, GELU."""

    depth_field: ClassVar[str | None] = "n_layer"
    width_field: ClassVar[str | None] = "d_model"
    # The readout has no bias: the only gradient would be 0.
    learns_from_zeros: ClassVar[bool] = False
    has_residual_blocks: ClassVar[bool] = True

    kind: Literal["transformer"] = Field("transformer", description="the model family")
    n_layer: int = Field(4, ge=1, le=512, description="blocks")
    n_head: int = Field(4, ge=1, le=1024, description="attention heads per block")
    d_model: Width = Field(128, description="width of the residual stream")
    dropout: Rate = Field(0.0, description="rate of dropout")
    bias: bool = Field(
        False, description="biases in the linear layers (not the readout) and the norms"
    )
    tie_embeddings: bool = Field(True, description="the readout is the token embedding")
    positions: Literal["learned", "rotary"] = Field(
        "learned", description="a learned vector per position, or rotated queries and keys"
    )
    residual: Literal["pre_norm", "deepnorm", "rezero", "layerscale", "plain", "fixup"] = Field(
        "pre_norm",
        description="how sublayers join the stream; plain: no norms at all; fixup: one number per "
        "branch instead of norms, and one added before each layer",
    )
    activation: Annotated[
        Literal["gelu", "gelu_tanh", "relu2", "swiglu", "geglu"], OrOwn("model.activation")
    ] = Field(
        "gelu",
        description="of the MLP: by erf, as nanoGPT; by tanh, as GPT-2, minGPT and makemore; "
        "max(0, x)^2; gated, with 8 d_model / 3 units in place of 4 d_model",
    )
    scale_embeddings: bool = Field(
        False,
        description="the symbols' vectors times sqrt(d_model), the readout's not; true with "
        "init.scheme=tfixup and fixup unless it is given",
    )
    norm: Literal["layernorm", "rmsnorm"] = Field(
        "layernorm", description="wherever there is a norm; rmsnorm has no bias"
    )
    qk_norm: bool = Field(
        False, description="normalise each head's queries and keys (by model.norm, scale shared)"
    )
    n_kv_head: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="heads of keys and values, shared by groups of the n_head; unset: n_head",
    )
    window: Count | None = Field(
        None,
        description="sliding-window attention: characters that a position sees, itself included; "
        "unset: the context",
    )
    attn_softcap: float = Field(
        0.0, ge=0, description="c of c tanh(score / c) in attention, as in Gemma 2; 0 is off"
    )
    final_softcap: float = Field(
        0.0, ge=0, description="c of c tanh(logit / c) at the end, as in Gemma 2; 0 is off"
    )

    d_ff: Width | None = Field(
        None,
        description="width within the MLP; unset: 4 d_model, with a gated activation 8 d_model / 3",
    )
    rotary_base: float = Field(
        10000.0,
        ge=1.0,
        le=1e12,
        description="positions=rotary: theta, the base of the angles' wavelengths",
    )
    norm_epsilon: float = Field(
        1e-5, ge=1e-12, le=1.0, description="the number under the root of every norm"
    )
    attention_scale: Literal["inverse_sqrt", "inverse"] = Field(
        "inverse_sqrt",
        description="scores are divided by sqrt(K) or by K, the width of a head; inverse with "
        "init.scheme=mup_zero_query and umup unless it is given",
    )
    remat: Literal["none", "block", "attention"] = Field(
        "none",
        description="what training computes again in the backward pass in place of saving it: "
        "nothing, each whole block, or the attention's weights",
    )
    scan_layers: Literal["auto", "true", "false"] = Field(
        "auto",
        description="train the blocks in a loop, which is compiled once; auto: on a TPU",
    )

    @field_validator("scan_layers", mode="before")
    @classmethod
    def _as_word(cls, value: Any) -> Any:
        return str(value).lower() if isinstance(value, bool) else value

    @property
    def head_width(self) -> int:
        """d_model / n_head."""
        return self.d_model // self.n_head

    def resized(self, depth: int, width: int) -> dict[str, Any]:
        """Return the settings of another size; heads keep their width and grow in number."""
        heads = width // self.head_width
        settings = super().resized(depth, width) | {"n_head": heads}
        if self.d_ff is not None:
            settings["d_ff"] = max(1, round(self.d_ff * width / self.d_model))
        if self.n_kv_head is None:
            return settings
        # Groups stay as large as they were, where they can.
        shared = max(1, heads * self.n_kv_head // self.n_head)
        while heads % shared:
            shared -= 1
        return settings | {"n_kv_head": shared}

    @model_validator(mode="after")
    def _check_heads(self) -> "TransformerConfig":
        if self.d_model % self.n_head:
            raise ValueError(
                f"model.d_model: {self.d_model} given; it must be a multiple of model.n_head "
                f"({self.n_head})"
            )
        if self.n_kv_head is not None and self.n_head % self.n_kv_head:
            raise ValueError(
                f"model.n_kv_head: {self.n_kv_head} given; model.n_head ({self.n_head}) must be a "
                "multiple of it, so that each of these heads serves as many of those"
            )
        if self.positions == "rotary" and (self.d_model // self.n_head) % 2:
            raise ValueError(
                f"model.d_model: {self.d_model} given; rotary positions need an even width a "
                f"head, and {self.d_model} / {self.n_head} is odd"
            )
        if self.residual == "fixup" and self.activation in ("swiglu", "geglu"):
            raise ValueError(
                f"model.activation: {self.activation} given with model.residual=fixup, which has "
                "no form for a gated MLP; choose gelu or another without a gate"
            )
        return self


ModelConfig = Annotated[
    NgramConfig
    | BigramConfig
    | BowConfig
    | MLPConfig
    | WaveNetConfig
    | RNNConfig
    | GRUConfig
    | LSTMConfig
    | MinGRUConfig
    | MinLSTMConfig
    | TransformerConfig,
    Field(discriminator="kind"),
]
FAMILIES: dict[str, type[FamilyConfig]] = {
    family.model_fields["kind"].default: family
    for family in typing.get_args(typing.get_args(ModelConfig)[0])
}


def families_where(**traits: bool) -> tuple[str, ...]:
    """Return the kinds of the trained families whose class attributes have these values."""
    return tuple(
        kind
        for kind, family in FAMILIES.items()
        if not family.fitted and all(getattr(family, name) == traits[name] for name in traits)
    )
