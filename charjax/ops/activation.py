"""Activations."""

import math

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
    """The same, left to the compiler."""
    return jax.nn.gelu(x, approximate=False)


@jax.custom_jvp
def _gelu_saved(x: Array) -> Array:
    """Under differentiation the slope is computed along with the value, and saved."""
    wide = x.astype(wide_dtype(x.dtype))
    return (wide * _cumulative(wide)).astype(x.dtype)


@_gelu_saved.defjvp
def _gelu_saved_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (t,) = primals, tangents
    wide = x.astype(wide_dtype(x.dtype))
    cumulative = _cumulative(wide)
    density = jnp.exp(-0.5 * wide * wide) * math.sqrt(0.5 / math.pi)
    value, slope = wide * cumulative, cumulative + wide * density
    # XLA's CPU backend would fuse both into what reads them, and so compute them once a reader.
    value, slope = lax.optimization_barrier((value.astype(x.dtype), slope.astype(x.dtype)))
    return value, slope * t


def _cumulative(x: Array) -> Array:
    """Phi(x) by erf, half the work of jax.nn.gelu's erfc; as accurate once multiplied by x."""
    return 0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))
