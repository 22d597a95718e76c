"""Each reproduction at a small size, against theory; narrow networks deviate more.

The full sizes are run by the command; here it is shown that the same functions measure what they
say, and that they would not give the published number for another network.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import theory
from charjax.initlab.reproductions import (
    correlation,
    gradients,
    initial_loss,
    jacobian,
    names_variants,
    relu_stack,
    tanh_stack,
    zeros,
)
from charjax.initlab.reproductions.nets import measure_nets

TANH = theory.find_activation("tanh")


def ignore(*_):
    pass


def test_every_network_is_measured_once_in_order_and_told_of():
    progress_reports = []

    def one(key):
        return {"draw": jax.random.normal(key, (2,)), "data": jax.random.key_data(key)[1]}

    def note(done, total):
        progress_reports.append((done, total))

    few = measure_nets(one, 3, 5, note, ignore)
    many = measure_nets(one, 3, 9, ignore, ignore)
    assert few["draw"].shape == (5, 2)
    assert few["draw"].dtype == np.float64
    np.testing.assert_array_equal(many["draw"][:5], few["draw"])
    assert len(np.unique(many["draw"])) == 18
    assert progress_reports[-1] == (5, 5)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_nets(one, 3, 5, ignore, stop)


def test_gaussian_logits():
    check = initial_loss.gaussian_logits(8, 2048, ignore, ignore)
    assert check.measured == pytest.approx(check.theory, abs=5 * check.standard_error)
    assert check.standard_error < 0.015
    assert check.theory == pytest.approx(check.expected, abs=5e-4)


@pytest.mark.parametrize(
    ("config", "expected"), [("names-mlp-naive", 26.39), ("names-mlp-kaiming", 3.3014)]
)
@pytest.mark.quick("names-mlp-kaiming-3.3014")
def test_initial_losses_of_the_names_mlp(config, expected, data_dir):
    losses = initial_loss.initial_losses(config, 24, 64, ignore, ignore)
    assert losses.shape == (24,)
    assert losses.mean() == pytest.approx(expected, abs=4 * losses.std() / math.sqrt(23))
    assert 0.05 < losses.std() / losses.mean() < 0.15 or config == "names-mlp-kaiming"


def test_a_tanh_stack_is_as_wide_as_theory_says():
    checks = tanh_stack.run("cpu", ignore, ignore, nets=3, width=200, inputs=60)
    assert len(checks) == 40
    for check in checks:
        # The literals are the theory, rounded.
        assert check.theory == pytest.approx(check.expected, abs=0.06 if check.unit else 6e-4)
        near = 2.0 if check.unit else 0.015
        assert check.measured == pytest.approx(check.theory, abs=near), check.what


@pytest.mark.parametrize(
    ("activation", "norm", "gain", "near"),
    [
        ("tanh", False, 3.0, 0.06),
        ("tanh", True, 7.0, 0.06),
        ("relu", True, 1.0, 0.06),
    ],
)
@pytest.mark.quick("tanh-True-*")
def test_gradients_grow_as_theory_says(activation, norm, gain, near):
    stack = gradients.LayerStack(activation, norm, gain, 8, 96, 128)
    check = gradients.measure("a stack", stack, stack.growth, 100 * near, 6, ignore, ignore)
    assert check.verdict == "reproduced", (check.measured, check.expected)
    assert check.theory == check.expected
    wrong = dataclasses.replace(check, expected=check.expected * 1.15)
    assert wrong.verdict == "out of tolerance"


def test_the_published_growths_are_those_of_theory():
    for _, stack, expected, _, _ in gradients._CASES:
        assert stack.growth == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_correlations_fall_as_theory_says():
    checks = correlation.run("cpu", ignore, ignore, nets=8, width=192, pairs=8)
    for check, near in zip(checks, (0.08, 0.15, 0.3), strict=True):
        assert check.theory == pytest.approx(check.expected, rel=2e-3)
        assert check.measured == pytest.approx(check.theory, rel=near)
        assert 0 < check.standard_error < near * check.theory


def test_the_spread_of_singular_values_needs_no_singular_values():
    J_NN = jax.random.normal(jax.random.key(0), (40, 40)) + jnp.eye(40)
    squares = np.linalg.svd(np.asarray(J_NN, np.float64), compute_uv=False) ** 2
    assert jacobian.relative_variance(J_NN) == pytest.approx(
        squares.var() / squares.mean() ** 2, rel=1e-4
    )


@pytest.mark.parametrize(("weights", "near"), [("orthogonal", 0.15), ("gaussian", 0.3)])
@pytest.mark.quick("orthogonal-*")
@pytest.mark.slow
def test_jacobians_spread_as_theory_says(weights, near):
    _, expected, _ = jacobian._CASES[weights]
    check = jacobian.measure(weights, 8, 64, expected, 100 * near, ignore, ignore)
    assert check.theory == pytest.approx(expected, rel=1e-3)
    assert check.verdict == "reproduced", check.measured
    q = theory.fixed_point(TANH, 1.05, 2.01e-5)
    J_NN = jacobian.jacobian(jax.random.key(1), weights, 64, q)
    mean = theory.jacobian_moments(16, TANH, 1.05, 2.01e-5, weights).mean
    assert float(jnp.mean(jnp.sum(J_NN**2, axis=1))) == pytest.approx(mean, rel=0.3)


def test_relu_layers_keep_their_size_at_two_over_n():
    checks = relu_stack.run("cpu", ignore, ignore, nets=8, width=96, inputs=4)
    for check, expected in zip(checks, (1.0, 0.5), strict=True):
        # A logarithm's mean lies 2.5 / n below.
        assert check.measured / expected == pytest.approx(1 - 2.5 / 96, abs=0.03)


@pytest.mark.slow
def test_from_zeros_only_the_last_bias_learns(data_dir):
    still, bias, loss = zeros.run("cpu", ignore, ignore, steps=1000)
    assert (still.measured, still.verdict) == (0.0, "reproduced")
    assert (bias.measured, bias.verdict) == (27.0, "reproduced")
    assert loss.expected == pytest.approx(2.8226, abs=1e-4)
    assert loss.expected < loss.measured < loss.expected + 0.1


def test_the_variants_are_compared_seed_by_seed(monkeypatch):
    rng = np.random.default_rng(0)
    seeds = 0.01 * rng.normal(size=8)
    expected_losses = dict(names_variants._VARIANTS.values())

    def losses(config, count, steps, progress, poll):
        progress(count * steps)
        return expected_losses[config] + seeds[:count] + 0.001 * rng.normal(size=count)

    monkeypatch.setattr(names_variants, "_dev_losses", losses)
    progress_reports = []
    checks = names_variants.measure(8, 10, lambda *pair: progress_reports.append(pair), ignore)
    assert [check.verdict for check in checks] == ["reproduced"] * 7 + ["stated"] * 3
    assert progress_reports[-1] == (400, 400)
    assert checks[5].measured == pytest.approx(0.037, abs=0.002)
    assert "variant 3 is better" in checks[7].note
    # The same loss in all variants: no ordering is shown.
    expected_losses = dict.fromkeys(expected_losses, 2.168)
    checks = names_variants.measure(8, 10, ignore, ignore)
    assert [check.verdict for check in checks[:7]] == ["reproduced"] + 6 * ["out of tolerance"]
    assert "indistinguishable at n = 8" in checks[7].note
    # Two seeds cannot show anything.
    assert "2 seeds cannot reach" in names_variants.measure(2, 10, ignore, ignore)[7].note


@pytest.mark.slow
def test_a_variant_is_trained_as_its_configuration_says(data_dir):
    progress_reports = []
    losses = names_variants._dev_losses("names-mlp-hidden", 2, 30, progress_reports.append, ignore)
    assert losses.shape == (2,)
    assert progress_reports[-1] == 60
    assert np.all((losses > 2.4) & (losses < 3.2))
