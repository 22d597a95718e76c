"""Normalisation of each vector to mean 0 and variance 1, or to mean square 1.

Letters: ... leading axes, D width.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from charjax.ops.precision import wide_dtype

EPSILON = 1e-5
_Saved = tuple[Array, Array, Array, Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def layer_norm(x: Array, scale_D: Array, epsilon: float = EPSILON) -> Array:
    """(x - mean) / sqrt(variance + epsilon) * scale (Ba et al. 2016), with a shorter derivative.

    Only reverse-mode derivatives (and forward ones of those) are defined.

    Args:
      x: (..., D), of any dtype.
      scale_D: (D,) float32.
      epsilon: a number, not an array.

    Returns:
      (..., D) float32.
    """
    return _forward(x, scale_D, epsilon)[0]


def layer_norm_reference(x: Array, scale_D: Array, epsilon: float = EPSILON) -> Array:
    """Compute `layer_norm` plainly."""
    x = x.astype(wide_dtype(x.dtype))
    x -= _mean(x)
    return x * lax.rsqrt(_mean(jnp.square(x)) + epsilon) * scale_D


def _mean(x: Array) -> Array:
    return jnp.mean(x, axis=-1, keepdims=True)


def _forward(x: Array, scale_D: Array, epsilon: float) -> tuple[Array, _Saved]:
    wide = x.astype(wide_dtype(x.dtype))
    mean = _mean(wide)
    rate = lax.rsqrt(_mean(jnp.square(wide - mean)) + epsilon)
    return (wide - mean) * rate * scale_D, (x, mean, rate, scale_D)


def _backward(epsilon: float, saved: _Saved, g: Array) -> tuple[Array, Array]:
    x, mean, rate, scale_D = saved
    unit = (x.astype(wide_dtype(x.dtype)) - mean) * rate
    slope_D = jnp.sum(g * unit, axis=tuple(range(g.ndim - 1)))
    g *= scale_D
    return (rate * (g - _mean(g) - unit * _mean(g * unit))).astype(x.dtype), slope_D


layer_norm.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: Array, scale_D: Array, epsilon: float = EPSILON) -> Array:
    """x / sqrt(mean(x^2) + epsilon) * scale (Zhang and Sennrich 2019, arXiv:1910.07467).

    Only reverse-mode derivatives (and forward ones of those) are defined.

    Args:
      x: (..., D), of any dtype.
      scale_D: (D,) float32.
      epsilon: a number, not an array.

    Returns:
      (..., D) float32.
    """
    return _rms_forward(x, scale_D, epsilon)[0]


def rms_norm_reference(x: Array, scale_D: Array, epsilon: float = EPSILON) -> Array:
    """Compute `rms_norm` plainly."""
    x = x.astype(wide_dtype(x.dtype))
    return x * lax.rsqrt(_mean(jnp.square(x)) + epsilon) * scale_D


def _rms_forward(
    x: Array, scale_D: Array, epsilon: float
) -> tuple[Array, tuple[Array, Array, Array]]:
    wide = x.astype(wide_dtype(x.dtype))
    rate = lax.rsqrt(_mean(jnp.square(wide)) + epsilon)
    return wide * rate * scale_D, (x, rate, scale_D)


def _rms_backward(
    epsilon: float, saved: tuple[Array, Array, Array], g: Array
) -> tuple[Array, Array]:
    x, rate, scale_D = saved
    unit = x.astype(wide_dtype(x.dtype)) * rate
    slope_D = jnp.sum(g * unit, axis=tuple(range(g.ndim - 1)))
    g *= scale_D
    return (rate * (g - unit * _mean(g * unit))).astype(x.dtype), slope_D


rms_norm.defvjp(_rms_forward, _rms_backward)
