"""Products by the compiled kernels of `charjax-kernels`, in float32 on a CPU.

`ops.choice` decides where they are used.

Letters: N rows, D input width, E output width.
"""

from typing import Any

import jax
from jax import Array

from charjax.ops.kernels import find_products


@jax.custom_vjp
def compiled_matmul(x_ND: Array, kernel_DE: Array) -> Array:
    """Return x @ kernel (N, E), equal to `ops.linear.matmul` but for the order of additions.

    Only reverse-mode derivatives (and forward ones of those) are defined.
    """
    return product(x_ND, kernel_DE)


def _forward(x_ND: Array, kernel_DE: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x_ND, kernel_DE), (x_ND, kernel_DE)


def _backward(saved: tuple[Array, Array], g_NE: Array) -> tuple[Array, Array]:
    x_ND, kernel_DE = saved
    return product(g_NE, kernel_DE, right=True), product(x_ND, g_NE, left=True)


compiled_matmul.defvjp(_forward, _backward)


def product(a: Array, b: Array, *, left: bool = False, right: bool = False) -> Array:
    """Return a b; with `left` a is given transposed, with `right` b."""

    @jax.custom_jvp
    def multiply(a: Array, b: Array) -> Array:
        rows, columns = a.shape[1 if left else 0], b.shape[0 if right else 1]
        call = kernel_call("PRODUCT", float32(rows, columns))
        result: Array = call(a, b, left=left, right=right, alone=is_alone())
        return result

    @multiply.defjvp
    def _jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        (a, b), (da, db) = primals, tangents
        return multiply(a, b), multiply(da, b) + multiply(a, db)

    result: Array = multiply(a, b)
    return result


def kernel_call(name: str, shapes: Any) -> Any:
    """Return a function that calls a kernel, given the name of its constant in the package."""
    target = getattr(find_products(), name)
    return jax.ffi.ffi_call(target, shapes, vmap_method="broadcast_all")


def float32(*shape: int) -> jax.ShapeDtypeStruct:
    """Return the description of a kernel's result."""
    return jax.ShapeDtypeStruct(shape, "float32")


def is_alone() -> bool:
    """Return true if other devices, which are the other cores, have rows of their own."""
    return jax.sharding.get_abstract_mesh().size > 1
