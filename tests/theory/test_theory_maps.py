"""Quadrature, maps and fixed points against closed forms and against one another."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax import theory

TANH = theory.find_activation("tanh")
RELU = theory.find_activation("relu")
GELU = theory.find_activation("gelu")
ERF = theory.find_activation("erf")
EVERY = pytest.mark.parametrize("activation", theory.ACTIVATIONS.values(), ids=theory.ACTIVATIONS)
# What does not grow without end at any weight variance.
BOUNDED = [theory.find_activation(name) for name in ("tanh", "erf", "sigmoid", "hard_tanh")]

correlations = st.floats(-1, 1)
variances = st.floats(1e-3, 100)


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


@settings(max_examples=20)
@given(correlations, variances)
def test_relu_correlation_is_the_arc_cosine_kernel(c, q):
    # Cho & Saul 2009.
    expected = (math.sqrt(1 - c**2) + c * (math.pi - math.acos(c))) / math.pi
    slope = 1 - math.acos(c) / math.pi
    assert theory.correlation_map(c, q, RELU, 2.0) == pytest.approx(expected, abs=1e-12)
    assert theory.correlation_slope(c, q, RELU, 2.0) == pytest.approx(slope, abs=1e-10)


def test_kinks_away_from_0():
    shifted = theory.Activation(
        "shifted", lambda x: np.maximum(x + 0.7, 0), lambda x: np.heaviside(x + 0.7, 0.5), (-0.7,)
    )
    # E[(0.7 + u)(0.7 - u)] over |u| < 0.7, u ~ N(0, 1).
    inside, edge = math.erf(0.7 / math.sqrt(2)), 0.7 * math.exp(-0.245) * math.sqrt(2 / math.pi)
    opposite = 0.49 * inside - (inside - edge)
    after = theory.length_map(1.0, shifted, 1.0)
    for c in (-1.0, -1 + 1e-12):
        product = theory.correlation_map(c, 1.0, shifted, 1.0) * after
        assert product == pytest.approx(opposite, abs=1e-10)
    x, y = np.random.default_rng(4).normal(size=(2, 400_000))
    measured = np.mean(shifted.function(x) * shifted.function(0.6 * x + 0.8 * y))
    product = theory.correlation_map(0.6, 1.0, shifted, 1.0) * after
    assert product == pytest.approx(measured, rel=0.01)


@settings(max_examples=20)
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


@settings(max_examples=20)
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


def test_critical_points_are_where_a_stack_settles():
    # GELU at a small bias has χ₁ = 1 only at a fixed point that is unstable.
    for bias_variance in (0, 0.1):
        with pytest.raises(theory.NoFixedPointError, match="is critical for gelu"):
            theory.critical_point(GELU, bias_variance)
    critical = theory.critical_point(GELU, 0.5)
    settled = theory.fixed_point(GELU, critical.weight_variance, 0.5)
    assert settled == pytest.approx(critical.variance, rel=1e-6)


def test_correlations_at_the_ends_of_the_chaotic_phase():
    # Without bias an odd activation makes inputs orthogonal; just above criticality, all but equal.
    assert theory.fixed_correlation(TANH, 2.0) == 0
    assert theory.fixed_correlation(TANH, 100.0) == 0
    critical = theory.critical_point(TANH, 0.05).weight_variance
    assert theory.fixed_correlation(TANH, critical + 1e-8, 0.05) == 1
    assert 0.99 < theory.fixed_correlation(TANH, critical + 1e-3, 0.05) < 0.999
