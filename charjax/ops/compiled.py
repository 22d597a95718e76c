"""Products and attention by the compiled kernels of `charjax-kernels`, in float32 on a CPU.

`ops.choice` decides where they are used. Each function equals its plain version (`ops.linear`,
`ops.activation`, `ops.attention`) but for the order of additions.

Letters: N rows, D input width, E output width, F width within an MLP, B batch, T time, H heads,
K width of a head.
"""

import functools
from typing import Any

import jax
from jax import Array

from charjax.ops.kernels import find_products


@jax.custom_vjp
def compiled_matmul(x_ND: Array, kernel_DE: Array) -> Array:
    """Return x @ kernel (N, E). Only reverse-mode derivatives are defined."""
    return _product(x_ND, kernel_DE)


def _matmul_forward(x_ND: Array, kernel_DE: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x_ND, kernel_DE), (x_ND, kernel_DE)


def _matmul_backward(saved: tuple[Array, Array], g_NE: Array) -> tuple[Array, Array]:
    x_ND, kernel_DE = saved
    return _product(g_NE, kernel_DE, right=True), _product(x_ND, g_NE, left=True)


compiled_matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def compiled_mlp(x_ND: Array, up_DF: Array, down_FD: Array) -> Array:
    """Return gelu(x up) down (N, D). Only reverse-mode derivatives are defined."""
    return _mlp_forward(x_ND, up_DF, down_FD)[0]


def _mlp_forward(x_ND: Array, up_DF: Array, down_FD: Array) -> tuple[Array, tuple[Array, ...]]:
    shape = _float32(x_ND.shape[0], up_DF.shape[1])
    call = _call("PRODUCT_GELU", (shape, shape))
    h_NF, derivative_NF = call(x_ND, up_DF, left=False, right=False, alone=_is_alone())
    return _product(h_NF, down_FD), (x_ND, up_DF, down_FD, h_NF, derivative_NF)


def _mlp_backward(saved: tuple[Array, ...], g_ND: Array) -> tuple[Array, Array, Array]:
    x_ND, up_DF, down_FD, h_NF, derivative_NF = saved
    call = _call("PRODUCT_FACTOR", _float32(*h_NF.shape))
    u_NF = call(g_ND, down_FD, derivative_NF, left=False, right=True, alone=_is_alone())
    gradients = _product(x_ND, u_NF, left=True), _product(h_NF, g_ND, left=True)
    return _product(u_NF, up_DF, right=True), *gradients


compiled_mlp.defvjp(_mlp_forward, _mlp_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def compiled_attention(qkv_BTE: Array, H: int) -> Array:
    """Return causal attention (B, T, H K). Only reverse-mode derivatives are defined.

    Args:
      qkv_BTE: queries, keys and values of all heads, (B, T, 3 H K).
      H: heads.
    """
    return _attention_forward(qkv_BTE, H)[0]


def _attention_forward(qkv_BTE: Array, H: int) -> tuple[Array, tuple[Array, Array]]:
    B, T, E = qkv_BTE.shape
    shapes = (_float32(B, T, E // 3), _float32(B, H, _saved_weights(T)))
    o_BTD, weights = _call("ATTENTION", shapes)(qkv_BTE, heads=H, alone=_is_alone())
    return o_BTD, (qkv_BTE, weights)


def _attention_backward(H: int, saved: tuple[Array, Array], g_BTD: Array) -> tuple[Array]:
    qkv_BTE, weights = saved
    call = _call("ATTENTION_GRADIENT", _float32(*qkv_BTE.shape))
    return (call(qkv_BTE, weights, g_BTD, heads=H, alone=_is_alone()),)


compiled_attention.defvjp(_attention_forward, _attention_backward)


def _saved_weights(T: int) -> int:
    """Count the numbers that the kernel saves of a head: each query's weights, by block."""
    package = find_products()
    assert package is not None
    starts, total = range(0, T, package.QUERIES), 0
    for start in starts:
        end = min(start + package.QUERIES, T)
        total += (end - start) * (-(-end // package.PAD) * package.PAD)
    return total


def _product(a: Array, b: Array, *, left: bool = False, right: bool = False) -> Array:
    """Return a b; with `left` a is given transposed, with `right` b."""
    rows, columns = a.shape[1 if left else 0], b.shape[0 if right else 1]
    call = _call("PRODUCT", _float32(rows, columns))
    product: Array = call(a, b, left=left, right=right, alone=_is_alone())
    return product


def _call(name: str, shapes: Any) -> Any:
    target = getattr(find_products(), name)
    return jax.ffi.ffi_call(target, shapes, vmap_method="broadcast_all")


def _float32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")


def _is_alone() -> bool:
    """Return true if other devices, which are the other cores, have rows of their own."""
    return jax.sharding.get_abstract_mesh().size > 1
