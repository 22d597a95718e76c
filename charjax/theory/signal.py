"""Maps of lengths, correlations and gradients from layer to layer in a wide network.

A layer is h = φ(z), z' = W h + b, with W drawn from variance σ_w²/fan_in and b from variance
σ_b²; q is the variance of a pre-activation z, and c the correlation of those of two inputs.
Poole et al. 2016 (arXiv:1606.05340); Schoenholz et al. 2017 (arXiv:1611.01232).
"""

import math

from charjax.theory.activations import Activation
from charjax.theory.checks import check_correlation, check_nonnegative, check_positive
from charjax.theory.quadrature import Array, expect, expect_product

# Stands for all smaller q: activations are linear on either side of 0, to all digits, at 1e-10.
TINY = 1e-20


def length_map(
    variance: float, activation: Activation, weight_variance: float, bias_variance: float = 0.0
) -> float:
    """V(q) = σ_w² E[φ(√q z)²] + σ_b²: a layer's variance from that before (Poole 2016).

    Args:
      variance: q, of the pre-activations before.
      activation: φ.
      weight_variance: σ_w², fan_in times the variance of a weight.
      bias_variance: σ_b².

    Raises:
      ValueError: a variance is negative or not finite.
    """
    check_nonnegative(
        variance=variance, weight_variance=weight_variance, bias_variance=bias_variance
    )
    return weight_variance * second_moment(variance, activation) + bias_variance


def second_moment(variance: float, activation: Activation) -> float:
    """E[φ(√q z)²], the mean square of an activation whose argument has variance q."""
    check_nonnegative(variance=variance)
    return expect(lambda x: activation.function(x) ** 2, math.sqrt(variance), activation.kinks)


def length_map_slope(variance: float, activation: Activation, weight_variance: float) -> float:
    """V'(q) = σ_w² E[z φ(√q z) φ'(√q z)]/√q, by parts equal to χ₁ + σ_w² E[φ φ''].

    It needs no second derivative, so it holds for ReLU too. At q = 0
    it is the limit from above, which exists for φ(0) = 0.

    Raises:
      ValueError: a variance is negative or not finite.
    """
    check_nonnegative(variance=variance, weight_variance=weight_variance)
    scale = math.sqrt(max(variance, TINY))

    def integrand(x: Array) -> Array:
        return x * activation.function(x) * activation.derivative(x)

    return weight_variance * expect(integrand, scale, activation.kinks) / scale**2


def chi(variance: float, activation: Activation, weight_variance: float) -> float:
    """χ = σ_w² E[φ'(√q z)²]: growth of a gradient's variance over one layer, backwards.

    At q = q* it is χ₁ (Poole 2016; Schoenholz 2017), and at q = 0 the limit.

    Raises:
      ValueError: a variance is negative or not finite.
    """
    check_nonnegative(variance=variance, weight_variance=weight_variance)
    return weight_variance * derivative_moment(variance, activation, 1)


def derivative_moment(variance: float, activation: Activation, power: int) -> float:
    """μ_k = E[φ'(√q z)^2k] (Pennington et al. 2017); at q = 0 the limit."""
    check_nonnegative(variance=variance)
    scale = math.sqrt(max(variance, TINY))
    return expect(lambda x: activation.derivative(x) ** (2 * power), scale, activation.kinks)


def correlation_map(
    correlation: float,
    variance: float,
    activation: Activation,
    weight_variance: float,
    bias_variance: float = 0.0,
) -> float:
    """C(c) = (σ_w² E[φ(u) φ(v)] + σ_b²)/V(q), u and v of variance q and correlation c.

    At q = q* it is the map of Poole 2016. At q = 0 it is the limit.

    Args:
      correlation: c before the layer.
      variance: q, the variance of both inputs' pre-activations.
      activation: φ.
      weight_variance: σ_w².
      bias_variance: σ_b².

    Returns:
      The correlation after the layer.

    Raises:
      ValueError: an argument is out of range.
    """
    check_correlation(correlation)
    check_positive(weight_variance=weight_variance)
    check_nonnegative(variance=variance)
    q = max(variance, TINY)
    after = length_map(q, activation, weight_variance, bias_variance)
    product = expect_product(activation.function, math.sqrt(q), correlation, activation.kinks)
    return (weight_variance * product + bias_variance) / after


def correlation_slope(
    correlation: float,
    variance: float,
    activation: Activation,
    weight_variance: float,
    bias_variance: float = 0.0,
) -> float:
    """C'(c) = σ_w² E[φ'(u) φ'(v)] q/V(q), by Price's theorem; χ₁ at c = 1 and q = q*.

    Arguments and errors are those of correlation_map.
    """
    check_correlation(correlation)
    check_positive(weight_variance=weight_variance)
    check_nonnegative(variance=variance)
    q = max(variance, TINY)
    after = length_map(q, activation, weight_variance, bias_variance)
    product = expect_product(activation.derivative, math.sqrt(q), correlation, activation.kinks)
    return weight_variance * product * q / after


def batch_norm_chi(activation: Activation) -> float:
    """χ = E[φ'(z)²]/Var[φ(z)], z ~ N(0, 1): a gradient's growth a layer under batch norm.

    For large batches, with the norm before the activation (Yang et al. 2019, arXiv:1902.08129).
    No choice of weights changes it.

    Raises:
      ValueError: the activation is constant.
    """
    mean = expect(activation.function, 1.0, activation.kinks)
    variance = second_moment(1.0, activation) - mean**2
    if variance <= 0:
        raise ValueError(f"{activation.name} is constant; nothing comes through it")
    return derivative_moment(1.0, activation, 1) / variance
