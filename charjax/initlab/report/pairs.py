"""All pairs of schemes at all sizes, as one family, with as much power as shared seeds allow.

Letters: Z sizes, C schemes, K settings (gain, rate), S seeds, M comparisons, B swaps.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from charjax.initlab.report.swaps import losses_without_own_seed, swap_statistics
from charjax.initlab.statistics import (
    LEVEL,
    Array,
    Comparison,
    compare,
    is_enumerated,
    sign_flips,
)
from charjax.statistics import student_quantile

# So many swaps at once: what is computed of them stays in a core's cache.
_BLOCK = 512
_ROUNDING = 1e-9
# Above 14 seeds so many swaps are drawn.
_DRAWN = 8_191

Found = dict[tuple[int, int], Comparison]


def compare_all(losses_ZCKS: Sequence[Array]) -> list[Found]:
    """Compare every scheme with every later one, at every size; all of it is one family.

    p is that of swapping a seed's two tables of losses before the settings are chosen (see
    swaps.py), over all swaps or, above 14 seeds, 8,191 of them. adjusted_p is by the step-down
    maximum of Westfall & Young (1993, algorithm 2.8), swapping a seed's tables in all pairs and at
    all sizes together: the chance of any false finding in the report is kept at the level as by
    Holm's method, but the smallest adjusted p stays 2/2^n however many comparisons there are, where
    Holm's is that times the comparisons: 8 seeds could not tell apart any of 5 schemes. For two
    schemes at any number of sizes that is exact; with three or more alike it asks in addition that
    the seeds' differences be symmetric jointly (measured: docs/initlab.md, "Verdicts").

    Among tuned pairs the maximum is of |t| in units of each pair's own 95 % point over the swaps,
    since the choice spreads some pairs' null far more than others': else a pair of tied schemes
    would hide a clear difference beside it (measured, d = 1.5 among three schemes with 5 tied
    settings, 8 seeds: found in 77 instead of 65 %, by Holm's method in 75 %).

    The interval of a tuned pair is that of `compare`, wider by as much as the swaps' 95 % point of
    |t| lies beyond Student's, where it lies further out than with the choice of settings held
    fixed. Measured for two identical schemes of 5 tied settings at 6, 8, 12 seeds: 0 was covered in
    84, 83, 76 % without that, and in 95, 94, 94 % with it.

    Args:
      losses_ZCKS: for each size an array (C, K, S); what is not finite diverged.

    Returns:
      for each size and pair of its schemes (i, j), i < j, what became of i - j.

    Raises:
      ValueError: fewer than 2 seeds.
    """
    tables = [np.asarray(size_CKS, np.float64) for size_CKS in losses_ZCKS]
    places = [
        (z, i, j)
        for z, size_CKS in enumerate(tables)
        for i, j in itertools.combinations(range(len(size_CKS)), 2)
    ]
    found: list[Found] = [{} for _ in tables]
    if not places:
        return found
    columns = [np.ascontiguousarray(size_CKS.transpose(2, 1, 0)) for size_CKS in tables]
    pairs = [(columns[z][..., [i]], columns[z][..., [j]]) for z, i, j in places]
    seeds = len(columns[0])
    if seeds < 2:
        raise ValueError(f"{seeds} seeds given; a comparison needs at least 2")
    statistics_MB, scaled_MB = _null(pairs)
    found_M = [_one(*pair, row_B) for pair, row_B in zip(pairs, statistics_MB, strict=True)]
    adjusted_M = _step_down(scaled_MB)
    # No less than a pair's p by itself, nor than what is more extreme.
    lowest = 0.0
    for m in np.argsort(-scaled_MB[:, 0], kind="stable"):
        (z, i, j), one = places[m], found_M[m]
        lowest = max(lowest, one.p, float(adjusted_M[m]))
        found[z][i, j] = dataclasses.replace(one, adjusted_p=lowest, family=len(pairs))
    return [{pair: size[pair] for pair in sorted(size)} for size in found]


def _null(pairs: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The statistic of every pair and swap, (M, B), and scaled for the maximum; unswapped first."""
    seeds = len(pairs[0][0])
    signs_BS = np.concatenate([np.ones((1, seeds)), *sign_flips(seeds)])
    # Of few seeds the sign vectors are enumerated, and begin with the unswapped one.
    signs_BS = signs_BS[1:] if is_enumerated(seeds) else signs_BS[: _DRAWN + 1]
    statistics_MB = np.empty((len(pairs), len(signs_BS)))
    for row_B, pair in zip(statistics_MB, pairs, strict=True):
        for start in range(0, len(signs_BS), _BLOCK):
            block = slice(start, start + _BLOCK)
            row_B[block] = swap_statistics(*pair, signs_BS[block])[0]
    is_tuned = pairs[0][0].shape[1] > 1
    return statistics_MB, scaled(statistics_MB, seeds) if is_tuned else statistics_MB


def scaled(statistics: Array, seeds: int) -> Array:
    """|Student's t| of each swap (last axis) in units of what 5 % of the pair's swaps reach."""
    left = np.maximum(seeds - statistics**2, _ROUNDING * seeds)
    t = statistics * np.sqrt((seeds - 1) / left)
    reached = math.ceil(LEVEL * t.shape[-1])
    critical = np.partition(t, -reached, axis=-1)[..., [-reached]]
    scaled: Array = t / np.where(critical > 0, critical, 1.0)
    return scaled


def _step_down(statistics_MB: Array) -> Array:
    """Adjusted p (M,): each pair beside the largest of itself and all less extreme ones."""
    adjusted_M = np.empty(len(statistics_MB))
    largest_B = np.zeros(statistics_MB.shape[1])
    for m in np.argsort(statistics_MB[:, 0], kind="stable"):
        largest_B = np.maximum(largest_B, statistics_MB[m])
        adjusted_M[m] = share_as_far(largest_B, statistics_MB[m, 0])
    return adjusted_M


def share_as_far(statistics_B: Array, observed: float) -> float:
    """The part of the swaps, the unswapped one among them, that reach as far as it does."""
    return float(np.mean(statistics_B >= observed * (1 - _ROUNDING) - _ROUNDING))


def _one(first_SK1: Array, second_SK1: Array, statistic_B: Array) -> Comparison:
    """A pair by itself: its interval is wider where the choice of settings is unsure."""
    chosen = [losses_without_own_seed(table)[:, 0] for table in (first_SK1, second_SK1)]
    p = share_as_far(statistic_B, statistic_B[0])
    one = dataclasses.replace(compare(*chosen), p=p, adjusted_p=p)
    if first_SK1.shape[1] == 1:
        return one
    fixed_1B, _ = _null([(chosen[0][:, None, None], chosen[1][:, None, None])])
    seeds = len(first_SK1)
    critical = _critical_t(statistic_B, seeds)
    wider = critical / student_quantile(seeds)
    if wider <= 1 or critical <= _critical_t(fixed_1B[0], seeds):
        return one
    low, high = (one.mean + wider * (end - one.mean) for end in (one.low, one.high))
    return dataclasses.replace(one, low=low, high=high)


def _critical_t(statistic_B: Array, seeds: int) -> float:
    """The |t| that at least 5 % of the swaps reach."""
    reached = math.ceil(LEVEL * len(statistic_B))
    ratio = float(np.partition(statistic_B, -reached)[-reached])
    return ratio * math.sqrt((seeds - 1) / max(seeds - ratio**2, _ROUNDING * seeds))
