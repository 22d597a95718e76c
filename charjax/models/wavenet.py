"""The tree of pairs: the form of WaveNet that the makemore lectures arrive at.

Letters: B batch, T time, N outputs, S history, P places of a level, E width of an embedding,
H width of a hidden layer, V vocabulary.
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from charjax.models.contract import FiniteModel
from charjax.models.layers import ENDS, Embedding, Readout, hidden_layer, product_dtype
from charjax.models.own import activation_of
from charjax.models.roles import Parameter, Role, Roles, dense
from charjax.models.taps import (
    LOGITS,
    Arrays,
    Layer,
    Recording,
    Tap,
    TapPoint,
    input_of,
    layer_of,
    output_of,
    tap_at,
)


class WaveNet(FiniteModel):
    """A causal convolution of width two and doubling dilation (van den Oord et al. 2016).

    Without gates, residuals or skips it is the network of Building makemore Part 5: a context of
    C = 2**levels characters is fused two by two, then the pairs two by two, up to one vector:

        h_0,t = E[c_t]     h_l,t = tanh([h_{l-1}, t - 2**(l-1); h_{l-1}, t] W_l + b_l)
        logits_t = h_levels,t W + b

    With norm = "batch" each level is tanh(BN(x W)), as in the lecture. Where one output is
    computed, only the places of its own tree are computed, and only those enter the batch's
    statistics; for many outputs the trees share their places.

    Attributes:
      context_length: C, a power of two; before the start of a text stands token 0.
      d_embed: E.
      d_hidden: H of every level.
      norm: "none" or "batch".
      activation: "tanh", or in its place "relu" or one of the user's own.
    """

    context_length: int
    d_embed: int
    d_hidden: int
    norm: Literal["none", "batch"]
    activation: str = "tanh"
    widens_small_products: ClassVar[bool] = True
    flops_formula: ClassVar[str] = (
        "3 x 2 (2 E H + (levels - 1) 2 H H + H V): each place once, shared by the targets"
    )

    @property
    def roles(self) -> Roles:  # type: ignore[override]
        """The parameters' roles; a scheme may draw by the activation."""
        return (
            *ENDS,
            ("level_0/kernel", dense(activation=self.activation, reads_embedding=True, places=2)),
            (r"level_[1-9]\d*/kernel", dense(activation=self.activation, places=2)),
            (r"(level|norm)_\d+/bias", Parameter(Role.BIAS)),
            (r"norm_\d+/scale", Parameter(Role.GAIN)),
        )

    @property
    def lookback(self) -> int:
        """C - 1."""
        return self.context_length - 1

    @property
    def levels(self) -> int:
        """Hidden layers: log2 C."""
        return (self.context_length - 1).bit_length()

    @property
    def forward_flops(self) -> float:
        """2 (2 E H + (levels - 1) 2 H H + H V)."""
        H = self.d_hidden
        return 2.0 * (2 * self.d_embed * H + (self.levels - 1) * 2 * H * H + H * self.vocab_size)

    def saved_values(self, length: int) -> int:
        """Estimate 6 numbers per hidden unit."""
        return 6 * self.d_hidden * length

    def activation_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Return the embeddings, the units of all levels and the logits."""
        # For one target only the places of its tree; for many, a place of each level per token.
        tree = self.context_length - 1
        places = tree if length == 1 else self.levels * (length + tree)
        return {
            "vectors": (length + tree, self.d_embed),
            "units": (places, self.d_hidden),
            "logits": (length, self.vocab_size),
        }

    def taps(self) -> tuple[Tap, ...]:
        """Describe embedding, levels and readout."""
        embedding = layer_of(self.roles, "token_embedding/embedding")
        taps = [tap_at(embedding, output_of("token_embedding"))]
        for i in range(self.levels):
            norm = f"norm_{i}" if self.norm == "batch" else None
            layer = layer_of(self.roles, f"level_{i}/kernel", reads="previous", norm=norm)
            product = output_of(norm or f"level_{i}")
            if i == self.levels - 1:
                taps.append(tap_at(layer, input_of("readout"), product))
            else:
                taps.append(_tap_of_pairs(layer, product, input_of(f"level_{i + 1}"), 2 ** (i + 1)))
        readout = layer_of(self.roles, "readout/kernel", reads="previous")
        return (*taps, tap_at(readout, LOGITS))

    @nn.compact
    def __call__(
        self,
        tokens_BT: Array,
        cache: Array | None = None,
        *,
        num_outputs: int | None = None,
        train: bool = False,
    ) -> tuple[Array, Array | None]:
        """See CharModel."""
        history_BS, cache = self.read(tokens_BT, cache, num_outputs)
        one = history_BS.shape[1] == self.context_length
        embedding = Embedding(self.vocab_size, self.d_embed, name="token_embedding")
        h_BPH = embedding(history_BS)
        for level in range(self.levels):
            older_BPH, newer_BPH = _pairs(h_BPH, 1 if one else 2**level, 2 if one else 1)
            pair_BPD = jnp.concatenate([older_BPH, newer_BPH], axis=-1)
            names = (f"level_{level}", f"norm_{level}")
            h_BPH = hidden_layer(
                pair_BPD,
                self.d_hidden,
                self.dtype,
                self.norm,
                names,
                self.activation,
                train=train,
            )
        dtype = product_dtype(h_BPH, self.vocab_size, self.dtype)
        readout = Readout(self.vocab_size, bias=True, dtype=dtype, name="readout")
        return readout(h_BPH), cache


def _pairs(h_BPH: Array, distance: int, stride: int) -> tuple[Array, Array]:
    """Return each place and the one `distance` after it, for every `stride`-th place."""
    return h_BPH[:, :-distance:stride], h_BPH[:, distance::stride]


def _tap_of_pairs(layer: Layer, product: TapPoint, pair: TapPoint, distance: int) -> Tap:
    """Read a level whose places the next reads two by two: a place may be in two pairs."""

    def value(recording: Recording) -> Array:
        act = activation_of(layer.activation)
        h_BPH = act(recording.arrays[product].astype(jnp.float32))
        return h_BPH.astype(recording.arrays[pair].dtype)

    def gradient(recording: Recording, gradients: Arrays) -> Array:
        # Where one output is computed, the places are those of its tree, and no pairs overlap.
        step, stride = (1, 2) if recording.num_outputs == 1 else (distance, 1)

        def read(h_BPH: Array) -> Array:
            return jnp.concatenate(_pairs(h_BPH, step, stride), axis=-1)

        h_BPH = value(recording).astype(jnp.float32)
        (gradient_BPH,) = jax.linear_transpose(read, h_BPH)(gradients[pair])
        return gradient_BPH

    points = frozenset((product, pair))
    return Tap(layer, points, value, lambda recording: recording.arrays[product], gradient)
