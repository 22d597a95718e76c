"""minGRU and minLSTM: gated recurrent networks whose gates do not read the state.

As gates and candidate depend on the input alone, h is linear in h_{t-1}, and all times are computed
by one associative scan (Feng et al. 2024, arXiv:2410.01201).

Letters: B batch, T time, N outputs, D width of a cell's input, H width of its state, G gates * H,
V vocabulary.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from charjax.models.contract import CharModel, Memory
from charjax.models.layers import ENDS, Dropout, Embedding, Linear, Readout
from charjax.models.roles import Parameter, Role, Roles, dense
from charjax.models.taps import LOGITS, Tap, input_of, layer_of, output_of, tap_at
from charjax.ops.precision import wide_dtype

Update = Callable[[Array], tuple[Array, Array]]
# Numbers that a unit saves per step, as XLA's figures were for one layer (11 to 12 for more).
_SAVED = 15


def min_gru_update(gates_BTG: Array) -> tuple[Array, Array]:
    """Return (z n, 1 - z) of h_t = (1 - z_t) * h_{t-1} + z_t * n_t.

        z_t = sigma(W_z x_t + b_z)
        n_t = W_n x_t + b_n

    Unlike in the GRU, z weighs the new value and 1 - z the old state, and there is neither a tanh
    nor a reset gate.
    """
    z_BTH, n_BTH = jnp.split(gates_BTG, 2, axis=-1)
    z_BTH = jax.nn.sigmoid(z_BTH)
    return z_BTH * n_BTH, 1 - z_BTH


def min_lstm_update(gates_BTG: Array) -> tuple[Array, Array]:
    """Return (i' n, f') of h_t = f'_t * h_{t-1} + i'_t * n_t.

        f_t = sigma(W_f x_t + b_f)      i_t = sigma(W_i x_t + b_i)      n_t = W_n x_t + b_n
        f'_t = f_t / (f_t + i_t)        i'_t = i_t / (f_t + i_t)

    There is neither an output gate nor a cell beside h.
    """
    f_BTH, i_BTH, n_BTH = jnp.split(gates_BTG, 3, axis=-1)
    # f / (f + i) = sigma(log f - log i), which is a number even where both gates are 0.
    odds_BTH = jax.nn.softplus(-i_BTH) - jax.nn.softplus(-f_BTH)
    return jax.nn.sigmoid(-odds_BTH) * n_BTH, jax.nn.sigmoid(odds_BTH)


class MinRecurrent(CharModel):
    """Stacked cells, each over all times at once. Dropout is on every layer's output.

    Attributes:
      n_layer: cells.
      d_embed: width of an embedding.
      d_hidden: H.
      dropout: rate.
      update: from the products (B, T, G) to what is added to h_{t-1} and its coefficients.
      gate_names: matrices side by side in a cell's kernel.
    """

    n_layer: int
    d_embed: int
    d_hidden: int
    dropout: float
    memory: ClassVar[Memory] = "carried"
    update: ClassVar[Update]
    gate_names: ClassVar[tuple[str, ...]]

    def init_cache(self, batch_size: int) -> tuple[Array, ...]:
        """Return the zero state of every layer: (B, H) float32."""
        # Separate arrays, so that a caller can donate them.
        shape, dtype = (batch_size, self.d_hidden), wide_dtype(self.dtype)
        return tuple(jnp.zeros(shape, dtype) for _ in range(self.n_layer))

    @nn.compact
    def __call__(
        self,
        tokens_BT: Array,
        cache: tuple[Array, ...] | None = None,
        *,
        num_outputs: int | None = None,
        train: bool = False,
    ) -> tuple[Array, tuple[Array, ...]]:
        """See CharModel."""
        B, T = tokens_BT.shape
        states = self.init_cache(B) if cache is None else cache
        embedding = Embedding(self.vocab_size, self.d_embed, name="token_embedding")
        new_states, x_BTD = [], embedding(tokens_BT)
        for i, h_BH in enumerate(states):
            cell = Cell(
                type(self).update, len(self.gate_names), self.d_hidden, self.dtype, name=f"cell_{i}"
            )
            h_BTH = cell(x_BTD, h_BH)
            new_states.append(h_BTH[:, -1])
            x_BTD = Dropout(self.dropout, deterministic=not train)(h_BTH)
        readout = Readout(self.vocab_size, bias=True, dtype=self.dtype, name="readout")
        return readout(x_BTD[:, T - (num_outputs or T) :]), tuple(new_states)

    @property
    def forward_flops(self) -> float:
        """2 (sum over layers of G D + H V)."""
        return 2.0 * (self.matrix_weights + self.d_hidden * self.vocab_size)

    @property
    def matrix_weights(self) -> int:
        """The kernels of all cells."""
        widths = [self.d_embed] + [self.d_hidden] * (self.n_layer - 1)
        return len(self.gate_names) * self.d_hidden * sum(widths)

    def saved_values(self, length: int) -> int:
        """Estimate the numbers that the cells and the levels of their scans save."""
        return _SAVED * self.n_layer * self.d_hidden * length

    def activation_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Return the states of all layers, those of the one at work, and the logits."""
        return {
            "states": (self.n_layer, length, self.d_hidden),
            "layer": (length, self.d_hidden),
            "logits": (length, self.vocab_size),
        }

    def taps(self) -> tuple[Tap, ...]:
        """Describe the embedding, each cell's state, and the readout."""
        embedding = layer_of(self.roles, "token_embedding/embedding")
        taps = [tap_at(embedding, output_of("token_embedding"))]
        taps += [self._state_tap(f"cell_{i}") for i in range(self.n_layer)]
        return (*taps, tap_at(layer_of(self.roles, "readout/kernel"), LOGITS))

    def _state_tap(self, cell: str) -> Tap:
        product, state = output_of(f"{cell}/gates"), output_of(f"{cell}/scan")
        # h_t is a sum with this in it, so its gradient is that of h_t through all later times too.
        written = input_of(f"{cell}/scan")
        return Tap(
            layer_of(self.roles, f"{cell}/gates/kernel", cell),
            frozenset((product, written, state)),
            value=lambda recording: recording.arrays[state],
            preactivation=lambda recording: recording.arrays[product],
            gradient=lambda recording, gradients: gradients[written],
        )


def _roles(bias: Role, *gate_names: str) -> Roles:
    labels: dict[str, Any] = {"gates": len(gate_names), "gate_names": gate_names}
    named = labels if bias is Role.GATE_BIAS else {}
    return (
        *ENDS,
        ("cell_0/gates/kernel", dense(reads_embedding=True, **labels)),
        (r"cell_[1-9]\d*/gates/kernel", dense(**labels)),
        (r"cell_\d+/gates/bias", Parameter(bias, **named)),
    )


class MinGRU(MinRecurrent):
    """The minimal gated recurrent unit: `min_gru_update`."""

    flops_formula: ClassVar[str] = "3 x 2 (sum over L of 2 D_in H + H V)"
    update: ClassVar[Update] = min_gru_update
    gate_names: ClassVar[tuple[str, ...]] = ("write", "candidate")
    roles: ClassVar[Roles] = _roles(Role.BIAS, *gate_names)


class MinLSTM(MinRecurrent):
    """The minimal long short-term memory: `min_lstm_update`."""

    flops_formula: ClassVar[str] = "3 x 2 (sum over L of 3 D_in H + H V)"
    update: ClassVar[Update] = min_lstm_update
    gate_names: ClassVar[tuple[str, ...]] = ("forget", "input", "candidate")
    # The forget gate's bias is one that schemes for memory draw.
    roles: ClassVar[Roles] = _roles(Role.GATE_BIAS, *gate_names)


class Cell(nn.Module):
    """One layer at all times. The product is in `dtype`, gates and state are in float32."""

    update: Update
    gates: int
    d_hidden: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BTD: Array, h_BH: Array) -> Array:
        """Return the states (B, T, H), from the one before the first time."""
        gates_BTG = Linear(self.gates * self.d_hidden, True, self.dtype, name="gates")(x_BTD)
        added_BTH, kept_BTH = self.update(gates_BTG.astype(wide_dtype(self.dtype)))
        return Scan(name="scan")(added_BTH, kept_BTH, h_BH)


class Scan(nn.Module):
    """The linear recurrence h_t = a_t h_{t-1} + b_t; a module, for its tap points.

    The scan multiplies and adds pairs (a, b). With every a in (0, 1) no product overflows, and
    one that underflows is a state that is forgotten; a scan by cumulative sums would divide by
    such products, and needs logarithms.
    """

    @nn.compact
    def __call__(self, b_BTH: Array, a_BTH: Array, h_BH: Array) -> Array:
        """Return h_1, ..., h_T, (B, T, H), from h_0 (B, H)."""

        def compose(
            earlier: tuple[Array, Array], later: tuple[Array, Array]
        ) -> tuple[Array, Array]:
            (a, b), (c, d) = earlier, later
            # XLA's CPU backend would fuse the levels of the scan, and compile for minutes (jaxlib
            # 0.12 with fusions of several outputs, backend.set_flags).
            return jax.lax.optimization_barrier((c * a, c * b + d))

        a_BTH, b_BTH = jax.lax.associative_scan(compose, (a_BTH, b_BTH), axis=1)
        return a_BTH * h_BH[:, None] + b_BTH
