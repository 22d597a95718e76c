"""Moments of the singular values of a deep network's input-output Jacobian, width to infinity.

Pennington, Schoenholz & Ganguli 2017 (arXiv:1711.04735) and 2018 (arXiv:1802.09979). Letters: D
layers.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from charjax.theory.activations import Activation
from charjax.theory.checks import check_count, check_positive, check_result
from charjax.theory.phases import fixed_point
from charjax.theory.signal import derivative_moment

# Squares of what is larger leave float64.
_LARGEST_LOG = math.log(1e150)


@dataclasses.dataclass(frozen=True)
class JacobianMoments:
    """Moments of the squared singular values of J.

    Attributes:
      mean: of a squared singular value, χ^L.
      variance: of the squared singular values.
      relative_variance: the variance over the squared mean.
    """

    mean: float
    variance: float
    relative_variance: float


def jacobian_moments(
    depth: int,
    activation: Activation,
    weight_variance: float,
    bias_variance: float = 0.0,
    weights: Literal["gaussian", "orthogonal"] = "gaussian",
    variances: Sequence[float] | None = None,
) -> JacobianMoments:
    """Mean and variance of the squared singular values of J, the product of D_l W_l.

    With μ_k = E[φ'(√q z)^2k], the mean is the product over layers of σ_w² μ_1, and the variance
    over the squared mean the sum over layers of μ_2/μ_1² - 1 - s_1, where s_1 is -1 for Gaussian
    weights and 0 for orthogonal ones (2018; at q* all layers are alike).

    Args:
      depth: layers, L.
      activation: φ.
      weight_variance: σ_w²: Gaussian weights of variance σ_w²/fan_in, or σ_w times orthogonal.
      bias_variance: σ_b².
      weights: how they are drawn.
      variances: the pre-activations' variance in each layer, (depth,); by default q* in all.

    Raises:
      NoFixedPointError: no variances are given and there is no q*.
      ValueError: an argument is out of range, or a moment is out of float64's.
    """
    check_count(depth=depth)
    check_positive(weight_variance=weight_variance)
    if weights not in ("gaussian", "orthogonal"):
        raise ValueError(f"weights is {weights!r}; it must be 'gaussian' or 'orthogonal'")
    if variances is None:
        kinds, layers = [fixed_point(activation, weight_variance, bias_variance)], [depth]
    elif len(variances) != depth:
        raise ValueError(f"{len(variances)} variances for {depth} layers; give one for each")
    else:
        # Layers that are alike are computed once.
        found, counts = np.unique(np.asarray(variances, float), return_counts=True)
        kinds, layers = found.tolist(), counts.tolist()
    spread = 1.0 if weights == "gaussian" else 0.0
    log_mean = relative = 0.0
    for q, count in zip(kinds, layers, strict=True):
        first = derivative_moment(q, activation, 1)
        if first == 0:
            raise ValueError(f"{activation.name} is flat at variance {q:g}; take another variance")
        log_mean += count * math.log(weight_variance * first)
        relative += count * (derivative_moment(q, activation, 2) / first**2 - 1 + spread)
    if log_mean > _LARGEST_LOG:
        raise ValueError(
            f"the squared singular values grow as exp({log_mean:.3g}), beyond float64; take fewer "
            "layers or a smaller weight variance"
        )
    mean = math.exp(log_mean)
    return JacobianMoments(mean, check_result("the variance", relative * mean**2), relative)
