"""The library's MLP with hidden layers of one width, whose number is data, as a loop over layers.

`charjax.models.mlp.MLP` writes out every layer: each depth is a program of its own, and 100 layers
take longer to compile than a small network to train. Here the layers are a loop over stacked
parameters, and a network ends at a number of layers that its state holds: one program serves a
range of depths. Values and gradients are those of MLP (`mlp_parameters` gives its parameters);
the layers after the end are passed by, and their gradients are 0.

Letters: B batch, T time, N outputs, S history, C context length, E width of an embedding, L the
most hidden layers, H their width, V vocabulary.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from charjax.models.contract import FiniteModel
from charjax.models.layers import ENDS, Embedding, Readout, hidden_layer
from charjax.models.own import activation_of
from charjax.models.roles import Parameter, Role, Roles, dense
from charjax.ops.linear import matmul_reference


class Tower(FiniteModel):
    """An MLP of up to L hidden layers of width H, in float32.

    The collection `tower` holds `depth`, () int32: the number of hidden layers, from 1 to L.

    Attributes:
      context_length: C; token 0 stands before a text.
      d_embed: E.
      width: H.
      most: L, at least 2.
      activation: "tanh" or "relu".
    """

    context_length: int
    d_embed: int
    width: int
    most: int
    activation: str
    flops_formula: ClassVar[str] = "3 x 2 (C E H + (L - 1) H H + H V)"

    @property
    def roles(self) -> Roles:  # type: ignore[override]
        """The roles of MLP; the kernels after the first are stacked on their axis 0."""
        first = dense(activation=self.activation, reads_embedding=True, places=self.context_length)
        stacked = Parameter(Role.HIDDEN, fan_in=(1,), fan_out=(2,), activation=self.activation)
        return (
            *ENDS,
            ("first/kernel", first),
            ("layers/kernel", stacked),
            ("(first|layers)/bias", Parameter(Role.BIAS)),
        )

    @property
    def lookback(self) -> int:
        """C - 1."""
        return self.context_length - 1

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
        N = history_BS.shape[1] - self.lookback
        x_BSE = Embedding(self.vocab_size, self.d_embed, name="token_embedding")(history_BS)
        h_BNH = jnp.concatenate([x_BSE[:, i : i + N] for i in range(self.context_length)], axis=-1)
        shape = (self.width, self.dtype, "none", ("first", ""), self.activation)
        h_BNH = hidden_layer(h_BNH, *shape, train=train)
        depth = self.variable("tower", "depth", lambda: jnp.int32(self.most)).value
        h_BNH = _Layers(self.most - 1, self.width, self.activation, name="layers")(h_BNH, depth - 1)
        return Readout(self.vocab_size, bias=True, dtype=self.dtype, name="readout")(h_BNH), cache


class _Layers(nn.Module):
    """Hidden layers one after the other, of which the first so many count."""

    count: int
    width: int
    activation: str

    @nn.compact
    def __call__(self, h_BNH: Array, counted: Array) -> Array:
        """(B, N, H) to (B, N, H)."""
        L, H = self.count, self.width
        kernel_LHH = self.param("kernel", nn.initializers.zeros, (L, H, H), jnp.float32)
        bias_LH = self.param("bias", nn.initializers.zeros, (L, H), jnp.float32)
        activation = activation_of(self.activation)

        def layer(h_BNH: Array, parameters: tuple[Array, Array, Array]) -> tuple[Array, None]:
            index, kernel_HH, bias_H = parameters
            after_BNH = activation(matmul_reference(h_BNH, kernel_HH) + bias_H)
            return jnp.where(index < counted, after_BNH, h_BNH), None

        return lax.scan(layer, h_BNH, (jnp.arange(L), kernel_LHH, bias_LH))[0]


def mlp_parameters(params: Any, depth: int) -> Any:
    """Return the parameters of the MLP of `depth` hidden layers that a tower's parameters are."""
    layers = {
        f"hidden_{i + 1}": jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        for i in range(depth - 1)
    }
    ends = {name: params[name] for name in ("token_embedding", "readout")}
    return {**ends, "hidden_0": params["first"], **layers}
