"""Rotary positions: queries and keys turned by angles that grow with the position.

Letters: B batch, T time, H heads, K width of a head.
"""

import jax.numpy as jnp
from jax import Array

from charjax.ops.precision import wide_dtype

ROTARY_BASE = 10000.0


def rotary_angles(positions_T: Array, width: int, base: float = ROTARY_BASE) -> tuple[Array, Array]:
    """Cosine and sine (T, 1, K/2) of position * base^(-2i / K) (Su et al. 2021)."""
    rates_K = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles_TK = positions_T[:, None, None].astype(jnp.float32) * rates_K
    return jnp.cos(angles_TK), jnp.sin(angles_TK)


def rotate(x_BTHK: Array, angles: tuple[Array, Array]) -> Array:
    """Turn each pair (x_i, x_{i + K/2}): the paper's pairs, up to the order of the columns."""
    cos, sin = angles
    dtype = wide_dtype(x_BTHK.dtype)
    cos, sin = cos.astype(dtype), sin.astype(dtype)
    a, b = jnp.split(x_BTHK.astype(dtype), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x_BTHK.dtype)
