"""Activations as data: the function, its derivative, and where either has a kink."""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import special

from charjax.theory.quadrature import Array


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation φ that the quadrature can integrate.

    Between its kinks it is smooth, on scales of about 1 near 0 and of about |x| at a large |x|, and
    it grows no faster than a power of |x|. That is not checked.

    Attributes:
      name: how reports call it.
      function: φ, elementwise on a float64 array of any shape.
      derivative: φ', likewise; its value at a kink does not matter.
      kinks: arguments at which φ or φ' is not smooth; the quadrature is cut there.
    """

    name: str
    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    kinks: tuple[float, ...] = ()


def find_activation(name: str) -> Activation:
    """Return the activation of that name: one of ACTIVATIONS, or one of the user's own.

    Raises:
      ValueError: there is none.
      UserError: it is in a file that the user has not named.
    """
    if name not in ACTIVATIONS and (found := _find_own(name)):
        return found
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation named {name!r}; there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


@functools.lru_cache(maxsize=64)
def _find_own(name: str) -> Activation | None:
    # JAX is imported for these alone.
    from charjax.theory.own import read_own

    read = read_own(name)
    return Activation(name, read[0], read[1], tuple(read[2].tolist())) if read else None


def leaky_relu(slope: float) -> Activation:
    """max(x, slope x), the slope below 0 being at most 1 in size (Maas et al. 2013).

    Raises:
      ValueError: the slope is larger.
    """
    if not -1 <= slope <= 1:
        raise ValueError(f"slope is {slope!r}; it must lie in [-1, 1]")
    return Activation(
        f"leaky_relu({slope:g})",
        lambda x: np.where(x > 0, x, slope * x),
        lambda x: np.where(x > 0, 1.0, slope),
        kinks=(0.0,),
    )


def _density(x: Array) -> Array:
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _sigmoid_slope(x: Array) -> Array:
    return special.expit(x) * special.expit(-x)


def _gelu_tanh_argument(x: Array) -> Array:
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def _gelu_tanh_argument_slope(x: Array) -> Array:
    return math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)


# Klambauer et al. 2017 (arXiv:1706.02515): mean 0 and variance 1 are a fixed point.
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

_ALL = (
    Activation("linear", lambda x: x, np.ones_like),
    Activation("tanh", np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    Activation(
        "relu", lambda x: np.maximum(x, 0.0), lambda x: np.where(x > 0, 1.0, 0.0), kinks=(0.0,)
    ),
    Activation(
        "relu2",  # So et al. 2021, Primer
        lambda x: np.maximum(x, 0.0) ** 2,
        lambda x: 2 * np.maximum(x, 0.0),
        kinks=(0.0,),
    ),
    dataclasses.replace(leaky_relu(0.01), name="leaky_relu"),
    Activation(
        "gelu",  # Hendrycks & Gimpel 2016: x Φ(x), with the erf
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * _density(x),
    ),
    Activation(
        "gelu_tanh",  # The same paper's approximation: x (1 + tanh(u)) / 2
        lambda x: x * special.expit(2 * _gelu_tanh_argument(x)),
        lambda x: (
            special.expit(2 * _gelu_tanh_argument(x))
            + 2 * x * _sigmoid_slope(2 * _gelu_tanh_argument(x)) * _gelu_tanh_argument_slope(x)
        ),
    ),
    Activation(
        "silu",
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) + x * _sigmoid_slope(x),
    ),
    Activation("sigmoid", special.expit, _sigmoid_slope),
    Activation("erf", special.erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-(x**2))),
    Activation(
        "hard_tanh",
        lambda x: np.clip(x, -1.0, 1.0),
        lambda x: np.where(np.abs(x) < 1, 1.0, 0.0),
        kinks=(-1.0, 1.0),
    ),
    Activation(
        "selu",
        lambda x: _SELU_SCALE * np.where(x > 0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0.0))),
        lambda x: _SELU_SCALE * np.where(x > 0, 1.0, _SELU_ALPHA * np.exp(np.minimum(x, 0.0))),
        kinks=(0.0,),
    ),
)
ACTIVATIONS = {activation.name: activation for activation in _ALL}
