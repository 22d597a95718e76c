"""minGRU: a gated recurrent unit whose gates do not read the state.

Letters: B batch, T time, N outputs, D width of a cell's input, H width of its state, G = 2 H,
V vocabulary.
"""

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

_GATES: dict[str, Any] = {"gates": 2, "gate_names": ("write", "candidate")}
# Numbers that a unit saves per step, as XLA's figures were for one layer (11 to 12 for more).
_SAVED = 15


class MinGRU(CharModel):
    """Stacked cells of Feng et al. 2024 (arXiv:2410.01201).

        z_t = sigma(W_z x_t + b_z)
        n_t = W_n x_t + b_n
        h_t = (1 - z_t) * h_{t-1} + z_t * n_t

    As gates and candidate depend on the input alone, h is linear in h_{t-1}, and all times are
    computed by one associative scan. Unlike in the GRU, z weighs the new value and 1 - z the old
    state, and there is neither a tanh nor a reset gate. Dropout is on every layer's output.

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
    flops_formula: ClassVar[str] = "3 x 2 (sum over L of 2 D_in H + H V)"
    roles: ClassVar[Roles] = (
        *ENDS,
        ("cell_0/gates/kernel", dense(reads_embedding=True, **_GATES)),
        (r"cell_[1-9]\d*/gates/kernel", dense(**_GATES)),
        (r"cell_\d+/gates/bias", Parameter(Role.BIAS)),
    )

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
            h_BTH = Cell(self.d_hidden, self.dtype, name=f"cell_{i}")(x_BTD, h_BH)
            new_states.append(h_BTH[:, -1])
            x_BTD = Dropout(self.dropout, deterministic=not train)(h_BTH)
        readout = Readout(self.vocab_size, bias=True, dtype=self.dtype, name="readout")
        return readout(x_BTD[:, T - (num_outputs or T) :]), tuple(new_states)

    @property
    def forward_flops(self) -> float:
        """2 (sum over layers of 2 D H + H V)."""
        return 2.0 * (self.matrix_weights + self.d_hidden * self.vocab_size)

    @property
    def matrix_weights(self) -> int:
        """The kernels of all cells."""
        widths = [self.d_embed] + [self.d_hidden] * (self.n_layer - 1)
        return 2 * self.d_hidden * sum(widths)

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


class Cell(nn.Module):
    """One layer at all times. The product is in `dtype`, gates and state are in float32."""

    d_hidden: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BTD: Array, h_BH: Array) -> Array:
        """Return the states (B, T, H), from the one before the first time."""
        gates_BTG = Linear(2 * self.d_hidden, True, self.dtype, name="gates")(x_BTD)
        gates_BTG = gates_BTG.astype(wide_dtype(self.dtype))
        z_BTH, n_BTH = jnp.split(gates_BTG, 2, axis=-1)
        z_BTH = jax.nn.sigmoid(z_BTH)
        return Scan(name="scan")(z_BTH * n_BTH, 1 - z_BTH, h_BH)


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
