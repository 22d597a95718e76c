"""Recurrent networks: a cell, and the scan that carries its state along the text.

In a cell, x is the input's part in the gates, x_t W_i + b_i, and a the state's, h W_h + b_h. The
gates stand side by side in the columns of W_i and W_h, in PyTorch's order.

Letters: B batch, T time, N outputs, D width of a cell's input, H width of its state,
G gates * H, V vocabulary.
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from charjax.models.contract import CharModel, Memory
from charjax.models.layers import ENDS, Embedding, Readout
from charjax.models.roles import Activation, Parameter, Role, dense
from charjax.ops.choice import owns_scan
from charjax.ops.gates import State, gru_gates, lstm_gates
from charjax.ops.precision import wide_dtype
from charjax.ops.recurrence import Update, recurrence

Roles = tuple[tuple[str, Parameter], ...]


def rnn_update(x_BG: Array, a_BG: Array, state: State) -> State:
    """h' = tanh(x + a); the state is (h,)."""
    return (jnp.tanh(x_BG + a_BG),)


def relu_update(x_BG: Array, a_BG: Array, state: State) -> State:
    """h' = max(0, x + a); the state is (h,)."""
    return (jax.nn.relu(x_BG + a_BG),)


class Cell(nn.Module):
    """One layer at one time: (state, input) -> (state, output).

    The products are in `dtype`; what is done to them, and the state, in float32.

    Attributes:
      update: from the two parts of the gates and the state to the new state.
      gates: matrices side by side in a kernel.
      d_input: D.
      d_hidden: H.
      dtype: of the products and the output.
    """

    update: Update
    gates: int
    d_input: int
    d_hidden: int
    dtype: DTypeLike

    def setup(self) -> None:
        """Two kernels and, as PyTorch and cuDNN have them, two biases."""
        G = self.gates * self.d_hidden
        kernel, bias = nn.initializers.lecun_normal(), nn.initializers.zeros
        self.input_kernel = self.param("input_kernel", kernel, (self.d_input, G), jnp.float32)
        self.hidden_kernel = self.param("hidden_kernel", kernel, (self.d_hidden, G), jnp.float32)
        self.input_bias = self.param("input_bias", bias, (G,), jnp.float32)
        self.hidden_bias = self.param("hidden_bias", bias, (G,), jnp.float32)

    def __call__(self, state: State, x: Array, table_VG: Array | None) -> tuple[State, Array]:
        """One step. x is (B, D), or tokens (B,) whose parts in the gates are in the table."""
        x_BG = self.project(x) if table_VG is None else table_VG[x]
        a_BG = self._product(state[0], self.hidden_kernel) + self.hidden_bias
        state = self.update(x_BG, a_BG, state)
        return state, state[0].astype(self.dtype)

    def along(self, state: State, x_TB: Array, table_VG: Array | None) -> tuple[State, Array]:
        """All steps, by the op that owns the scan. x_TB is (T, B, D), or tokens (T, B)."""
        x_TB = self.project(x_TB) if table_VG is None else x_TB
        kernel_HG, bias_G = self.hidden_kernel, self.hidden_bias
        return recurrence(self.update, self.dtype, 1, state, x_TB, table_VG, kernel_HG, bias_G)

    def project(self, x_BD: Array) -> Array:
        """The input's part in the gates: (B, G) float32; (T, B, G) of all times."""
        return self._product(x_BD, self.input_kernel) + self.input_bias

    def _product(self, x_BD: Array, kernel_DG: Array) -> Array:
        product_BG = x_BD.astype(self.dtype) @ kernel_DG.astype(self.dtype)
        return product_BG.astype(wide_dtype(self.dtype))


ScannedCell = nn.scan(
    Cell,
    variable_broadcast="params",
    split_rngs={"params": False},
    in_axes=(0, nn.broadcast),
)


class Recurrent(CharModel):
    """Cells, each scanned along the text, one upon the other.

    Dropout (Zaremba et al. 2014) is on every layer's output, not between one time and the next.

    Attributes:
      n_layer: cells.
      d_embed: width of an embedding.
      d_hidden: H.
      dropout: rate.
    """

    n_layer: int
    d_embed: int
    d_hidden: int
    dropout: float
    memory: ClassVar[Memory] = "carried"
    update: ClassVar[Update]
    gates: ClassVar[int]
    num_states: ClassVar[int] = 1

    @property
    def cell_update(self) -> Update:
        """What a cell does with its gates and its state."""
        return type(self).update

    def init_cache(self, batch_size: int) -> tuple[State, ...]:
        """The zero state of every layer: arrays (B, H) float32."""
        # Arrays of their own, so that a caller can donate them.
        shape = (batch_size, self.d_hidden)
        return tuple(
            tuple(jnp.zeros(shape, wide_dtype(self.dtype)) for _ in range(self.num_states))
            for _ in range(self.n_layer)
        )

    @nn.compact
    def __call__(
        self,
        tokens_BT: Array,
        cache: tuple[State, ...] | None = None,
        *,
        num_outputs: int | None = None,
        train: bool = False,
    ) -> tuple[Array, tuple[State, ...]]:
        """See CharModel."""
        B, T = tokens_BT.shape
        embedding = Embedding(self.vocab_size, self.d_embed, name="token_embedding")
        states = self.init_cache(B) if cache is None else cache
        new_states, h_TBH = [], tokens_BT.T
        for i, state in enumerate(states):
            width = self.d_hidden if i else self.d_embed
            cell = ScannedCell(
                self.cell_update, self.gates, width, self.d_hidden, self.dtype, name=f"cell_{i}"
            )
            table_VG = None
            if i == 0 and tokens_BT.size > self.vocab_size:
                # Fewer symbols than tokens: project each symbol once, and look that up, in the
                # scan (outside of it, or for the layers above, storing all projections is slower
                # on a CPU than doing the product a step at a time; on a GPU what is looked up
                # outside is a write and a read of all projections, for nothing).
                table_VG = cell.project(embedding.embedding)
            elif i == 0:
                h_TBH = embedding(h_TBH).astype(self.dtype)
            scan = cell.along if owns_scan(T) else cell
            state, h_TBH = scan(state, h_TBH, table_VG)
            h_TBH = nn.Dropout(self.dropout, deterministic=not train)(h_TBH)
            new_states.append(state)
        h_NBH = h_TBH[T - (num_outputs or T) :]
        logits_NBV = Readout(self.vocab_size, bias=True, dtype=self.dtype, name="readout")(h_NBH)
        return jnp.swapaxes(logits_NBV, 0, 1), tuple(new_states)


def _roles(*gate_names: str, activation: Activation = "gates") -> Roles:
    labels: dict[str, Any] = {"gates": len(gate_names), "gate_names": gate_names}
    kernels = labels | {"activation": activation}
    return (
        *ENDS,
        ("cell_0/input_kernel", dense(reads_embedding=True, **kernels)),
        (r"cell_[1-9]\d*/input_kernel", dense(**kernels)),
        (r"cell_\d+/hidden_kernel", dense(Role.RECURRENT, **kernels)),
        (r"cell_\d+/input_bias", Parameter(Role.GATE_BIAS, **labels)),
        (r"cell_\d+/hidden_bias", Parameter(Role.GATE_BIAS, second=True, **labels)),
    )


class RNN(Recurrent):
    """The simple recurrent network (Elman 1990), with tanh, or with ReLU as in Le et al. 2015.

    h_t = tanh(W_i x_t + b_i + W_h h_{t-1} + b_h)

    Attributes:
      activation: "tanh" or "relu".
    """

    activation: Literal["tanh", "relu"] = "tanh"
    update: ClassVar[Update] = staticmethod(rnn_update)
    gates: ClassVar[int] = 1

    @property
    def roles(self) -> Roles:  # type: ignore[override]
        """Of the parameters; a scheme may draw by the activation."""
        return _roles("state", activation=self.activation)

    @property
    def cell_update(self) -> Update:
        """By the activation."""
        return rnn_update if self.activation == "tanh" else relu_update


class GRU(Recurrent):
    """The gated recurrent unit (Cho et al. 2014), in the form of PyTorch and cuDNN.

    The reset gate is applied after the product with the state, and z keeps the old state:

        r_t = sigma(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
        z_t = sigma(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
        n_t = tanh(W_in x_t + b_in + r_t * (W_hn h_{t-1} + b_hn))
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}
    """

    update: ClassVar[Update] = staticmethod(gru_gates)
    gates: ClassVar[int] = 3
    roles: ClassVar[Roles] = _roles("reset", "update", "new")


class LSTM(Recurrent):
    """The long short-term memory (Hochreiter and Schmidhuber 1997) with the forget gate of Gers
    et al. 2000, without peepholes.

        i_t = sigma(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)      f_t, o_t likewise
        g_t = tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = o_t * tanh(c_t)

    The gates stand in the order i, f, g, o.
    """

    update: ClassVar[Update] = staticmethod(lstm_gates)
    gates: ClassVar[int] = 4
    num_states: ClassVar[int] = 2
    roles: ClassVar[Roles] = _roles("input", "forget", "cell", "output")
