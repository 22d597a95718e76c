"""Activations."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax


def gelu(x: Array) -> Array:
    """x Phi(x), by the error function (Hendrycks and Gimpel 2016)."""
    return _gelu_saved(x) if jax.default_backend() == "cpu" else gelu_reference(x)


def gelu_reference(x: Array) -> Array:
    """The same, left to the compiler."""
    return jax.nn.gelu(x, approximate=False)


@jax.custom_vjp
def _gelu_saved(x: Array) -> Array:
    """With the derivative computed beside the value, and saved.

    XLA's CPU backend fuses erf and exp into what reads them and computes them there again; the
    barrier keeps them out.
    """
    return _value_and_slope(x)[0]


def _value_and_slope(x: Array) -> tuple[Array, Array]:
    wide = x.astype(jnp.float32)
    phi = 0.5 * (1.0 + lax.erf(wide * math.sqrt(0.5)))
    slope = phi + wide * jnp.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
    value, slope = lax.optimization_barrier(((wide * phi).astype(x.dtype), slope.astype(x.dtype)))
    return value, slope


_gelu_saved.defvjp(_value_and_slope, lambda slope, g: (g * slope,))
