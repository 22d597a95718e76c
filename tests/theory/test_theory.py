"""The theory reproduces published figures, and rejects undefined arguments."""

import math

import numpy as np
import pytest

from charjax import theory

TANH = theory.find_activation("tanh")
RELU = theory.find_activation("relu")
LINEAR = theory.find_activation("linear")


# Published figures


@pytest.mark.parametrize(
    ("gain", "stds", "saturated"),
    [
        (5 / 3, (0.759, 0.693, 0.669, 0.659, 0.654), (20.9, 9.8, 7.0, 6.0, 5.7)),
        (1, (0.628, 0.486, 0.408, 0.358, 0.322), (3.6, 0.1, 0, 0, 0)),
        (3, (0.863, 0.842, 0.838, 0.837, 0.837), (48.6, 41.9, 40.7, 40.5, 40.5)),
        (0.5, (0.417, 0.200, 0.099, 0.049, 0.025), (0, 0, 0, 0, 0)),
    ],
)
def test_tanh_stack(gain, stds, saturated):
    layers = theory.propagate(5, TANH, gain**2)
    shares = [100 * theory.saturated_fraction(q, TANH) for q in layers.preactivation_D]
    np.testing.assert_allclose(layers.std_D, stds, rtol=0, atol=0.0005)
    np.testing.assert_allclose(shares, saturated, rtol=0, atol=0.05)
    np.testing.assert_allclose(layers.mean_D, 0, atol=1e-15)


def test_gain_5_3():
    assert theory.fixed_point(TANH, 25 / 9) == pytest.approx(1.1785, abs=5e-5)
    assert theory.chi_1(TANH, 25 / 9) == pytest.approx(1.2098, abs=5e-5)


def test_batch_norm():
    assert theory.batch_norm_chi(TANH) == pytest.approx(1.1778, abs=5e-5)
    assert theory.batch_norm_chi(RELU) == pytest.approx(math.pi / (math.pi - 1), rel=1e-13)
    assert theory.batch_norm_chi(LINEAR) == pytest.approx(1, rel=1e-13)


def test_critical_tanh():
    critical = theory.critical_point(TANH, 0.05)
    assert critical.weight_variance == pytest.approx(1.76095, abs=5e-6)
    assert critical.variance == pytest.approx(0.57005, abs=5e-6)
    there = theory.mean_field(TANH, critical.weight_variance, 0.05)
    assert there.variance == pytest.approx(critical.variance, rel=1e-9)
    assert there.chi_1 == pytest.approx(1, abs=1e-12)
    assert there.correlation_depth == there.gradient_depth == math.inf
    assert theory.critical_point(TANH, 0) == theory.CriticalPoint(pytest.approx(1), 0)
    assert theory.critical_point(RELU, 0) == theory.CriticalPoint(pytest.approx(2), 0)


# The last was published as 74.87; Gauss-Hermite converges to 74.918 only from 40 nodes on (20
# give 74.57, 30 give 74.908).
@pytest.mark.parametrize(
    ("weight_variance", "depth", "tolerance"),
    [(1.0, 3.627, 5e-4), (1.3, 7.834, 5e-4), (1.5, 15.79, 5e-3), (1.7, 74.918, 5e-4)],
)
def test_correlation_depth_tanh(weight_variance, depth, tolerance):
    field = theory.mean_field(TANH, weight_variance, 0.05)
    assert field.correlation_depth == pytest.approx(depth, abs=tolerance)
    assert field.correlation == 1
    assert field.gradient_depth == pytest.approx(field.correlation_depth, rel=1e-9)


def test_jacobian():
    setting = (16, TANH, 1.05, 2.01e-5)
    orthogonal = theory.jacobian_moments(*setting, weights="orthogonal")
    gaussian = theory.jacobian_moments(*setting, weights="gaussian")
    assert theory.fixed_point(TANH, 1.05, 2.01e-5) == pytest.approx(0.02592, abs=5e-6)
    assert orthogonal.variance == pytest.approx(0.0683, abs=5e-5)
    assert gaussian.variance == pytest.approx(16.07, abs=5e-3)
    assert gaussian.mean == orthogonal.mean == pytest.approx(1, abs=1e-5)


def test_he_relu():
    for weight_variance, last in ((2.0, 1.0), (1.0, 2.0**-30)):
        layers = theory.propagate(30, RELU, weight_variance)
        closed_D = theory.relu_second_moments(30, weight_variance)
        assert closed_D[-1] == last
        np.testing.assert_allclose(layers.second_moment_D, closed_D, rtol=1e-12)


def test_initial_loss():
    assert theory.initial_loss(1, 27) == pytest.approx(3.766, abs=5e-4)
    assert theory.initial_loss(0, 27) == pytest.approx(math.log(27), rel=1e-13)
    # The names MLP of the makemore lectures with everything N(0, 1): 30 inputs, 200 tanh units,
    # biases: 26.4.
    hidden = theory.second_moment(30 + 1, TANH)
    assert theory.initial_loss(math.sqrt(200 * hidden + 1), 27) == pytest.approx(26.4, rel=0.01)


def test_selu_normalises_itself():
    selu = theory.find_activation("selu")
    assert theory.fixed_point(selu, 1.0) == pytest.approx(1, rel=1e-12)
    assert theory.propagate(3, selu, 1.0).mean_D == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "weight_variance", "bias_variance", "variance"),
    [("gelu", 1.98305826, 0.17292239, 3.5615528), ("silu", 1.98800468, 0.55514317, 14.32017362)],
)
def test_half_stable_points(name, weight_variance, bias_variance, variance):
    # Roberts, Yaida & Hanin 2022: both derivatives are 1 at one fixed point.
    setting = (theory.find_activation(name), weight_variance)
    assert theory.chi(variance, *setting) == pytest.approx(1, abs=1e-8)
    assert theory.length_map_slope(variance, *setting) == pytest.approx(1, abs=1e-8)
    assert theory.length_map(variance, *setting, bias_variance) == pytest.approx(variance, abs=1e-7)


# Mistakes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.find_activation("tan"), "no activation named 'tan'; there are linear"),
        (lambda: theory.leaky_relu(2), "slope is 2"),
        (lambda: theory.length_map(-1, TANH, 1), "variance is -1; it must be finite and at least"),
        (lambda: theory.length_map(math.nan, TANH, 1), "variance is nan"),
        (lambda: theory.fixed_point(TANH, 0), "weight_variance is 0"),
        (lambda: theory.fixed_point(TANH, 1, -0.1), "bias_variance is -0.1"),
        (lambda: theory.fixed_point(TANH, 1, start=math.inf), "start is inf"),
        (lambda: theory.correlation_map(1.1, 1, TANH, 1), r"correlation is 1.1; .* \[-1, 1\]"),
        (lambda: theory.critical_point(TANH, -1), "bias_variance is -1"),
        (lambda: theory.propagate(0, TANH, 1), "depth is 0; it must be a whole number"),
        (lambda: theory.propagate(1.5, TANH, 1), "depth is 1.5"),
        (lambda: theory.saturated_fraction(1, TANH, -1), "threshold is -1"),
        (lambda: theory.residual_variances(4, [1, 2], 1), "branch_variance"),
        (lambda: theory.residual_variances(4, -1, 1), "branch_variance"),
        (lambda: theory.jacobian_moments(2, TANH, 1, weights="sparse"), "weights is 'sparse'"),
        (lambda: theory.jacobian_moments(2, TANH, 1, variances=[1]), "1 variances for 2 layers"),
        (lambda: theory.expected_logsumexp(-1, 27), "std is -1"),
        (lambda: theory.expected_logsumexp(1, 0), "size is 0"),
        (lambda: theory.causal_attention(1, 0), "context is 0"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
