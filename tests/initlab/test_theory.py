"""The theory meets the published figures, closed forms, and small simulations."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from charjax.initlab import theory

TANH = theory.find_activation("tanh")
RELU = theory.find_activation("relu")
GELU = theory.find_activation("gelu")
LINEAR = theory.find_activation("linear")
ERF = theory.find_activation("erf")
EVERY = pytest.mark.parametrize("activation", theory.ACTIVATIONS.values(), ids=theory.ACTIVATIONS)
# What does not grow without end at any weight variance.
BOUNDED = [theory.find_activation(name) for name in ("tanh", "erf", "sigmoid", "hard_tanh")]

correlations = st.floats(-1, 1)
variances = st.floats(1e-3, 100)


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
    # The lectures' names MLP with everything N(0, 1): 30 inputs, 200 tanh units, biases: 26.4.
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
    # Roberts, Yaida & Hanin 2022, section 5.3.4: both slopes are 1 at one fixed point.
    setting = (theory.find_activation(name), weight_variance)
    assert theory.chi(variance, *setting) == pytest.approx(1, abs=1e-8)
    assert theory.length_map_slope(variance, *setting) == pytest.approx(1, abs=1e-8)
    assert theory.length_map(variance, *setting, bias_variance) == pytest.approx(variance, abs=1e-7)


# Quadrature


@pytest.mark.parametrize("name", ["tanh", "gelu", "silu", "sigmoid", "erf"])
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0])
def test_equals_gauss_hermite_where_that_converges(name, scale):
    x_N, w_N = np.polynomial.hermite_e.hermegauss(150)
    function = theory.find_activation(name).function
    expected = w_N @ function(scale * x_N) ** 2 / w_N.sum()
    assert theory.expect(lambda x: function(x) ** 2, scale) == pytest.approx(expected, abs=1e-14)


@given(st.floats(1e-8, 1e8))
def test_relu_moments_of_any_scale(scale):
    assert theory.second_moment(scale**2, RELU) == pytest.approx(scale**2 / 2, rel=1e-12)
    mean = theory.expect(RELU.function, scale, RELU.kinks)
    assert mean == pytest.approx(scale / math.sqrt(2 * math.pi), rel=1e-12)


@given(st.floats(1e-4, 1e4))
def test_erf_moment_of_any_scale(scale):
    # Williams 1997: E[erf(s z)²] = 2/π asin(2 s²/(1 + 2 s²)).
    expected = 2 / math.pi * math.asin(2 * scale**2 / (1 + 2 * scale**2))
    assert theory.second_moment(scale**2, ERF) == pytest.approx(expected, rel=1e-10)


@EVERY
def test_derivative_is_the_functions(activation):
    x = np.array([-3.1, -1.3, -0.4, 0.3, 0.9, 2.7])
    numeric = (activation.function(x + 1e-6) - activation.function(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(activation.derivative(x), numeric, atol=1e-8)


# Maps and fixed points


@settings(max_examples=50)
@given(correlations, variances)
def test_relu_correlation_is_the_arc_cosine_kernel(c, q):
    # Cho & Saul 2009.
    expected = (math.sqrt(1 - c**2) + c * (math.pi - math.acos(c))) / math.pi
    slope = 1 - math.acos(c) / math.pi
    assert theory.correlation_map(c, q, RELU, 2.0) == pytest.approx(expected, abs=1e-12)
    assert theory.correlation_slope(c, q, RELU, 2.0) == pytest.approx(slope, abs=1e-10)


@settings(max_examples=50)
@given(correlations, variances)
def test_erf_correlation_is_williams(c, q):
    expected = math.asin(2 * q * c / (1 + 2 * q)) / math.asin(2 * q / (1 + 2 * q))
    assert theory.correlation_map(c, q, ERF, 1.3) == pytest.approx(expected, abs=1e-12)


@EVERY
@pytest.mark.parametrize("q", [0.01, 1.0, 30.0])
def test_maps_at_their_ends(activation, q):
    after = theory.length_map(q, activation, 1.3, 0.2)
    assert theory.correlation_map(1.0, q, activation, 1.3, 0.2) == pytest.approx(1, abs=1e-13)
    at_one = theory.correlation_slope(1.0, q, activation, 1.3, 0.2)
    assert at_one * after / q == pytest.approx(theory.chi(q, activation, 1.3), rel=1e-12)
    product = theory.correlation_map(0.0, q, activation, 1.3, 0.2) * after
    mean = theory.expect(activation.function, math.sqrt(q), activation.kinks)
    assert product == pytest.approx(1.3 * mean**2 + 0.2, rel=1e-11)


@EVERY
@pytest.mark.parametrize("q", [0.3, 20.0])
def test_slopes_are_those_of_the_maps(activation, q):
    step = 1e-4
    ends = [theory.length_map(q * (1 + sign * step), activation, 1.3) for sign in (-1, 1)]
    slope = theory.length_map_slope(q, activation, 1.3)
    assert slope == pytest.approx((ends[1] - ends[0]) / (2 * step * q), rel=1e-6, abs=1e-8)
    for c in (-0.5, 0.4, 0.9):
        low, high = (
            theory.correlation_map(c + sign * step, q, activation, 1.3) for sign in (-1, 1)
        )
        slope = theory.correlation_slope(c, q, activation, 1.3)
        assert slope == pytest.approx((high - low) / (2 * step), rel=1e-5, abs=1e-8)


@settings(max_examples=40)
@given(st.sampled_from(BOUNDED), st.floats(0.1, 20), st.floats(0, 2))
def test_fixed_points_are_fixed(activation, weight_variance, bias_variance):
    setting = (activation, weight_variance, bias_variance)
    field = theory.mean_field(*setting)
    assert theory.length_map(field.variance, *setting) == pytest.approx(field.variance, rel=1e-9)
    assert 0 <= field.correlation <= 1
    mapped = theory.correlation_map(field.correlation, field.variance, *setting)
    assert mapped == pytest.approx(field.correlation, abs=1e-9)
    # Ordered where gradients vanish, chaotic where they explode.
    assert (field.correlation == 1) == (field.chi_1 <= 1 + 1e-12) or field.variance == 0
    # Neither is left again by a small step: both are stable.
    assert abs(theory.length_map_slope(field.variance, activation, weight_variance)) <= 1 + 1e-9
    assert theory.correlation_slope(field.correlation, field.variance, *setting) <= 1 + 1e-9


def test_depth_scales_are_those_of_iterating():
    setting = (TANH, 1.9, 0.05)
    field = theory.mean_field(*setting)
    q, distances = 3.0, []
    for _ in range(12):
        q = theory.length_map(q, *setting)
        distances.append(abs(q - field.variance))
    assert 1 / math.log(distances[-2] / distances[-1]) == pytest.approx(
        field.length_depth, rel=1e-3
    )
    c, distances = field.correlation + 1e-3, []
    for _ in range(3):
        c = theory.correlation_map(c, field.variance, *setting)
        distances.append(c - field.correlation)
    depth = 1 / math.log(distances[-2] / distances[-1])
    assert depth == pytest.approx(field.correlation_depth, rel=0.02)


def test_fixed_points_of_relu():
    assert theory.fixed_point(RELU, 2.0, start=3.0) == 3.0
    assert theory.fixed_point(RELU, 1.0) == 0
    assert theory.fixed_point(RELU, 1.0, 0.1) == pytest.approx(0.2, rel=1e-12)
    with pytest.raises(theory.NoFixedPointError, match="grows without end"):
        theory.fixed_point(RELU, 2.1)
    with pytest.raises(theory.NoFixedPointError, match="grows without end"):
        theory.fixed_point(RELU, 2.0, 0.1)
    with pytest.raises(theory.NoFixedPointError, match="no weight variance is critical"):
        theory.critical_point(RELU, 0.1)
    critical = theory.mean_field(RELU, 2.0)
    assert critical.chi_1 == pytest.approx(1, abs=1e-13)
    assert critical.correlation_depth == critical.gradient_depth == math.inf


def test_vanishing_variance():
    # tanh is linear at q = 0: gradients shrink by σ_w², and correlations are kept.
    field = theory.mean_field(TANH, 0.5)
    assert (field.variance, field.correlation) == (0, 1)
    assert field.chi_1 == pytest.approx(0.5)
    assert field.length_depth == field.gradient_depth == pytest.approx(1 / math.log(2))
    assert field.correlation_depth == math.inf
    assert theory.correlation_map(0.3, 0.0, TANH, 0.5) == pytest.approx(0.3)
    assert theory.fixed_point(TANH, 1.0) == 0


@pytest.mark.parametrize("bias_variance", [1e-6, 0.01, 1.0])
@pytest.mark.parametrize("activation", BOUNDED, ids=lambda activation: activation.name)
def test_critical_line(activation, bias_variance):
    critical = theory.critical_point(activation, bias_variance)
    assert theory.chi_1(activation, critical.weight_variance, bias_variance) == pytest.approx(1)


# The Jacobian


def test_jacobian_of_given_layers():
    deep = theory.propagate(4, TANH, 2.0, 0.1)
    moments = [
        theory.jacobian_moments(depth, TANH, 2.0, variances=deep.preactivation_D[:depth])
        for depth in (1, 4)
    ]
    assert moments[1].mean == pytest.approx(deep.gradient_factor_D.prod(), rel=1e-12)
    assert moments[1].relative_variance > 4 > moments[0].relative_variance > 1
    # Of a linear network, Gaussian weights alone spread the singular values.
    assert theory.jacobian_moments(5, LINEAR, 1.0).relative_variance == pytest.approx(5)
    orthogonal = theory.jacobian_moments(5, LINEAR, 1.0, weights="orthogonal")
    assert orthogonal.relative_variance == pytest.approx(0, abs=1e-13)


def test_jacobian_against_networks():
    rng = np.random.default_rng(0)
    width, depth, weight_variance, bias_variance = 200, 4, 1.5, 0.1
    q = theory.fixed_point(TANH, weight_variance, bias_variance)
    traces, squares = [], []
    for _ in range(20):
        h, jacobian = rng.normal(0, math.sqrt(q), width), np.eye(width)
        h = np.tanh(h)
        for _ in range(depth):
            weights = rng.normal(0, math.sqrt(weight_variance / width), (width, width))
            h = np.tanh(weights @ h + rng.normal(0, math.sqrt(bias_variance), width))
            jacobian = (1 - h**2)[:, None] * (weights @ jacobian)
        gram = jacobian @ jacobian.T
        traces.append(np.trace(gram) / width)
        squares.append((gram**2).sum() / width)
    moments = theory.jacobian_moments(depth, TANH, weight_variance, bias_variance)
    assert np.mean(traces) == pytest.approx(moments.mean, rel=0.05)
    relative = np.mean(squares) / np.mean(traces) ** 2 - 1
    assert relative == pytest.approx(moments.relative_variance, rel=0.1)


# Stacks


def test_saturation():
    share = math.erfc(math.atanh(0.97) / math.sqrt(2 * 2.5))
    assert theory.saturated_fraction(2.5, TANH) == pytest.approx(share, rel=1e-12)
    tiny = math.erfc(math.atanh(0.97) / math.sqrt(2 * 0.1))
    assert theory.saturated_fraction(0.1, TANH) == pytest.approx(tiny, rel=1e-9)
    assert theory.saturated_fraction(0.0, TANH) == 0
    assert theory.saturated_fraction(4.0, RELU, 0.0) == pytest.approx(0.5, abs=1e-12)
    assert theory.saturated_fraction(4.0, RELU, 2.0) == pytest.approx(special.ndtr(-1))
    # |gelu| is above 0.1 on an interval below 0 as well: simulated.
    x = np.random.default_rng(0).normal(size=400_000)
    measured = np.mean(np.abs(GELU.function(x)) > 0.1)
    assert theory.saturated_fraction(1.0, GELU, 0.1) == pytest.approx(measured, abs=3e-3)


@pytest.mark.parametrize("name", ["relu", "gelu", "sigmoid"])
def test_stack_against_a_network(name):
    activation = theory.find_activation(name)
    layers = theory.propagate(3, activation, 1.8, 0.3)
    rng = np.random.default_rng(1)
    h = rng.normal(size=(4, 1500))
    h /= np.sqrt(np.mean(h**2, axis=1, keepdims=True))
    for layer in range(3):
        weights = rng.normal(0, math.sqrt(1.8 / 1500), (1500, 1500))
        z = h @ weights + rng.normal(0, math.sqrt(0.3), 1500)
        h = activation.function(z)
        assert z.var() == pytest.approx(layers.preactivation_D[layer], rel=0.06)
        assert h.mean() == pytest.approx(layers.mean_D[layer], rel=0.06)
        assert h.std() == pytest.approx(layers.std_D[layer], rel=0.06)


@given(st.integers(1, 100), st.floats(0.01, 10), st.floats(0, 10))
def test_residual_stream(blocks, branch_variance, input_variance):
    plain = theory.residual_variances(2 * blocks, branch_variance, input_variance)
    scaled = theory.residual_variances(2 * blocks, branch_variance, input_variance, scaled=True)
    assert plain[0] == scaled[0] == input_variance
    assert plain.shape == (2 * blocks + 1,)
    assert plain[-1] == pytest.approx(input_variance + 2 * blocks * branch_variance)
    assert scaled[-1] == pytest.approx(input_variance + branch_variance)
    # One block's branches, written out.
    each = theory.residual_variances(2, [0.3, branch_variance], 1.0)
    np.testing.assert_allclose(each, [1, 1.3, 1.3 + branch_variance])


def test_residual_stack_without_norm_compounds():
    stack = theory.residual_stack_variances(10, RELU, 2.0, branch_scale=0.5)
    np.testing.assert_allclose(stack, 1.25 ** np.arange(11), rtol=1e-12)


def test_branches_against_networks():
    rng = np.random.default_rng(2)
    width, hidden, keys, std = 256, 1024, 16, 0.08
    x = rng.normal(size=(keys, width))
    up, down = rng.normal(0, std, (width, hidden)), rng.normal(0, std, (hidden, width))
    measured = (GELU.function(x @ up) @ down).var()
    expected = theory.mlp_branch_variance(width, hidden, GELU, std, std)
    assert measured == pytest.approx(expected, rel=0.1)
    # One head; scores q·k/√d of standard deviation (width std²).
    query, key, value, output = rng.normal(0, std, (4, width, width))
    outputs = []
    for _ in range(20):
        x = rng.normal(size=(keys, width))
        weights = special.softmax(x @ query @ (x @ key).T / math.sqrt(width), axis=1)
        outputs.append((weights @ x @ value @ output).var())
    share = theory.attention(width * std**2, keys).squared_weights_T[0]
    expected = theory.attention_branch_variance(width, std, std, share)
    assert np.mean(outputs) == pytest.approx(expected, rel=0.1)


# Softmax


@settings(max_examples=60)
@given(st.floats(0, 50), st.integers(1, 100_000))
def test_logsumexp_bounds(std, size):
    value = theory.expected_logsumexp(std, size)
    largest = std * theory.expected_maximum(size)
    assert value >= max(math.log(size), largest) - 1e-11
    assert value <= min(math.log(size) + std**2 / 2, math.log(size) + largest) + 1e-11


@settings(max_examples=30)
@given(st.floats(0.01, 30), st.integers(2, 1000))
def test_logsumexp_is_convex_and_grows(std, size):
    low, middle, high = (
        theory.expected_logsumexp(factor * std, size) for factor in (0.5, 1.0, 1.5)
    )
    assert low < middle < high
    assert low + high >= 2 * middle - 1e-12


def test_logsumexp_of_two_by_another_integral():
    # log(e^a + e^b) = (a + b)/2 + log(2 cosh((a - b)/2)), and a - b is Gaussian.
    for std in (0.01, 0.7, 1.0, 1.0001, 4.0, 40.0):
        expected = theory.expect(
            lambda x: np.logaddexp(x / 2, -x / 2), math.sqrt(2) * std, kinks=(0.0,)
        )
        assert theory.expected_logsumexp(std, 2) == pytest.approx(expected, rel=1e-12)


def test_large_logits_are_decided_by_the_largest():
    assert theory.expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi), rel=1e-13)
    assert theory.expected_maximum(3) == pytest.approx(1.5 / math.sqrt(math.pi), rel=1e-13)
    ratio = theory.expected_logsumexp(1e6, 27) / 1e6
    assert ratio == pytest.approx(theory.expected_maximum(27), rel=1e-9)


@settings(max_examples=30)
@given(st.floats(0, 20), st.integers(1, 300))
def test_attention_entropy_bounds(std, context):
    result = theory.causal_attention(std, context)
    keys = np.arange(1, context + 1)
    assert result.entropy_T.shape == result.squared_weights_T.shape == (context,)
    assert np.all(result.entropy_T >= -1e-12)
    assert np.all(result.entropy_T <= np.log(keys) + 1e-12)
    assert np.all(result.squared_weights_T >= 1 / keys - 1e-10)
    assert np.all(result.squared_weights_T <= 1 + 1e-10)
    # Rényi: no more than the entropy can the negative log of the mean of Σ p² be, by Jensen.
    assert np.all(-np.log(result.squared_weights_T) <= result.entropy_T + 1e-9)
    alone = theory.attention(std, context)
    assert alone.entropy_T[0] == pytest.approx(result.entropy_T[-1], abs=1e-11)


@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
def test_softmax_against_draws(std):
    scores = np.random.default_rng(3).normal(0, std, (20_000, 16))
    weights = special.softmax(scores, axis=1)
    result = theory.attention(std, 16)
    entropy = special.entr(weights).sum(axis=1)
    squared = (weights**2).sum(axis=1)
    loss = special.logsumexp(scores, axis=1)
    assert entropy.mean() == pytest.approx(result.entropy_T[0], abs=0.02)
    assert squared.mean() == pytest.approx(result.squared_weights_T[0], abs=0.01)
    assert loss.mean() == pytest.approx(theory.expected_logsumexp(std, 16), abs=0.05)


def test_entropy_of_nearly_equal_scores():
    near = [theory.attention(std, 64) for std in (0.99e-5, 1.01e-5)]
    for result in near:
        assert result.entropy_T[0] == pytest.approx(math.log(64), abs=1e-9)
        assert result.squared_weights_T[0] == pytest.approx(1 / 64, abs=1e-9)
    nothing = theory.attention(0, 64)
    assert (nothing.entropy_T[0], nothing.squared_weights_T[0]) == (math.log(64), 1 / 64)


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
