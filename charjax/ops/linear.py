"""Products with a matrix of weights, in the form that is fast in XLA's CPU backend.

XLA prepares a product over two axes, such as the weights' gradient of x_BTD W_DE over B and T,
by copying operands transposed, and fuses their whole computation into that copy: derivatives of
activations and norms, computed again at a stride. With one row for each token it is a plain
product of matrices, and nothing is copied. On a GPU the reshape costs nothing.

Letters: ... leading axes, N rows, D input width, E output width.
"""

import math

import jax
from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike

from charjax.ops.choice import is_compiled_product, on_cpu, weights_gradient_version
from charjax.ops.compiled import compiled_matmul


def matmul(x: Array, kernel_DE: Array, preferred_element_type: DTypeLike | None = None) -> Array:
    """x @ kernel for x of any number of axes, as one product of two matrices.

    Only reverse-mode derivatives (and forward ones of those) are defined.

    Args:
      x: (..., D).
      kernel_DE: (D, E), of the dtype of x.
      preferred_element_type: dtype of the sums and of the result, as in jnp.matmul.

    Returns:
      (..., E).
    """
    *leading, D = x.shape
    E = kernel_DE.shape[1]
    rows_ND = x.reshape(math.prod(leading), D)
    is_plain = preferred_element_type in (None, x.dtype)
    if is_plain and is_compiled_product(len(rows_ND), D, E, x.dtype):
        rows_NE = compiled_matmul(rows_ND, kernel_DE)
    elif preferred_element_type is None and on_cpu():
        rows_NE = _cpu_product(rows_ND, kernel_DE)
    else:
        rows_NE = _product(rows_ND, kernel_DE, 1, 0, preferred_element_type)
    return rows_NE.reshape(*leading, E)


def matmul_reference(
    x: Array, kernel_DE: Array, preferred_element_type: DTypeLike | None = None
) -> Array:
    """Compute `matmul` plainly."""
    return _product(x, kernel_DE, x.ndim - 1, 0, preferred_element_type)


def _product(a: Array, b: Array, axis_a: int, axis_b: int, dtype: DTypeLike | None = None) -> Array:
    dimensions = (((axis_a,), (axis_b,)), ((), ()))
    return lax.dot_general(a, b, dimensions, preferred_element_type=dtype)


@jax.custom_vjp
def _cpu_product(x_ND: Array, kernel_DE: Array) -> Array:
    return _product(x_ND, kernel_DE, 1, 0)


def _forward(x_ND: Array, kernel_DE: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x_ND, kernel_DE, 1, 0), (x_ND, kernel_DE)


def _backward(saved: tuple[Array, Array], g_NE: Array) -> tuple[Array, Array]:
    x_ND, kernel_DE = saved
    return _product(g_NE, kernel_DE, 1, 1), _weights_gradient(x_ND, g_NE)


_cpu_product.defvjp(_forward, _backward)


def _weights_gradient(x_ND: Array, g_NE: Array) -> Array:
    """x' g (D, E)."""
    version = weights_gradient_version(x_ND, g_NE)
    if version == "onednn":
        return _product(x_ND, g_NE, 0, 0)
    if version == "laid out":
        return _transposed_product(x_ND, g_NE)
    # Without the barrier XLA would fold this transpose into the product.
    gradient_ED = lax.optimization_barrier(_transposed_product(g_NE, x_ND))
    # Laid out once: the optimiser reads it five times.
    return row_major(gradient_ED.T)


def _transposed_product(a_NX: Array, b_NY: Array) -> Array:
    """Return a' b, with the transpose copied first: XLA's fast products take none on the left.

    In bfloat16 they would fall to float32's speed, in float32 to a slower library's.
    """
    return _product(row_major(a_NX.T), b_NY, 1, 0)


def row_major(x: Array) -> Array:
    """Copy x into the order of its axes in memory: a transpose is not left to its consumer."""
    # jax 0.10 takes the layout of a program's output from a constraint just before it, and will
    # then not have arguments donated; the barrier stands between.
    return lax.optimization_barrier(
        with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))
    )
