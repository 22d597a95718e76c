"""Recurrent networks: the equations of their cells, and the scan of a cell along the text.

The cells themselves, with their products, are in `charjax.models.recurrent_cells`.

A cell reads x, the input's part in the gates, x_t W_i + b_i, and a, the state's part,
h_{t-1} W_h + b_h. The gates are side by side in the columns of W_i and W_h, in PyTorch's order.

Letters: B batch, T time, N outputs, D width of a cell's input, H width of its state,
G gates * H, V vocabulary.
"""

import functools
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from charjax.models.contract import CharModel, Memory
from charjax.models.layers import ENDS, Dropout, Embedding, Readout
from charjax.models.own import Function, activation_of
from charjax.models.recurrent_cells import Cell, NormedCell, ScannedCell, ScannedNormedCell
from charjax.models.recurrent_taps import recurrent_taps
from charjax.models.roles import Activation, Parameter, Role, Roles, dense
from charjax.models.taps import Tap
from charjax.ops.choice import owns_scan
from charjax.ops.gates import State, gru_gates, lstm_gates
from charjax.ops.precision import wide_dtype
from charjax.ops.recurrence import Update


def gru_update(x_BG: Array, a_BG: Array, state: State) -> State:
    """Update a gated recurrent unit (Cho et al. 2014), as PyTorch and cuDNN write it.

    The reset gate is applied after the product with the state, and z keeps the old state:

        r_t = sigma(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
        z_t = sigma(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
        n_t = tanh(W_in x_t + b_in + r_t * (W_hn h_{t-1} + b_hn))
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}
    """
    (h_BH,) = state
    (x_r, x_z, x_n), (a_r, a_z, a_n) = (jnp.split(g_BG, 3, axis=-1) for g_BG in (x_BG, a_BG))
    r_BH = jax.nn.sigmoid(x_r + a_r)
    z_BH = jax.nn.sigmoid(x_z + a_z)
    n_BH = jnp.tanh(x_n + r_BH * a_n)
    return ((1 - z_BH) * n_BH + z_BH * h_BH,)


def lstm_update(x_BG: Array, a_BG: Array, state: State) -> State:
    """Update a long short-term memory (Hochreiter and Schmidhuber 1997).

    With the forget gate of Gers et al. 2000, without peepholes; the gates are i, f, g, o:

        i_t = sigma(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)      f_t, o_t likewise
        g_t = tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = o_t * tanh(c_t)
    """
    _, c_BH = state
    i_BH, f_BH, g_BH, o_BH = jnp.split(x_BG + a_BG, 4, axis=-1)
    c_BH = jax.nn.sigmoid(f_BH) * c_BH + jax.nn.sigmoid(i_BH) * jnp.tanh(g_BH)
    return jax.nn.sigmoid(o_BH) * jnp.tanh(c_BH), c_BH


def rnn_update(x_BG: Array, a_BG: Array, state: State) -> State:
    """h' = tanh(x + a), for a state (h,) (Elman 1990)."""
    return (jnp.tanh(x_BG + a_BG),)


def relu_update(x_BG: Array, a_BG: Array, state: State) -> State:
    """h' = max(0, x + a), for a state (h,) (Le et al. 2015)."""
    return (jax.nn.relu(x_BG + a_BG),)


@functools.cache
def own_update(activation: Function) -> Update:
    """Return the update h' = f(x + a), for a state (h,), of an activation of the user's own.

    Cached: programs of one activation are compiled for one update.
    """

    def update(x_BG: Array, a_BG: Array, state: State) -> State:
        return (activation(x_BG + a_BG),)

    return update


class Recurrent(CharModel):
    """Stacked cells, each scanned along the text.

    Dropout (Zaremba et al. 2014) is on every layer's output, not between one time and the next.

    Attributes:
      n_layer: cells.
      d_embed: width of an embedding.
      d_hidden: H.
      dropout: rate.
      gates: matrices side by side in a cell's kernel.
      num_states: arrays in a cell's state; the first one is its output.
      groups: numbers of gates that a layer-norm cell normalises together, see NormedCell.
      norm: "none", or "layernorm" of the families that have `groups`.
    """

    n_layer: int
    d_embed: int
    d_hidden: int
    dropout: float
    memory: ClassVar[Memory] = "carried"
    gates: ClassVar[int]
    num_states: ClassVar[int] = 1
    groups: ClassVar[tuple[int, ...]] = ()
    norm: Literal["none", "layernorm"] = "none"

    @property
    def update(self) -> Update:
        """The cell's equations, from (x, a, state) to the new state."""
        raise NotImplementedError

    def init_cache(self, batch_size: int) -> tuple[State, ...]:
        """Return the zero state of every layer: arrays (B, H) float32."""
        # Separate arrays, so that a caller can donate them.
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
            cell = self._cell(ScannedCell, ScannedNormedCell, width, name=f"cell_{i}")
            table_VG = None
            if i == 0 and tokens_BT.size > self.vocab_size:
                # Fewer symbols than tokens: project each symbol once, and look that up, in the
                # scan (outside of it, or for the layers above, storing all projections is slower
                # on a CPU than one product per step; on a GPU a lookup outside writes and reads
                # all projections needlessly).
                table_VG = cell.project(embedding.embedding)
            elif i == 0:
                h_TBH = embedding(h_TBH).astype(self.dtype)
            scan = cell.along if self.norm == "none" and owns_scan(T) else cell
            state, h_TBH = scan(state, h_TBH, table_VG)
            h_TBH = Dropout(self.dropout, deterministic=not train)(h_TBH)
            new_states.append(state)
        h_NBH = h_TBH[T - (num_outputs or T) :]
        logits_NBV = Readout(self.vocab_size, bias=True, dtype=self.dtype, name="readout")(h_NBH)
        return jnp.swapaxes(logits_NBV, 0, 1), tuple(new_states)

    @property
    def forward_flops(self) -> float:
        """2 (sum over layers of G (D + H) + H V)."""
        return 2.0 * (self.matrix_weights + self.d_hidden * self.vocab_size)

    @property
    def matrix_weights(self) -> int:
        """The kernels of all cells."""
        widths = [self.d_embed] + [self.d_hidden] * (self.n_layer - 1)
        return self.gates * sum((D + self.d_hidden) * self.d_hidden for D in widths)

    @property
    def tabled_flops(self) -> float:
        """Those of the first layer's input: its products are a table over symbols."""
        return 2.0 * self.gates * self.d_embed * self.d_hidden

    def saved_values(self, length: int) -> int:
        """Estimate 8 numbers per unit, as XLA's figures were; and with norms their inputs."""
        units = 8 if self.norm == "none" else 8 + 4 * self.gates
        return units * self.n_layer * self.d_hidden * length

    def activation_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Return the states of all layers, those of the one at work, and the logits."""
        return {
            "states": (self.n_layer, length, self.d_hidden),
            "layer": (length, self.d_hidden),
            "logits": (length, self.vocab_size),
        }

    def taps(self) -> tuple[Tap, ...]:
        """Describe the embedding, each cell's state, and the readout."""
        return recurrent_taps(self, has_theory=False)

    @property
    def is_plain(self) -> bool:
        """Without norms."""
        return self.norm == "none"

    def make_cell(self, d_input: int) -> Cell:
        """Return a cell outside of the model, to be applied to the parameters of one within."""
        return self._cell(Cell, NormedCell, d_input, parent=None)

    def _cell(self, plain: Any, normed: Any, d_input: int, **place: Any) -> Any:
        settings = (self.update, self.gates, d_input, self.d_hidden, self.dtype)
        if self.norm == "none":
            return plain(*settings, **place)
        return normed(*settings, groups=self.groups, has_cell=self.num_states == 2, **place)


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
        (r"cell_\d+/(input_scale|hidden_scale|cell_norm/scale)", Parameter(Role.GAIN)),
        (r"cell_\d+/cell_norm/bias", Parameter(Role.BIAS)),
    )


def _flops_formula(gates: int) -> str:
    return f"3 x 2 (sum over L of G (D_in H + H H) + H V), G = {gates}"


class GRU(Recurrent):
    """The gated recurrent unit: `gru_update`."""

    gates: ClassVar[int] = 3
    groups: ClassVar[tuple[int, ...]] = (2, 1)
    roles: ClassVar[Roles] = _roles("reset", "update", "new")
    flops_formula: ClassVar[str] = _flops_formula(3)

    @property
    def update(self) -> Update:
        """`gru_update`, with a gradient written by hand."""
        return gru_gates


class LSTM(Recurrent):
    """The long short-term memory: `lstm_update`."""

    gates: ClassVar[int] = 4
    groups: ClassVar[tuple[int, ...]] = (4,)
    num_states: ClassVar[int] = 2
    roles: ClassVar[Roles] = _roles("input", "forget", "cell", "output")
    flops_formula: ClassVar[str] = _flops_formula(4)

    @property
    def update(self) -> Update:
        """`lstm_update`, with a gradient written by hand."""
        return lstm_gates


class RNN(Recurrent):
    """The simple recurrent network: `rnn_update`, or `relu_update`.

    Attributes:
      activation: "tanh", "relu" or one of the user's own.
    """

    activation: Literal["tanh", "relu"] | str = "tanh"
    gates: ClassVar[int] = 1
    flops_formula: ClassVar[str] = _flops_formula(1)

    @property
    def roles(self) -> Roles:  # type: ignore[override]
        """The parameters' roles; a scheme may draw by the activation."""
        return _roles("state", activation=self.activation)

    @property
    def update(self) -> Update:
        """The activation's."""
        known = {"tanh": rnn_update, "relu": relu_update}
        return known.get(self.activation) or own_update(activation_of(self.activation))

    def taps(self) -> tuple[Tap, ...]:
        """Describe the layers; mean-field theory knows a state without gates."""
        return recurrent_taps(self, has_theory=True)
