"""Mean-field theory of networks at initialisation, in float64, by numerical integration.

An activation is any function that, between its stated kinks, is smooth on scales of about 1 near 0
and of about its argument further out, and that grows no faster than a power; another one (with a
kink that is not stated, a fast sine, an exponential) is integrated all the same, and wrongly. Fixed
points are sought as those of a length map that grows with q, which holds for all in ACTIVATIONS.

signal: the maps of length and correlation, χ, batch norm. phases: q*, χ₁, c*, depth scales,
the critical line. stacks: moments layer by layer, saturation, the residual stream. jacobian:
singular values. softmax: the initial loss and attention's entropy. Every function raises
ValueError for an argument out of range (sizes from 1e-30 to 1e30) or a result that leaves float64.
"""

from charjax.theory.activations import (
    ACTIVATIONS,
    Activation,
    find_activation,
    leaky_relu,
)
from charjax.theory.checks import LARGEST
from charjax.theory.jacobian import JacobianMoments, jacobian_moments
from charjax.theory.phases import (
    CriticalPoint,
    MeanField,
    NoFixedPointError,
    chi_1,
    critical_point,
    depth_scale,
    fixed_correlation,
    fixed_point,
    mean_field,
)
from charjax.theory.quadrature import expect, expect_product, gaussian_rule
from charjax.theory.signal import (
    batch_norm_chi,
    chi,
    correlation_map,
    correlation_slope,
    derivative_moment,
    length_map,
    length_map_slope,
    second_moment,
)
from charjax.theory.softmax import (
    Attention,
    attention,
    causal_attention,
    expected_logsumexp,
    expected_maximum,
    initial_loss,
)
from charjax.theory.stacks import (
    Layers,
    attention_branch_variance,
    mlp_branch_variance,
    propagate,
    relu_second_moments,
    residual_stack_variances,
    residual_variances,
    saturated_fraction,
)

__all__ = [
    "ACTIVATIONS",
    "LARGEST",
    "Activation",
    "Attention",
    "CriticalPoint",
    "JacobianMoments",
    "Layers",
    "MeanField",
    "NoFixedPointError",
    "attention",
    "attention_branch_variance",
    "batch_norm_chi",
    "causal_attention",
    "chi",
    "chi_1",
    "correlation_map",
    "correlation_slope",
    "critical_point",
    "depth_scale",
    "derivative_moment",
    "expect",
    "expect_product",
    "expected_logsumexp",
    "expected_maximum",
    "find_activation",
    "fixed_correlation",
    "fixed_point",
    "gaussian_rule",
    "initial_loss",
    "jacobian_moments",
    "leaky_relu",
    "length_map",
    "length_map_slope",
    "mean_field",
    "mlp_branch_variance",
    "propagate",
    "relu_second_moments",
    "residual_stack_variances",
    "residual_variances",
    "saturated_fraction",
    "second_moment",
]
