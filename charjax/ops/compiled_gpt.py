"""A GPT's MLP and attention by the compiled kernels of `charjax-kernels`, in float32 on a CPU.

`ops.choice` decides where they are used. Each equals its plain version but for the order of
additions. A kernel has no derivative of its own: forward ones of reverse-mode derivatives are those
of the plain version; those of what is saved for the backward pass, which depends on the other
arguments, are 0.

Letters: N rows, D input width, F width within the MLP, B batch, T time, H heads, K width of a head,
E = 3 H K.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from charjax.ops.activation import gelu_reference
from charjax.ops.attention import causal_attention_reference
from charjax.ops.compiled import float32, is_alone, kernel_call, product
from charjax.ops.kernels import find_products


@jax.custom_vjp
def compiled_mlp(x_ND: Array, up_DF: Array, down_FD: Array) -> Array:
    """Return gelu(x up) down (N, D).

    Only reverse-mode derivatives (and forward ones of those) are defined.
    """
    return _mlp_forward(x_ND, up_DF, down_FD)[0]


def mlp_reference(x_ND: Array, up_DF: Array, down_FD: Array) -> Array:
    """Compute `compiled_mlp` plainly."""
    return gelu_reference(x_ND @ up_DF) @ down_FD


def _mlp_forward(x_ND: Array, up_DF: Array, down_FD: Array) -> tuple[Array, tuple[Any, ...]]:
    def compute(_: Any, x_ND: Array, up_DF: Array, down_FD: Array) -> tuple[Array, Any]:
        shape = float32(x_ND.shape[0], up_DF.shape[1])
        call = kernel_call("PRODUCT_GELU", (shape, shape))
        h_NF, derivative_NF = call(x_ND, up_DF, left=False, right=False, alone=is_alone())
        return product(h_NF, down_FD), (h_NF, derivative_NF)

    arguments = x_ND, up_DF, down_FD
    y_ND, saved = _with_plain_jvp(compute, mlp_reference, (), arguments)
    return y_ND, (arguments, saved)


def _mlp_backward(saved: tuple[Any, ...], g_ND: Array) -> tuple[Array, Array, Array]:
    def compute(
        saved: tuple[Array, Array], x_ND: Array, up_DF: Array, down_FD: Array, g_ND: Array
    ) -> tuple[Any, Any]:
        h_NF, derivative_NF = saved
        call = kernel_call("PRODUCT_FACTOR", float32(*h_NF.shape))
        u_NF = call(g_ND, down_FD, derivative_NF, left=False, right=True, alone=is_alone())
        gradients = product(x_ND, u_NF, left=True), product(h_NF, g_ND, left=True)
        return (product(u_NF, up_DF, right=True), *gradients), ()

    arguments, arrays = saved
    plain = _gradient_of(mlp_reference)
    gradients: tuple[Array, Array, Array]
    gradients, _ = _with_plain_jvp(compute, plain, arrays, (*arguments, g_ND))
    return gradients


compiled_mlp.defvjp(_mlp_forward, _mlp_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def compiled_attention(qkv_BTE: Array, H: int) -> Array:
    """Return causal attention (B, T, H K).

    Only reverse-mode derivatives (and forward ones of those) are defined.

    Args:
      qkv_BTE: queries, keys and values of all heads, (B, T, 3 H K).
      H: heads.
    """
    return _attention_forward(qkv_BTE, H)[0]


def attention_reference(qkv_BTE: Array, H: int) -> Array:
    """Compute `compiled_attention` plainly."""
    B, T, E = qkv_BTE.shape
    parts = jnp.split(qkv_BTE.reshape(B, T, 3 * H, -1), 3, axis=2)
    return causal_attention_reference(*parts).reshape(B, T, E // 3)


def _attention_forward(qkv_BTE: Array, H: int) -> tuple[Array, tuple[Array, Array]]:
    def compute(_: Any, qkv_BTE: Array) -> tuple[Array, Array]:
        B, T, E = qkv_BTE.shape
        shapes = float32(B, T, E // 3), float32(B, H, _saved_weights(T))
        o_BTD, weights = kernel_call("ATTENTION", shapes)(qkv_BTE, heads=H, alone=is_alone())
        return o_BTD, weights

    plain = functools.partial(attention_reference, H=H)
    o_BTD, weights = _with_plain_jvp(compute, plain, (), (qkv_BTE,))
    return o_BTD, (qkv_BTE, weights)


def _attention_backward(H: int, saved: tuple[Array, Array], g_BTD: Array) -> tuple[Array]:
    def compute(weights: Array, qkv_BTE: Array, g_BTD: Array) -> tuple[Any, Any]:
        call = kernel_call("ATTENTION_GRADIENT", float32(*qkv_BTE.shape))
        return (call(qkv_BTE, weights, g_BTD, heads=H, alone=is_alone()),), ()

    qkv_BTE, weights = saved
    plain = _gradient_of(functools.partial(attention_reference, H=H))
    gradient: tuple[Array]
    gradient, _ = _with_plain_jvp(compute, plain, weights, (qkv_BTE, g_BTD))
    return gradient


compiled_attention.defvjp(_attention_forward, _attention_backward)


def _saved_weights(T: int) -> int:
    """Count the numbers that the kernel saves of a head: each query's weights, by block."""
    package = find_products()
    assert package is not None
    total = 0
    for start in range(0, T, package.QUERIES):
        end = min(start + package.QUERIES, T)
        total += (end - start) * (-(-end // package.PAD) * package.PAD)
    return total


def _with_plain_jvp(
    compute: Callable[..., Any],
    plain: Callable[..., Any],
    saved: Any,
    arguments: tuple[Array, ...],
) -> Any:
    """Return compute(saved, *arguments), differentiable forward as plain(*arguments).

    `compute` returns what `plain` does, and what is saved for later.
    """

    @jax.custom_jvp
    def function(saved: Any, arguments: tuple[Array, ...]) -> Any:
        return compute(saved, *arguments)

    @function.defjvp
    def _jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
        (saved, arguments), (_, moved) = primals, tangents
        out = function(saved, arguments)
        _, out_moved = jax.jvp(plain, arguments, moved)
        return out, (out_moved, jax.tree.map(jnp.zeros_like, out[1]))

    return function(saved, arguments)


def _gradient_of(plain: Callable[..., Array]) -> Callable[..., tuple[Array, ...]]:
    """Return the function (*arguments, gradient of the result) -> gradients of the arguments."""

    def pull(*arguments: Array) -> tuple[Array, ...]:
        *inputs, g = arguments
        gradients: tuple[Array, ...] = jax.vjp(plain, *inputs)[1](g)
        return gradients

    return pull
