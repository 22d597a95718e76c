"""Verdicts of tuned schemes: the swap test by brute force, its level, its power, its family."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax.initlab.report import assumptions, swaps, verdicts
from charjax.initlab.statistics import compare, paired_differences, sign_flips

# Few values, so that settings tie and runs diverge; 0.1 and 0.2 do not add up exactly.
LOSSES = st.sampled_from([0.1, 0.2, 0.5, 1.0, 3.0, math.inf])


def tables(draw, seeds, settings):
    size = 2 * seeds * settings
    return np.array(draw(st.lists(LOSSES, min_size=size, max_size=size))).reshape(
        2, settings, seeds
    )


def column(losses_KS):
    return losses_KS.T[..., None]


def brute_force(first_KS, second_KS):
    """p, by loops and by the words of docs/initlab.md."""

    def judged(losses_KS):
        losses = []
        for seed in range(losses_KS.shape[1]):
            others = np.delete(losses_KS, seed, axis=1)
            gain, _ = verdicts.best_setting(others[:, None])
            losses.append(losses_KS[gain, seed])
        return np.array(losses)

    def statistic(swapped):
        one = np.where(swapped, second_KS, first_KS)
        other = np.where(swapped, first_KS, second_KS)
        d = paired_differences(judged(one), judged(other))
        return abs(d.sum()) / math.sqrt((d**2).sum()) if d.any() else 0.0

    seeds = first_KS.shape[1]
    all_swaps = [np.array(s) for s in itertools.product([False, True], repeat=seeds)]
    observed = statistic(all_swaps[0])
    return np.mean([statistic(s) >= observed - 1e-9 for s in all_swaps])


@settings(max_examples=25)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_p_is_the_share_of_swaps(data, seed):
    """Tables that share a candidate: otherwise settings are matched, see below."""
    seeds, count = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(seed)
    first_KS, second_KS = rng.normal(size=(2, count, seeds))
    if data.draw(st.booleans()):
        first_KS[rng.random(first_KS.shape) < 0.2] = np.inf
    left, right = (swaps.candidates(column(x))[:, 0] for x in (first_KS, second_KS))
    if not (left & right).any():
        return
    (found,) = swaps.compare_all([np.stack([first_KS, second_KS])])
    assert found[0, 1].p == brute_force(first_KS, second_KS)


@given(st.data())
def test_each_seed_is_judged_by_the_others(data):
    first_KS, _ = tables(data.draw, data.draw(st.integers(2, 5)), data.draw(st.integers(1, 4)))
    places = swaps.settings_without_own_seed(column(first_KS))[:, 0]
    losses = swaps.losses_without_own_seed(column(first_KS))[:, 0]
    for seed, (place, loss) in enumerate(zip(places, losses, strict=True)):
        others_KS = np.delete(first_KS, seed, axis=1)
        is_bad_KS = ~np.isfinite(others_KS)
        assert is_bad_KS.sum(1)[place] == is_bad_KS.sum(1).min()
        best = is_bad_KS.sum(1) == is_bad_KS.sum(1).min()
        if (~is_bad_KS).sum(1)[place]:
            mean_K = np.where(is_bad_KS, 0, others_KS).sum(1) / np.maximum((~is_bad_KS).sum(1), 1)
            assert mean_K[place] <= mean_K[best].min() + 1e-12
        assert loss == first_KS[place, seed]


def test_swapping_the_schemes_mirrors():
    rng = np.random.default_rng(0)
    losses_CKS = rng.normal(size=(2, 4, 7))
    (one,), (other,) = (swaps.compare_all([x]) for x in (losses_CKS, losses_CKS[::-1]))
    assert one[0, 1].p == other[0, 1].p
    assert one[0, 1].mean == pytest.approx(-other[0, 1].mean)
    assert (one[0, 1].low, one[0, 1].high) == pytest.approx((-other[0, 1].high, -other[0, 1].low))


def test_a_setting_that_no_choice_falls_on_changes_nothing():
    """So a clear best gives the sign-flip test, its p and its interval."""
    rng = np.random.default_rng(1)
    clear_CKS = rng.normal(size=(2, 3, 8)) + np.array([20.0, 0.0, 30.0])[:, None]
    (found,) = swaps.compare_all([clear_CKS])
    assert found[0, 1] == compare(*clear_CKS[:, 1])


def test_schemes_that_are_clearly_best_at_different_settings_are_told_apart():
    """Swapped as they stand, a mixture's choice would hop between the two settings."""
    rng = np.random.default_rng(2)
    losses_CKS = rng.normal(size=(2, 5, 8))
    losses_CKS[0] += np.array([0.0, 4, 4, 4, 4])[:, None]
    losses_CKS[1] += np.array([5.0, 5, 2, 5, 5])[:, None]
    (found,) = swaps.compare_all([losses_CKS])
    assert found[0, 1] == compare(losses_CKS[0, 0], losses_CKS[1, 2])
    assert found[0, 1].verdict == "better"


def test_tied_settings_are_all_candidates():
    rng = np.random.default_rng(3)
    losses_SKN = rng.normal(size=(8, 5, 500))
    left_KN = swaps.candidates(losses_SKN)
    assert left_KN.any(0).all()
    other_KN = swaps.candidates(rng.normal(size=(8, 5, 500)))
    assert (left_KN & other_KN).any(0).all()
    # One that diverged twice where the best never did is none, once it may be.
    losses_SKN[:2, 0], losses_SKN[0, 1] = np.inf, np.inf
    left_KN = swaps.candidates(losses_SKN - 3 * (np.arange(5) < 2)[:, None])
    assert not left_KN[0].any()
    assert left_KN[1].mean() > 0.9


@pytest.mark.parametrize("many", [2, 3])
def test_adjusted_p_is_the_step_down_maximum_over_sizes(many):
    """Westfall and Young's algorithm by loops, over all pairs and sizes."""
    rng = np.random.default_rng(many)
    sizes = [rng.normal(size=(many, 3, 6)) - np.arange(many)[:, None, None] for _ in range(2)]
    found = swaps.compare_all(sizes)
    (signs_BS,) = sign_flips(6)
    rows, ones = [], []
    for size_CKS, size in zip(sizes, found, strict=True):
        for (i, j), one in size.items():
            rows.append(
                swaps.swap_statistics(column(size_CKS[i]), column(size_CKS[j]), signs_BS)[0]
            )
            ones.append(one)
    # In units of the 5 % point of each pair's own t: the second largest of 32.
    rows = np.array(rows)
    rows = rows / np.sqrt(6 - rows**2)
    rows /= np.sort(rows, axis=1)[:, [-2]]
    lowest = 0.0
    for m in np.argsort(-rows[:, 0]):
        less = rows[:, 0] <= rows[m, 0]
        step = np.mean(rows[less].max(0) >= rows[m, 0] - 1e-12)
        lowest = max(lowest, step, ones[m].p)
        assert ones[m].adjusted_p == lowest
        assert ones[m].family == len(rows) == 2 * math.comb(many, 2)
        assert ones[m].needed == 6


def test_the_interval_of_tied_settings_covers():
    """Identical schemes with five tied settings; held fixed, the choice leaves 80 %."""
    rng = np.random.default_rng(4)
    covered, fixed, trials = 0, 0, 100
    for _ in range(trials):
        losses_CKS = rng.normal(size=(2, 5, 7))
        (found,) = swaps.compare_all([losses_CKS])
        covered += found[0, 1].low <= 0 <= found[0, 1].high
        chosen = compare(*(swaps.losses_without_own_seed(column(x))[:, 0] for x in losses_CKS))
        fixed += chosen.low <= 0 <= chosen.high
    assert fixed / trials < 0.85
    assert covered / trials > 0.87


def test_more_seeds_than_can_be_enumerated():
    rng = np.random.default_rng(5)
    losses_CKS = rng.normal(size=(2, 2, 15))
    losses_CKS[0] -= 3
    (found,) = swaps.compare_all([losses_CKS])
    assert found[0, 1].verdict == "better"
    # Of 2^14 pairs of opposite sign vectors 8,191 are drawn.
    assert 1 / 8192 <= found[0, 1].p <= 4 / 8192


# What stands beside the verdicts


def test_power_is_students():
    """At 8 seeds and 3 comparisons d = 1.5 is found in 0.83 of normal experiments (simulated)."""
    assert assumptions.detectable(8, 3) == pytest.approx(1.5, abs=0.1)
    assert assumptions.seeds_for(1.5, 3) == 8
    assert assumptions.detectable(12, 24) < assumptions.detectable(8, 24)
    lines = assumptions.basis(8, 8, 24)
    assert "all 24 comparisons of this report (8 sizes x 3 pairs)" in lines[0]
    assert "with 8 seeds; 12 seeds would find one of 1.5" in lines[1]
    # 0.69^8 = 0.05.
    assert "fewer than 31 % of seeds may be missing from 8" in lines[2]
    assert len(assumptions.basis(8, 1, 1)) == 2
    assert (
        "3 seeds cannot reach p < 0.05, whatever the difference; 6 can"
        in assumptions.basis(3, 1, 3)[1]
    )


def cautions_of(first_S, second_S):
    seeds = range(10, 10 + len(first_S))
    return assumptions.cautions(
        np.array(first_S), np.array(second_S), compare(first_S, second_S), ("a", "b"), seeds
    )


def test_one_bad_seed_is_said():
    good = 0.01 * np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    bad = -good
    bad[2] = 5.0
    assert cautions_of(bad, np.zeros(8)) == [
        "skewed: seed 12 differs by +5.0000, the others by -0.0800 to -0.0100",
        "seed 12 decides: without it a would look better",
    ]
    lines = cautions_of(np.zeros(8), bad)
    assert lines[1] == "seed 12 decides: without it b would look better"
    # Diverged, it has no size.
    bad[2] = np.inf
    assert cautions_of(bad, np.zeros(8)) == ["seed 12 decides: without it a would look better"]
    assert cautions_of(-good, np.zeros(8)) == []


def test_a_verdict_that_rests_on_one_seed_says_so():
    losses = np.array([-1.0, -0.9, -1.1, -0.2, 0.5, -0.9, -0.1, -1.4])
    assert compare(losses, np.zeros(8)).verdict == "better"
    assert cautions_of(losses, np.zeros(8)) == [
        "rests on seed 12: without it the 95 % interval includes 0"
    ]
    assert cautions_of(np.zeros(8), losses) == cautions_of(losses, np.zeros(8))
    assert cautions_of(losses - 5, np.zeros(8)) == []


def test_skewness_limit_is_of_normal_samples():
    x_BS = np.random.default_rng(9).normal(size=(2000, 8))
    beyond = np.mean([abs(assumptions.skewness(x)) > assumptions.skewness_limit(8) for x in x_BS])
    assert 0.003 < beyond < 0.02
    assert assumptions.skewness(np.ones(5)) == 0
    assert assumptions.student_t(np.zeros(4)) == 0
    assert assumptions.student_t(-np.ones(4)) == -math.inf
