"""The cells of recurrent networks: their products, and the norms of a layer-norm cell.

Letters: B batch, T time, D width of a cell's input, H width of its state, G gates * H.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from charjax.models.layers import Norm
from charjax.ops.gates import State
from charjax.ops.normalization import layer_norm
from charjax.ops.precision import wide_dtype
from charjax.ops.recurrence import Update, recurrence


class Cell(nn.Module):
    """One layer at one time: (state, input) -> (state, output).

    The products are in `dtype`; the gates and the state are in float32.

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
        """Declare two kernels and, as PyTorch and cuDNN have them, two biases."""
        G = self.gates * self.d_hidden
        kernel, bias = nn.initializers.lecun_normal(), nn.initializers.zeros
        self.input_kernel = self.param("input_kernel", kernel, (self.d_input, G), jnp.float32)
        self.hidden_kernel = self.param("hidden_kernel", kernel, (self.d_hidden, G), jnp.float32)
        self.input_bias = self.param("input_bias", bias, (G,), jnp.float32)
        self.hidden_bias = self.param("hidden_bias", bias, (G,), jnp.float32)

    def __call__(self, state: State, x: Array, table_VG: Array | None) -> tuple[State, Array]:
        """Take one step. x is (B, D), or tokens (B,) whose parts in the gates are in the table."""
        x_BG = self.project(x) if table_VG is None else table_VG[x]
        a_BG = self.recur(state[0])
        state = self.update(x_BG, a_BG, state)
        return state, state[0].astype(self.dtype)

    def along(self, state: State, x_TB: Array, table_VG: Array | None) -> tuple[State, Array]:
        """Take all steps, by the op that owns the scan. x_TB is (T, B, D), or tokens (T, B)."""
        x_TB = self.project(x_TB) if table_VG is None else x_TB
        kernel_HG, bias_G = self.hidden_kernel, self.hidden_bias
        return recurrence(self.update, self.dtype, state, x_TB, table_VG, kernel_HG, bias_G)

    def project(self, x_BD: Array) -> Array:
        """Return the input's part in the gates: (B, G) float32; (T, B, G) for all times."""
        return self._product(x_BD, self.input_kernel) + self.input_bias

    def recur(self, h_BH: Array) -> Array:
        """Return the state's part in the gates, (B, G) float32."""
        return self._product(h_BH, self.hidden_kernel) + self.hidden_bias

    def _product(self, x_BD: Array, kernel_DG: Array) -> Array:
        product_BG = x_BD.astype(self.dtype) @ kernel_DG.astype(self.dtype)
        return product_BG.astype(wide_dtype(self.dtype))


ScannedCell = nn.scan(
    Cell,
    variable_broadcast="params",
    split_rngs={"params": False},
    in_axes=(0, nn.broadcast),
)


class NormedCell(Cell):
    """A cell whose two parts of the gates are normalised (Ba et al. 2016, arXiv:1607.06450).

        x = LN(x_t W_i) + b_i      a = LN(h_{t-1} W_h) + b_h

    In a GRU the gates r and z are normalised together and n alone, in an LSTM all four together.
    An LSTM's output is o_t * tanh(LN(c_t)), with a bias; c_t itself is carried on as it is.

    Attributes:
      groups: numbers of gates that are normalised together.
      has_cell: the state is (h, c), an LSTM's.
    """

    groups: tuple[int, ...] = (1,)
    has_cell: bool = False

    def setup(self) -> None:
        """Declare the norms' scales; their biases are the cell's own."""
        super().setup()
        shape = (self.gates * self.d_hidden,)
        self.input_scale = self.param("input_scale", nn.initializers.ones, shape, jnp.float32)
        self.hidden_scale = self.param("hidden_scale", nn.initializers.ones, shape, jnp.float32)
        if self.has_cell:
            self.cell_norm = Norm(True, wide_dtype(self.dtype))

    def __call__(self, state: State, x: Array, table_VG: Array | None) -> tuple[State, Array]:
        """Take one step, as Cell does."""
        if not self.has_cell:
            return super().__call__(state, x, table_VG)
        x_BG = self.project(x) if table_VG is None else table_VG[x]
        i_BH, f_BH, g_BH, o_BH = jnp.split(x_BG + self.recur(state[0]), 4, axis=-1)
        c_BH = jax.nn.sigmoid(f_BH) * state[1] + jax.nn.sigmoid(i_BH) * jnp.tanh(g_BH)
        h_BH = jax.nn.sigmoid(o_BH) * jnp.tanh(self.cell_norm(c_BH))
        return (h_BH, c_BH), h_BH.astype(self.dtype)

    def project(self, x_BD: Array) -> Array:
        """Return the input's part in the gates: (B, G) float32; (T, B, G) for all times."""
        return self._normed(self._product(x_BD, self.input_kernel), self.input_scale) + (
            self.input_bias
        )

    def recur(self, h_BH: Array) -> Array:
        """Return the state's part in the gates, (B, G) float32."""
        return self._normed(self._product(h_BH, self.hidden_kernel), self.hidden_scale) + (
            self.hidden_bias
        )

    def _normed(self, x_BG: Array, scale_G: Array) -> Array:
        parts, end = [], 0
        for gates in self.groups:
            begin, end = end, end + gates * self.d_hidden
            parts.append(layer_norm(x_BG[..., begin:end], scale_G[begin:end]))
        return jnp.concatenate(parts, axis=-1)


ScannedNormedCell = nn.scan(
    NormedCell,
    variable_broadcast="params",
    split_rngs={"params": False},
    in_axes=(0, nn.broadcast),
)
