"""Jacobians, stacks and softmax against bounds, closed forms and small simulations."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from charjax import theory

TANH = theory.find_activation("tanh")
RELU = theory.find_activation("relu")
GELU = theory.find_activation("gelu")
LINEAR = theory.find_activation("linear")


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
    far = special.ndtr(-8.5)
    assert theory.saturated_fraction(1.0, RELU, 8.5) == pytest.approx(far, rel=1e-9, abs=0)
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


@settings(max_examples=30)
@given(st.floats(0, 50), st.integers(1, 100_000))
def test_logsumexp_bounds(std, size):
    value = theory.expected_logsumexp(std, size)
    largest = std * theory.expected_maximum(size)
    assert value >= max(math.log(size), largest) - 1e-11
    assert value <= min(math.log(size) + std**2 / 2, math.log(size) + largest) + 1e-11


@settings(max_examples=15)
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


@settings(max_examples=15)
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


@pytest.mark.parametrize("std", [0.9e-4, 1.1e-4, 0.01])
def test_entropy_of_nearly_equal_scores(std):
    # To second order: log t - σ² (1 - 1/t)/2, and Σ p² = (1 + σ² (1 - 1/t))/t.
    result = theory.attention(std, 64)
    below = math.log(64) - result.entropy_T[0]
    assert below / std**2 == pytest.approx(63 / 128, rel=1e-3)
    above = 64 * result.squared_weights_T[0] - 1
    assert above / std**2 == pytest.approx(63 / 64, rel=0.01)


def test_equal_scores():
    nothing = theory.attention(0, 64)
    assert (nothing.entropy_T[0], nothing.squared_weights_T[0]) == (math.log(64), 1 / 64)
