"""Intervals, permutation tests and verdicts: known answers, coverage, symmetries, divergence."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charjax.initlab import statistics

LOSSES = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=2, max_size=9).map(
    lambda pairs: np.array(pairs).T
)


# The sign-flip test


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        # Every sign vector is counted by hand: |±1 ±2 ±3| is 6 twice, 4 twice, 2 twice, 0 twice.
        ([1, 2, 3], 2 / 8),
        ([1, 2, -3], 8 / 8),
        ([1, -2, 3], 6 / 8),
        ([-1, 2, 3], 4 / 8),
        ([1, 1], 2 / 4),
        ([0, 0, 0], 1),
        ([5], 1),
        ([1] * 6, 2 / 64),
        # Sums that are equal but for rounding are equally far from 0.
        ([0.1, 0.2, -0.3], 1),
    ],
)
def test_sign_flip_by_hand(differences, p):
    assert statistics.sign_flip_p(differences) == p


def test_sign_flip_counts_all():
    x_S = np.random.default_rng(3).normal(0.4, 1, 10)
    signs = np.array(list(itertools.product([-1, 1], repeat=10)))
    expected = np.mean(np.abs(signs @ x_S) >= abs(x_S.sum()) - 1e-12)
    assert statistics.sign_flip_p(x_S) == expected


def test_sign_flip_drawn_agrees_with_normal_theory():
    """Beyond the exact sizes: for many seeds the sum is normal with variance Σ d²."""
    x_S = np.random.default_rng(0).normal(0.2, 1, 200)
    z = abs(x_S.sum()) / math.sqrt(np.sum(x_S**2))
    assert statistics.sign_flip_p(x_S) == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.006)
    # The observed one is counted: never 0.
    assert statistics.sign_flip_p(np.ones(40)) == 1 / (statistics.RESAMPLES + 1)


def test_sign_flip_is_level_under_the_null():
    rng = np.random.default_rng(8)
    p = np.array([statistics.sign_flip_p(rng.normal(size=8)) for _ in range(1000)])
    assert 0.03 < np.mean(p < 0.05) < 0.065
    assert 0.4 < np.mean(p < 0.5) < 0.6


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [1.0, math.inf]])
def test_sign_flip_refuses(bad):
    with pytest.raises(ValueError, match="finite"):
        statistics.sign_flip_p(bad)


# The interval


@pytest.mark.parametrize("n", [3, 6])
def test_interval_covers_as_it_says(n):
    """95 % for normal data even of three values, where plain percentiles cover 74 %."""
    rng = np.random.default_rng(n)
    found = [statistics.interval(rng.normal(1.0, 2.0, n)) for _ in range(400)]
    covered = np.mean([one.low <= 1.0 <= one.high for one in found])
    assert 0.92 < covered < 0.98


def test_interval_of_many_is_normal_theory():
    x_S = np.random.default_rng(0).exponential(size=400)
    found = statistics.interval(x_S)
    half = 1.96 * x_S.std(ddof=1) / 20
    assert found.mean == pytest.approx(x_S.mean())
    assert found.low == pytest.approx(x_S.mean() - half, abs=half * 0.1)
    assert found.high == pytest.approx(x_S.mean() + half, abs=half * 0.1)


def test_interval_of_one_and_of_none():
    one = statistics.interval([2.0])
    assert (one.mean, one.n) == (2.0, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    with pytest.raises(ValueError, match="at least 1"):
        statistics.interval([])


def test_interval_with_a_diverged_run():
    found = statistics.interval([2.0, math.nan, 2.1])
    assert (found.mean, found.diverged, found.n) == (math.inf, 1, 3)
    assert math.isnan(found.low)


# Comparisons


def test_better_where_both_agree():
    a_S = 2.0 + np.random.default_rng(0).normal(size=8)
    found = statistics.compare(a_S - 0.1 + 0.01 * np.arange(8), a_S)
    assert found.verdict == "better"
    assert found.mean == pytest.approx(-0.065)
    assert found.p == 2 / 2**8
    assert found.low < -0.065 < found.high < 0


def test_a_shared_seed_effect_cancels():
    """Let seeds differ far more than the variants; paired differences separate them."""
    rng = np.random.default_rng(1)
    a_S = rng.normal(0, 5, 8)
    assert statistics.compare(a_S + 0.01 + rng.normal(0, 0.001, 8), a_S).verdict == "worse"
    assert "indistinguishable" in statistics.compare(a_S + 0.01, rng.normal(0, 5, 8)).verdict


@pytest.mark.parametrize(("n", "can"), [(2, False), (5, False), (6, True)])
def test_too_few_seeds(n, can):
    found = statistics.compare(np.full(n, 1.0), np.full(n, 2.0) + np.arange(n) / 100)
    assert found.p == 2 / 2**n
    if can:
        assert found.verdict == "better"
    else:
        expected = f"indistinguishable at n = {n}: {n} seeds cannot reach p < 0.05, 6 can"
        assert found.verdict == expected


def test_seeds_needed_can_reach_it():
    for family in range(1, 200):
        needed = statistics.seeds_needed(family)
        assert family * 2 / 2**needed < 0.05 <= family * 2 / 2 ** (needed - 1)


def test_equal_arms():
    found = statistics.compare([1.0] * 8, [1.0] * 8)
    assert found.verdict == "indistinguishable at n = 8"
    assert (found.mean, found.p) == (0, 1)


@pytest.mark.parametrize(("a", "b"), [([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([], [])])
def test_compare_refuses(a, b):
    with pytest.raises(ValueError, match="given"):
        statistics.compare(a, b)


@given(LOSSES)
def test_swapping_the_arms_mirrors(losses):
    one, other = statistics.compare(*losses), statistics.compare(*losses[::-1])
    assert one.p == other.p
    opposite = {"better": "worse", "worse": "better"}
    assert other.verdict == opposite.get(one.verdict, one.verdict)
    ends = (-other.mean, -other.high, -other.low)
    np.testing.assert_allclose((one.mean, one.low, one.high), ends, rtol=1e-9, atol=1e-12)


@given(LOSSES, st.integers(0, 1000))
def test_order_of_the_seeds_does_not_matter(losses, seed):
    order = np.random.default_rng(seed).permutation(losses.shape[1])
    assert statistics.compare(*losses) == statistics.compare(*losses[:, order])


@given(LOSSES, st.sampled_from([0.25, 2.0, 1024.0]))
def test_units_do_not_matter(losses, factor):
    one, other = statistics.compare(*losses), statistics.compare(*(factor * losses))
    assert (one.p, one.verdict) == (other.p, other.verdict)
    np.testing.assert_allclose(
        (other.mean, other.low, other.high), factor * np.array([one.mean, one.low, one.high])
    )


# Divergence


def test_diverged_is_worse_than_any_loss():
    always = statistics.compare([math.nan, math.inf] * 4, np.linspace(2, 90, 8))
    assert always.verdict == "worse"
    assert (always.diverged_a, always.diverged_b, always.ranked) == (8, 0, True)
    # All ranks are tied.
    assert always.mean == 4.5
    assert statistics.compare(np.linspace(2, 90, 8), [math.nan] * 8).verdict == "better"


def test_both_diverged_is_a_tie():
    found = statistics.compare([math.nan] * 8, [math.inf] * 8)
    assert found.verdict == "indistinguishable at n = 8"
    assert (found.mean, found.p) == (0, 1)


def test_one_diverged_run_among_better_ones():
    """Signed ranks by hand: seven wins of sizes 1 … 7, and a loss that is larger than all: 8."""
    a_S = 2.0 - 0.1 * np.arange(1, 9)
    a_S[7] = math.nan
    found = statistics.compare(a_S, np.full(8, 2.0))
    assert found.mean == (8 - 28) / 8
    # Subsets of 1 … 8 that sum to at most 8, twice, of 256.
    few = sum(sum(s) <= 8 for k in range(9) for s in itertools.combinations(range(1, 9), k))
    assert found.p == 2 * few / 256
    assert "indistinguishable" in found.verdict


# Several comparisons


def test_holm_by_hand():
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(statistics.holm([0.9, 0.8]), [1, 1])


def test_a_family_needs_more():
    pair = statistics.compare(np.full(7, 1.0), np.full(7, 2.0))
    assert pair.verdict == "better"
    found = statistics.correct([pair] * 6)[0]
    assert found.verdict == (
        "indistinguishable at n = 7: 7 seeds cannot reach p < 0.05 among 6 comparisons, 8 can"
    )
    assert found.adjusted_p == 6 * 2 / 2**7


# The best rate


def test_best_rate_is_sure():
    rates, noise = 2.0 ** np.arange(-8, -3), np.random.default_rng(0).normal(0, 0.01, 6)
    losses_RS = np.array([3, 2, 1, 2, 3.0])[:, None] + noise
    found = statistics.argmin_interval(rates, losses_RS)
    assert (found.rate, found.low, found.high, found.at_edge) == (2**-6, 2**-6, 2**-6, False)
    np.testing.assert_array_equal(found.share_R, [0, 0, 1, 0, 0])


def test_best_rate_is_unsure():
    """Two rates that win in half of the seeds each: both are in the interval."""
    losses_RS = np.array([[3.0] * 8, [1.0, 2.0] * 4, [2.0, 1.01] * 4])
    found = statistics.argmin_interval([0.1, 0.2, 0.4], losses_RS)
    assert (found.rate, found.low, found.high) == (0.2, 0.2, 0.4)
    assert 0.4 < found.share_R[1] < 0.75
    assert found.share_R.sum() == pytest.approx(1)


def test_a_rate_that_diverges_once_is_not_best():
    losses_RS = np.array([[1.5] * 4, [1.0, 1.0, 1.0, math.nan]])
    found = statistics.argmin_interval([0.1, 0.2], losses_RS)
    assert (found.rate, found.at_edge) == (0.1, True)
    # Without the diverged seed the other is best: (3/4)^4 of the resamples.
    assert found.share_R[1] == pytest.approx(0.75**4, abs=0.02)
    nowhere = statistics.argmin_interval([0.1, 0.2], np.full((2, 3), math.inf))
    assert math.isnan(nowhere.rate)


@given(st.integers(0, 99))
def test_best_rate_any_order_of_seeds(seed):
    rng = np.random.default_rng(seed)
    losses_RS = rng.normal(size=(4, 5))
    one = statistics.argmin_interval([1, 2, 3, 4], losses_RS)
    other = statistics.argmin_interval([1, 2, 3, 4], losses_RS[:, rng.permutation(5)])
    np.testing.assert_array_equal(one.share_R, other.share_R)
    assert (one.low, one.high) == (other.low, other.high)
    assert one.low <= one.rate <= one.high


def test_best_rate_of_one_seed_has_no_interval():
    found = statistics.argmin_interval([0.1, 0.2, 0.3], [[2.0], [1.0], [3.0]])
    assert found.rate == 0.2
    assert math.isnan(found.low)


@pytest.mark.parametrize(
    ("rates", "losses"), [([1, 2], [[1.0]]), ([2, 1], [[1.0], [1.0]]), ([], [[]])]
)
def test_best_rate_refuses(rates, losses):
    with pytest.raises(ValueError, match="rates"):
        statistics.argmin_interval(rates, losses)
