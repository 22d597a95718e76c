"""Other forms of a transformer's residual connections than GPT-2's.

Letters: B batch, T time, N outputs, D width of the residual stream.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from charjax.models.attention import (
    Attention,
    AttentionForm,
    FeedForward,
    KeysValues,
    MLPActivation,
)
from charjax.models.layers import Dropout, NormForm, Shift, make_norm
from charjax.ops.precision import wide_dtype

Residual = Literal["pre_norm", "deepnorm", "rezero", "layerscale", "plain", "fixup"]
# The forms whose sublayers read a norm; the norm before the readout goes with them.
NORM_FIRST = ("pre_norm", "layerscale")


class ResidualBlock(nn.Module):
    """Attention and an MLP, each a sublayer F, with another connection to the stream than Block's.

    deepnorm     LN(alpha x + F(x)), alpha = (2 n_layer)^(1/4) (Wang et al. 2022)
    rezero       x + g F(x), g a number      (Bachlechner et al. 2020)
    layerscale   x + g F(LN(x)), g a vector  (Touvron et al. 2021)
    plain        x + F(x)                    (as T-Fixup needs, Huang et al. 2020)
    fixup        x + g F(x + b), g and b numbers, as more are within an MLP (Zhang et al. 2019)

    Attributes:
      residual: the form.
      n_layer: blocks of the model.
      others: as of Block.
    """

    residual: Residual
    n_layer: int
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
        """Compute a block, with the arguments and results of Block."""
        drop = Dropout(self.dropout, deterministic=not train)
        attention = Attention(
            self.n_head, self.dropout, self.bias, self.dtype, self.form, name="attention"
        )
        shifts = self.residual == "fixup"
        feed_forward = FeedForward(
            self.bias, self.activation, self.dtype, self.d_ff, shifts, name="mlp"
        )
        read_BTD = self._read(x_BTD, 1)
        o_BND, cache = attention(
            read_BTD, cache, start, angles, num_outputs=num_outputs, train=train
        )
        x_BND = self._add(x_BTD[:, -num_outputs:], drop(o_BND), 1)
        y_BND = feed_forward(self._read(x_BND, 2), train=train)
        return self._add(x_BND, drop(y_BND), 2), cache

    def _read(self, x_BTD: Array, sublayer: int) -> Array:
        """Return the input of a sublayer."""
        if self.residual == "fixup":
            return Shift(self.dtype, name=f"shift_{sublayer}")(x_BTD)
        if self.residual not in NORM_FIRST:
            return x_BTD
        return self._norm(sublayer)(x_BTD)

    def _add(self, x_BTD: Array, y_BTD: Array, sublayer: int) -> Array:
        """Join a sublayer's output to the stream."""
        if self.residual == "deepnorm":
            alpha = (2 * self.n_layer) ** 0.25
            return self._norm(sublayer)(alpha * x_BTD + y_BTD)
        if self.residual in ("rezero", "layerscale", "fixup"):
            shape = (x_BTD.shape[-1],) if self.residual == "layerscale" else ()
            gain = self.param(f"residual_gain_{sublayer}", nn.initializers.ones, shape, jnp.float32)
            # In float32, as the gain's gradient is a sum over batch and time.
            y_BTD = (y_BTD.astype(wide_dtype(self.dtype)) * gain).astype(self.dtype)
        return x_BTD + y_BTD

    def _norm(self, sublayer: int) -> nn.Module:
        return make_norm(self.norm, self.bias, self.dtype, f"norm_{sublayer}")


def norm_read_by(residual: Residual, layer: str, n_layer: int) -> str | None:
    """Return the path of the norm before a layer, or of the one that ends it.

    Args:
      residual: the form of the model.
      layer: "final_norm", "readout", or a path in a block, such as "block_0/mlp/up"; "block_0" is
        the stream after that block.
      n_layer: blocks of the model.
    """
    block, _, sublayer = layer.partition("/")
    # Of layers that read the same vectors, one stands for all.
    reads = {"attention/query": "attention/qkv", "attention/key_value": "attention/qkv"}
    sublayer = (reads | {"mlp/gate": "mlp/up"}).get(sublayer, sublayer)
    if residual in NORM_FIRST:
        if layer in ("final_norm", "readout"):
            return "final_norm"
        norm = {"attention/qkv": "norm_1", "mlp/up": "norm_2"}.get(sublayer)
        return f"{block}/{norm}" if norm else None
    if residual != "deepnorm":
        return None
    if layer == "readout":
        return f"block_{n_layer - 1}/norm_2"
    if sublayer == "attention/qkv":
        index = int(block.removeprefix("block_"))
        return f"block_{index - 1}/norm_2" if index else None
    norm = {"mlp/up": "norm_1", "": "norm_2"}.get(sublayer)
    return f"{block}/{norm}" if norm else None
