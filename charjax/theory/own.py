"""An activation of the user's own, written in JAX, as the quadrature needs it: in float64."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from charjax.errors import UserError
from charjax.extensions import check_callable, executed
from charjax.theory.quadrature import Array

# Kinks are sought there; an odd number of places, none of them a round number.
_REACH, _PLACES = 24.0, 4799
# A derivative that changes within 1e-9 by so much, or so large a part of it, jumps.
_JUMP, _NEAR = 1e-3, 1e-9
# Integrals over two variables are cut at each kink, for each place of the other variable.
_MOST_KINKS = 64


def read_own(name: str) -> tuple[Callable[[Array], Array], Callable[[Array], Array], Array] | None:
    """Return a user's activation, its derivative and its kinks; None if there is none of the name.

    Kinks (arguments at which the first or second derivative jumps) are found by bisection between
    the places of a grid from -24 to 24; two within 0.01 count as one. A function with the attribute
    `kinks` states its own.

    Raises:
      UserError: the user has not named the file, the function fails, or more kinks are found than
        integrals can be cut at.
    """
    found = executed("model.activation", name)
    if found is None:
        return None
    function = check_callable("model.activation", name, found, 1, "activation(x)")

    def derivative(x: jax.Array) -> jax.Array:
        return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]

    def second(x: jax.Array) -> jax.Array:
        return jax.jvp(derivative, (x,), (jnp.ones_like(x),))[1]

    value, slope = _float64(function), _float64(derivative)
    stated = getattr(function, "kinks", None)
    if stated is not None:
        return value, slope, np.asarray(stated, np.float64)
    found_kinks = np.union1d(_jumps(slope), _jumps(_float64(second)))
    if len(found_kinks) > _MOST_KINKS:
        raise UserError(
            f"model.activation: {name!r} has too many kinks for mean-field theory: its derivatives "
            f"jump at {len(found_kinks)} places from {-_REACH:g} to {_REACH:g}; at most "
            f"{_MOST_KINKS} are integrated between: state those that matter as its attribute, as "
            "in kinks = (0.0,)"
        )
    return value, slope, found_kinks


def _float64(function: Callable[[jax.Array], jax.Array]) -> Callable[[Array], Array]:
    """Return a function of JAX as one of NumPy, computed in float64, for arrays of any shape."""
    compiled = jax.jit(function)

    def call(x: Array) -> Array:
        x = np.asarray(x, np.float64)
        # Few lengths, so that few programs are compiled.
        length = max(1024, 1 << (max(x.size, 1) - 1).bit_length())
        padded = np.zeros(length)
        padded[: x.size] = x.ravel()
        with (
            jax.ensure_compile_time_eval(),
            jax.enable_x64(True),
            jax.numpy_dtype_promotion("standard"),
        ):
            result = np.asarray(compiled(jnp.asarray(padded)), np.float64)
        return result[: x.size].reshape(x.shape)

    return call


def _jumps(derivative: Callable[[Array], Array]) -> Array:
    """Return the arguments at which a derivative jumps."""
    low = np.linspace(-_REACH, _REACH, _PLACES) + math.pi * 1e-4
    low, high = low[:-1], low[1:]
    at_low, at_high = derivative(low), derivative(high)
    suspected = ~(np.abs(at_high - at_low) <= _JUMP)
    # A large derivative of a smooth function changes by more than that within 1e-9.
    jump = _JUMP * np.maximum(1.0, np.maximum(np.abs(at_low), np.abs(at_high)))[suspected]
    low, high = low[suspected], high[suspected]
    while low.size and float(np.max(high - low)) > _NEAR:
        middle = (low + high) / 2
        at_low, at_middle, at_high = (derivative(x) for x in (low, middle, high))
        is_left = ~(np.abs(at_high - at_middle) >= np.abs(at_middle - at_low))
        low, high = np.where(is_left, low, middle), np.where(is_left, middle, high)
        jumps = ~(np.abs(derivative(high) - derivative(low)) <= jump)
        low, high, jump = low[jumps], high[jumps], jump[jumps]
    found = np.round((low + high) / 2, 8) + 0.0
    return found[np.diff(found, prepend=-math.inf) > 0.01]
