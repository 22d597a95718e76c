"""Fixed points, depth scales and the critical line of deep networks.

Notation as in signal.py: σ_w² and σ_b² are the variances of weights (times fan_in) and biases, q
the variance of pre-activations and c their correlation between two inputs. Poole et al. 2016
(arXiv:1606.05340); Schoenholz et al. 2017 (arXiv:1611.01232).
"""

import dataclasses
import math

import numpy as np
from scipy import optimize

from charjax.theory.activations import Activation
from charjax.theory.checks import (
    LARGEST,
    check_nonnegative,
    check_positive,
    check_result,
)
from charjax.theory.signal import (
    TINY,
    chi,
    correlation_map,
    correlation_slope,
    derivative_moment,
    length_map,
    length_map_slope,
    second_moment,
)

# A step further is still a variance.
_LARGEST = LARGEST / 10
# Quadrature is right to 1e-15; a smaller difference between V(q) and q is called none.
_NOISE = 1e-13


class NoFixedPointError(ValueError):
    """The length map has no fixed point in reach, or no critical point exists."""


def fixed_point(
    activation: Activation, weight_variance: float, bias_variance: float = 0.0, start: float = 1.0
) -> float:
    """q* = V(q*): the variance a deep stack settles at when it starts from `start`.

    Where V grows with q, as it does for every activation in ACTIVATIONS, iterating it moves one
    way until it meets the first fixed point; that one is found by steps of a quarter and then
    bisection, which does not slow down at criticality as iterating does. Where every variance is a
    fixed point (ReLU at σ_w² = 2), that is `start`; where variances shrink without end (tanh at
    σ_w² ≤ 1, ReLU below 2, without bias), it is 0.

    Args:
      activation: φ.
      weight_variance: σ_w².
      bias_variance: σ_b².
      start: the variance to start from, above 0.

    Returns:
      q*.

    Raises:
      NoFixedPointError: the variance grows without end (ReLU above σ_w² = 2).
      ValueError: a variance is out of range.
    """
    check_positive(weight_variance=weight_variance, start=start)
    check_nonnegative(bias_variance=bias_variance)

    def excess(q: float) -> float:
        return length_map(q, activation, weight_variance, bias_variance) / q - 1

    direction = excess(start)
    if abs(direction) <= _NOISE:
        return start
    near, far = start, start
    while direction * excess(far) > 0 or abs(excess(far)) <= _NOISE:
        near, far = far, far * (1.25 if direction > 0 else 0.8)
        if far < TINY:
            return 0.0
        if far > _LARGEST:
            raise NoFixedPointError(
                f"the variance of {activation.name} at weight variance {weight_variance:g} and "
                f"bias variance {bias_variance:g} grows without end, or beyond {_LARGEST:g}; take "
                "smaller ones"
            )
    return float(optimize.brentq(excess, near, far, xtol=1e-300, rtol=1e-15))


def chi_1(activation: Activation, weight_variance: float, bias_variance: float = 0.0) -> float:
    """χ₁, the growth of a gradient's variance per layer at q*: above 1 they explode.

    Raises:
      NoFixedPointError: there is no q*.
    """
    q = fixed_point(activation, weight_variance, bias_variance)
    return chi(q, activation, weight_variance)


def fixed_correlation(
    activation: Activation, weight_variance: float, bias_variance: float = 0.0
) -> float:
    """c*, in [0, 1]: the limit of the correlation of two inputs, at q*.

    C is a power series with no negative coefficient, so it is convex on [0, 1]: where its slope
    at 1 is at most 1, c* = 1 (the ordered phase), and else there is one more fixed point below.
    Where every correlation is a fixed point (a linear network without bias), it is 1.

    Raises:
      NoFixedPointError: there is no q*.
    """
    setting = (activation, weight_variance, bias_variance)
    q = fixed_point(*setting)
    if correlation_slope(1.0, q, *setting) <= 1 + _NOISE:
        return 1.0

    def excess(c: float) -> float:
        return (1 - correlation_map(c, q, *setting)) / (1 - c) - 1

    # Grows with c from -C(0) to a positive value; nearer to 1 than 1e-6 rounding decides.
    if excess(0.0) >= -_NOISE:
        return 0.0
    if excess(1 - 1e-6) <= 0:
        return 1.0
    return float(optimize.brentq(excess, 0.0, 1 - 1e-6, xtol=1e-13))


@dataclasses.dataclass(frozen=True)
class MeanField:
    """The mean-field theory of one (φ, σ_w², σ_b²); depths are in layers.

    Attributes:
      variance: q*.
      correlation: c*.
      chi_1: growth of a gradient's variance a layer, backwards, at q*.
      length_depth: ξ_q, over which q - q* falls by e.
      correlation_depth: ξ_c, over which c - c* falls by e.
      gradient_depth: ξ_∇ = 1/|log χ₁|, over which a gradient's variance changes by e.
    """

    variance: float
    correlation: float
    chi_1: float
    length_depth: float
    correlation_depth: float
    gradient_depth: float


def mean_field(
    activation: Activation, weight_variance: float, bias_variance: float = 0.0
) -> MeanField:
    """Compute fixed points and depth scales (Schoenholz 2017): ξ = 1/|log slope|.

    Args:
      activation: φ.
      weight_variance: σ_w².
      bias_variance: σ_b².

    Raises:
      NoFixedPointError: there is no q*.
      ValueError: a variance is out of range.
    """
    setting = (activation, weight_variance, bias_variance)
    q, c = fixed_point(*setting), fixed_correlation(*setting)
    gradient = chi(q, activation, weight_variance)
    return MeanField(
        q,
        c,
        gradient,
        depth_scale(length_map_slope(q, activation, weight_variance)),
        depth_scale(correlation_slope(c, q, *setting)),
        depth_scale(gradient),
    )


def depth_scale(slope: float) -> float:
    """1/|log |slope||: layers over which a distance that is multiplied by `slope` changes by e.

    Infinite where the slope is 1 to ten digits (at criticality the approach is algebraic), and 0
    where it is 0.

    Raises:
      ValueError: the slope is not finite.
    """
    check_result("the slope", slope)
    if slope == 0:
        return 0.0
    rate = abs(math.log(abs(slope)))
    return math.inf if rate < 1e-10 else 1 / rate


@dataclasses.dataclass(frozen=True)
class CriticalPoint:
    """A point with χ₁ = 1.

    Attributes:
      weight_variance: σ_w².
      variance: q* there.
    """

    weight_variance: float
    variance: float


def critical_point(activation: Activation, bias_variance: float) -> CriticalPoint:
    """Find the σ_w² that makes χ₁ = 1 at a given σ_b² (Schoenholz 2017).

    By q: σ_w²(q) = 1/E[φ'(√q z)²] makes χ₁ = 1, and σ_b²(q) = q - σ_w²(q) E[φ(√q z)²] makes q a
    fixed point. Of several with the given σ_b², the least q that a stack settles at.

    Args:
      activation: φ.
      bias_variance: σ_b².

    Raises:
      NoFixedPointError: no σ_w² is critical (ReLU with a bias; GELU below σ_b² = 0.173, where
        the fixed point with χ₁ = 1 is unstable).
      ValueError: the variance is negative or not finite.
    """
    check_nonnegative(bias_variance=bias_variance)
    if bias_variance == 0 and activation.function(np.zeros(1))[0] == 0:
        weight_variance = _critical(0.0, activation)
        # Small variances stay small, unless V curves upwards (GELU).
        if length_map_slope(1e-6, activation, weight_variance) <= 1 + _NOISE:
            return CriticalPoint(weight_variance, 0.0)

    def excess(q: float) -> float:
        weight_variance = _critical(q, activation)
        return q - weight_variance * second_moment(q, activation) - bias_variance

    grid = np.geomspace(1e-12, 1e6, 145).tolist()
    values = [excess(q) for q in grid]
    for low, high, before, after in zip(grid, grid[1:], values, values[1:], strict=False):
        if before * after < 0:
            q = float(optimize.brentq(excess, low, high, xtol=1e-300, rtol=1e-15))
            weight_variance = _critical(q, activation)
            if length_map_slope(q, activation, weight_variance) <= 1:
                return CriticalPoint(weight_variance, q)
    raise NoFixedPointError(
        f"no weight variance is critical for {activation.name} at bias variance {bias_variance:g}"
    )


def _critical(variance: float, activation: Activation) -> float:
    """Return the σ_w² that makes χ = 1 at a variance."""
    moment = derivative_moment(variance, activation, 1)
    if moment < 1 / LARGEST:
        raise NoFixedPointError(f"no weight variance is critical for {activation.name}: it is flat")
    return 1 / moment
