"""For any arguments the theory's functions are fast, and finite or rejected in one line."""

import dataclasses
import math
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charjax import theory

TANH, RELU = theory.find_activation("tanh"), theory.find_activation("relu")
# Every order of magnitude of float64, and what is no number.
NUMBERS = st.one_of(
    st.floats(-320.0, 308.0).map(lambda power: 10.0**power),
    st.floats(-3.0, 3.0).map(lambda power: 10.0**power),
    st.sampled_from([0.0, 1.0, -1.0, math.inf, math.nan]),
)
SIGNED = st.builds(lambda sign, size: sign * size, st.sampled_from([1.0, -1.0]), NUMBERS)
ACTIVATIONS = st.sampled_from([*theory.ACTIVATIONS.values(), theory.leaky_relu(-0.5)])
COUNTS = st.sampled_from([-1, 0, 1, 2, 27, 1000, 10**9, 2**53, 10**30, 10**400])
LENGTHS = st.sampled_from([0, 1, 2, 100, 3000, 10**9, 10**30])
CORRELATIONS = st.floats(-1.0, 1.0) | st.sampled_from([-1.0, 0.0, 1.0, 1 - 1e-12, 1.5, math.nan])
KINDS = st.sampled_from(["gaussian", "orthogonal"])
# The arguments of each function.
CALLS = {
    "length_map": (NUMBERS, ACTIVATIONS, NUMBERS, NUMBERS),
    "length_map_slope": (NUMBERS, ACTIVATIONS, NUMBERS),
    "second_moment": (NUMBERS, ACTIVATIONS),
    "derivative_moment": (NUMBERS, ACTIVATIONS, st.integers(1, 4)),
    "chi": (NUMBERS, ACTIVATIONS, NUMBERS),
    "correlation_map": (CORRELATIONS, NUMBERS, ACTIVATIONS, NUMBERS, NUMBERS),
    "correlation_slope": (CORRELATIONS, NUMBERS, ACTIVATIONS, NUMBERS, NUMBERS),
    "fixed_point": (ACTIVATIONS, NUMBERS, NUMBERS, NUMBERS),
    "chi_1": (ACTIVATIONS, NUMBERS, NUMBERS),
    "fixed_correlation": (ACTIVATIONS, NUMBERS, NUMBERS),
    "mean_field": (ACTIVATIONS, NUMBERS, NUMBERS),
    "critical_point": (ACTIVATIONS, NUMBERS),
    "depth_scale": (SIGNED,),
    "jacobian_moments": (COUNTS, ACTIVATIONS, NUMBERS, NUMBERS, KINDS),
    "propagate": (LENGTHS, ACTIVATIONS, NUMBERS, NUMBERS, NUMBERS),
    "saturated_fraction": (NUMBERS, ACTIVATIONS, NUMBERS),
    "relu_second_moments": (LENGTHS, NUMBERS),
    "residual_variances": (LENGTHS, NUMBERS, NUMBERS, st.booleans()),
    "residual_stack_variances": (LENGTHS, ACTIVATIONS, NUMBERS, NUMBERS, NUMBERS, SIGNED),
    "mlp_branch_variance": (COUNTS, COUNTS, ACTIVATIONS, NUMBERS, NUMBERS),
    "attention_branch_variance": (COUNTS, NUMBERS, NUMBERS, NUMBERS),
    "expected_logsumexp": (NUMBERS, COUNTS),
    "expected_maximum": (COUNTS,),
    "initial_loss": (NUMBERS, COUNTS, SIGNED, NUMBERS),
    "attention": (NUMBERS, COUNTS),
    "causal_attention": (NUMBERS, LENGTHS),
}
# Not of numbers, or of whatever function is given.
OTHERS = {"batch_norm_chi", "expect", "expect_product", "find_activation", "gaussian_rule"}
# Infinite where nothing is forgotten.
DEPTHS = {"length_depth", "correlation_depth", "gradient_depth"}


def hold(name, arguments):
    """Check for a finite value or a one-line ValueError, within one second of process time."""
    before = time.process_time()
    refusal = ""
    try:
        result = getattr(theory, name)(*arguments)
    except ValueError as error:
        refusal = str(error)
    else:
        values = [result]
        if dataclasses.is_dataclass(result):
            found = vars(result)
            values = [value for field, value in found.items() if field not in DEPTHS]
            assert not any(math.isnan(found[field]) for field in DEPTHS & found.keys())
        if name == "depth_scale":
            values = [min(result, 1.0)]
        assert all(np.all(np.isfinite(value)) for value in values), (name, arguments, result)
    assert "\n" not in refusal, (name, arguments)
    # Of processor time; a busy machine takes longer over the same work.
    assert time.process_time() - before < 3, (name, arguments)


def test_every_function_is_tried():
    functions = {name for name in theory.__all__ if callable(getattr(theory, name))}
    functions -= {name for name in functions if isinstance(getattr(theory, name), type)}
    assert functions - OTHERS - {"leaky_relu"} == set(CALLS)


QUICK = settings(max_examples=12, deadline=None, derandomize=True)
LONG = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", CALLS)
def test_wide_ranges(name):
    QUICK(given(st.tuples(*CALLS[name]))(lambda arguments: hold(name, arguments)))()


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.parametrize("name", CALLS)
def test_wide_ranges_at_length(name):
    LONG(given(st.tuples(*CALLS[name]))(lambda arguments: hold(name, arguments)))()


def test_huge_variances_are_refused_by_the_jacobian():
    for variances in ([1e300] * 3, [math.inf] * 3):
        with pytest.raises(ValueError, match=r"^variance is \S+; it must be"):
            theory.jacobian_moments(3, TANH, 1.05, variances=variances)
    with pytest.raises(ValueError, match="beyond float64"):
        theory.jacobian_moments(400, RELU, 1e30, variances=[1.0] * 400)


def test_a_jacobian_of_many_layers():
    began = time.process_time()
    many = theory.jacobian_moments(10**5, TANH, 1.05, 2.01e-5)
    given_one_by_one = theory.jacobian_moments(10**5, TANH, 1.05, variances=[0.1] * 10**5)
    assert time.process_time() - began < 1
    few = theory.jacobian_moments(10, TANH, 1.05, 2.01e-5)
    assert many.relative_variance == pytest.approx(1e4 * few.relative_variance)
    assert many.mean == pytest.approx(few.mean**1e4, rel=1e-6)
    ten = theory.jacobian_moments(10, TANH, 1.05, variances=[0.1] * 10)
    assert given_one_by_one.relative_variance == pytest.approx(1e4 * ten.relative_variance)


def test_a_logit_far_from_the_others():
    # The largest alone, and the others alone.
    assert theory.initial_loss(0.1, 65, 5000.0) == 5000
    assert theory.initial_loss(0.1, 65, -5000.0) == theory.expected_logsumexp(0.1, 64)
    assert theory.initial_loss(3.0, 1, 2.5) == 2.5
    # Both sides of where that begins.
    for sign in (1, -1):
        edge = sign * (20 * 0.1 + 40 + (math.log(65) if sign > 0 else 0))
        near, far = (theory.initial_loss(0.1, 65, edge * part) for part in (1 - 1e-9, 1 + 1e-9))
        assert near == pytest.approx(far, abs=1e-6)
