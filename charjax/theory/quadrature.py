"""Gaussian expectations to rounding error, also of functions with kinks.

Gauss-Hermite nodes fail twice here: they converge slowly across a kink (ReLU at 0), and they miss
tanh(s z) once s is large, where it is nearly a step. So the line is cut at every kink, and ever
finer towards 0 where the function varies fastest, and each piece gets a Gauss-Legendre rule under
the Gaussian's density. Where Gauss-Hermite converges, both agree to 1e-14.

Letters: N nodes, P pieces, E edges of pieces, R rows (nodes of the outer variable).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from charjax.theory.checks import check_nonnegative, check_result

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

# The density beyond is below 1e-22, and its mass below 2e-23.
REACH = 10.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_UNIT_EDGES = np.arange(-REACH, REACH + 0.5)


def gaussian_rule(scale: float = 1.0, kinks: Sequence[float] = ()) -> tuple[Array, Array]:
    """Nodes z_N and weights w_N with E[f(scale z)] = sum of w_N f(scale z_N), z ~ N(0, 1).

    Args:
      scale: standard deviation of the function's argument, at least 0.
      kinks: where f, as a function of its argument, is not smooth. Between them it is expected
        to vary on scales of about 1 near 0, and more slowly further out, as activations do.

    Returns:
      z_N: nodes, ascending. w_N: weights, which sum to 1.

    Raises:
      ValueError: the scale is out of range.
    """
    check_nonnegative(scale=scale)
    edges = [_UNIT_EDGES, _graded(1 / max(scale, 1.0))]
    if scale > 0:
        edges.append(np.array([kink / scale for kink in kinks]))
    return _pieces(np.sort(np.clip(np.concatenate(edges), -REACH, REACH)))


def expect(function: Function, scale: float = 1.0, kinks: Sequence[float] = ()) -> float:
    """E[f(scale z)] for z ~ N(0, 1); see gaussian_rule.

    Raises:
      ValueError: the scale is out of range, or the expectation is not finite.
    """
    z_N, w_N = gaussian_rule(scale, kinks)
    with np.errstate(all="ignore"):
        return check_result("the expectation", float(w_N @ function(scale * z_N)))


def expect_product(
    function: Function, scale: float, correlation: float, kinks: Sequence[float] = ()
) -> float:
    """E[f(u) f(v)] for jointly Gaussian u, v of standard deviation `scale` and a correlation.

    Written as u, v = scale (a x ± b y) with a² = (1 + c)/2, b² = (1 - c)/2 and x, y independent:
    the product is even in y, and for each x the kinks lie at known y.

    Args:
      function: as in gaussian_rule.
      scale: standard deviation of u and of v.
      correlation: c, in [-1, 1].
      kinks: where the function is not smooth.

    Returns:
      The expectation.

    Raises:
      ValueError: the scale is out of range, or the expectation is not finite.
    """
    check_nonnegative(scale=scale)
    a, b = math.sqrt((1 + correlation) / 2), math.sqrt((1 - correlation) / 2)
    if b == 0:
        return expect(lambda u: function(u) ** 2, scale, kinks)
    if a == 0:
        mirrored = [*kinks, *(-kink for kink in kinks)]
        return expect(lambda u: function(u) * function(-u), scale, mirrored)
    x_R, w_R = _outer_rule(scale, a, b, kinks)
    y_RN, w_RN = _inner_rules(a * x_R, scale, b, kinks)
    u_RN = scale * (a * x_R[:, None] + b * y_RN)
    v_RN = scale * (a * x_R[:, None] - b * y_RN)
    with np.errstate(all="ignore"):
        value = float(w_R @ (w_RN * function(u_RN) * function(v_RN)).sum(axis=1))
    return check_result("the expectation", value)


def _outer_rule(scale: float, a: float, b: float, kinks: Sequence[float]) -> tuple[Array, Array]:
    """Nodes of x: graded to 0 as in one dimension, and to each kink down to its blur, b."""
    edges = [_UNIT_EDGES, _graded(1 / max(scale, 1.0))]
    for kink in kinks:
        place = kink / scale / a if scale > 0 else math.inf
        if abs(place) < REACH:
            edges.append(place + _graded(min(b, 1 / max(scale, 1.0))))
    return _pieces(np.sort(np.clip(np.concatenate(edges), -REACH, REACH)))


def _inner_rules(
    centre_R: Array, scale: float, b: float, kinks: Sequence[float]
) -> tuple[Array, Array]:
    """For each x (centre = a x), nodes of y > 0; the weights count both signs of y."""
    offsets = _graded(1 / max(scale * b, 1.0)) if scale * b > 1 else np.zeros(1)
    places = [np.abs(centre_R[:, None] / b) + offsets]
    if scale > 0:
        places += [np.abs(kink / scale - centre_R[:, None]) / b for kink in kinks]
    unit = np.broadcast_to(np.arange(REACH + 0.5), (len(centre_R), int(REACH) + 1))
    edges_RE = np.sort(np.clip(np.concatenate([unit, *places], axis=1), 0.0, REACH), axis=1)
    y_RN, w_RN = _pieces(edges_RE)
    return y_RN, 2 * w_RN


def _graded(finest: float) -> Array:
    """Offsets on both sides of 0 (and 0) that halve from 1 to below a quarter of `finest`."""
    levels = max(0, math.ceil(-math.log2(finest))) + 2
    offsets = 0.5 ** np.arange(levels + 1)
    return np.concatenate([-offsets, [0.0], offsets])


def _pieces(edges: Array) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and density-weighted weights between sorted edges (..., E)."""
    half_P = np.diff(edges, axis=-1)[..., None] / 2
    middle_P = (edges[..., 1:] + edges[..., :-1])[..., None] / 2
    nodes = middle_P + half_P * _NODES
    weights = half_P * _WEIGHTS * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
    flat = (*edges.shape[:-1], -1)
    return nodes.reshape(flat), weights.reshape(flat)
