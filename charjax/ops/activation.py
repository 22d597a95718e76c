"""Activations."""

import jax
from jax import Array


def gelu(x: Array) -> Array:
    """x Phi(x), by the error function (Hendrycks and Gimpel 2016)."""
    return jax.nn.gelu(x, approximate=False)
