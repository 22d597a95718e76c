"""Activations."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from charjax.ops.choice import on_cpu
from charjax.ops.precision import wide_dtype


def gelu(x: Array) -> Array:
    """x Phi(x), Phi being the normal distribution function (Hendrycks and Gimpel 2016).

    Args:
      x: any shape.

    Returns:
      The shape and dtype of x.
    """
    return _gelu_saved(x) if on_cpu() else gelu_reference(x)


def gelu_reference(x: Array) -> Array:
    """Compute `gelu` by jax.nn, and leave its derivative to the compiler."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Array) -> Array:
    """x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), which approximates `gelu`.

    The two differ by at most 4.8e-4, so parameters trained with one are not those of the other
    (Hendrycks and Gimpel 2016; GPT-2's, and the `NewGELU` of minGPT and makemore).

    Args:
      x: any shape.

    Returns:
      The shape and dtype of x.
    """
    return _gelu_tanh_saved(x) if on_cpu() else gelu_tanh_reference(x)


def gelu_tanh_reference(x: Array) -> Array:
    """Compute `gelu_tanh` by jax.nn, and leave its derivative to the compiler."""
    return jax.nn.gelu(x, approximate=True)


def silu(x: Array) -> Array:
    """x sigma(x) (Hendrycks and Gimpel 2016), the gate of SwiGLU.

    Args:
      x: any shape.

    Returns:
      The shape and dtype of x.
    """
    return _silu_saved(x) if on_cpu() else silu_reference(x)


def silu_reference(x: Array) -> Array:
    """Compute `silu` by jax.nn, and leave its derivative to the compiler."""
    return jax.nn.silu(x)


def relu2(x: Array) -> Array:
    """max(0, x)^2, as in Primer (So et al. 2021, arXiv:2109.08668).

    Args:
      x: any shape.

    Returns:
      The shape and dtype of x.
    """
    return jnp.square(jax.nn.relu(x))


def _gelu_and_derivative(x: Array) -> tuple[Array, Array]:
    cumulative = _cumulative(x)
    density = jnp.exp(-0.5 * x * x) * math.sqrt(0.5 / math.pi)
    return x * cumulative, cumulative + x * density


def _cumulative(x: Array) -> Array:
    """Phi(x) by erf, half the work of jax.nn.gelu's erfc; as accurate once multiplied by x."""
    return 0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))


def _gelu_tanh_and_derivative(x: Array) -> tuple[Array, Array]:
    # tanh(u) is exactly 1 or -1 from there on, and the powers of x stay finite.
    near = jnp.clip(x, -_FLAT, _FLAT)
    square = near * near
    cumulative = 0.5 + 0.5 * jnp.tanh(_SCALE * near * (1.0 + _CUBIC * square))
    # 1 - tanh(u)^2 = 4 c (1 - c), where c = (1 + tanh(u)) / 2.
    bell = 2.0 * cumulative * (1.0 - cumulative)
    return x * cumulative, cumulative + near * bell * _SCALE * (1.0 + 3.0 * _CUBIC * square)


def _silu_and_derivative(x: Array) -> tuple[Array, Array]:
    sigmoid = 0.5 + 0.5 * jnp.tanh(0.5 * x)
    value = x * sigmoid
    return value, sigmoid + value * (1.0 - sigmoid)


_SCALE, _CUBIC, _FLAT = math.sqrt(2.0 / math.pi), 0.044715, 10.0


def _saving_derivative(
    value_and_derivative: Callable[[Array], tuple[Array, Array]],
) -> Callable[[Array], Array]:
    """Make a function that, under differentiation, saves its derivative with its value."""

    @jax.custom_jvp
    def function(x: Array) -> Array:
        return value_and_derivative(x.astype(wide_dtype(x.dtype)))[0].astype(x.dtype)

    @function.defjvp
    def _jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        (x,), (t,) = primals, tangents
        value, derivative = value_and_derivative(x.astype(wide_dtype(x.dtype)))
        # XLA's CPU backend would fuse both into their consumers, and so compute them once per
        # consumer.
        value, derivative = value.astype(x.dtype), derivative.astype(x.dtype)
        value, derivative = lax.optimization_barrier((value, derivative))
        return value, derivative * t

    return function


_gelu_saved = _saving_derivative(_gelu_and_derivative)
_gelu_tanh_saved = _saving_derivative(_gelu_tanh_and_derivative)
_silu_saved = _saving_derivative(_silu_and_derivative)
