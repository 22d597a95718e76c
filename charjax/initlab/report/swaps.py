"""The swap test: all pairs of tuned schemes at all sizes, compared as one family.

A scheme is judged, seed by seed, at the setting that is best over the other seeds. Where settings
are nearly tied that choice moves from seed to seed against the seed left out, for all seeds alike,
so that the paired differences spread too little, and flipping their signs finds too much. Here the
choice is part of the statistic: if two schemes are equal, a seed's two tables of losses may be
exchanged before anything is chosen (Fisher 1935, with a new choice for every exchange).

Letters: Z sizes, C schemes, S seeds, K settings (gain, rate), N comparisons side by side, B swaps,
M comparisons of the family.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from charjax.initlab.statistics import (
    LEVEL,
    Array,
    Comparison,
    compare,
    is_enumerated,
    paired_differences,
    sign_flips,
)
from charjax.statistics import student_quantile

Flags = NDArray[np.bool_]
Found = dict[tuple[int, int], Comparison]

# A setting is ruled out for a scheme by a one-sided paired t test of its seeds at 1 %.
_RULED_OUT = 0.01
# Swaps computed at once, so that the arrays stay in a core's cache.
_BLOCK = 512
_ROUNDING = 1e-9
# Swaps drawn above 14 seeds.
_DRAWN = 8_191


def compare_all(losses_ZCKS: Sequence[Array]) -> list[Found]:
    """Compare every scheme with every later one, at every size; all of it is one family.

    p is that of swapping a seed's two tables of losses before the settings are chosen, over all
    swaps or, above 14 seeds, 8,191 of them. adjusted_p is by the step-down maximum of Westfall &
    Young (1993, algorithm 2.8), swapping a seed's tables in all pairs and at all sizes together.
    That keeps the chance of any false finding in the report at the level, as Holm's method does,
    but the smallest adjusted p stays 2/2^n however many comparisons there are, where Holm's is that
    times the comparisons: 8 seeds could not separate any of 5 schemes. For two schemes at any
    number of sizes it is exact; with three or more equal ones it requires in addition that the
    seeds' differences be symmetric jointly (measured: docs/initlab.md, "Verdicts").

    Among tuned pairs the maximum is of |t| in units of each pair's own 95 % point over the swaps,
    since the choice spreads some pairs' null far more than others': otherwise a pair of tied
    schemes would hide a clear difference beside it (measured, d = 1.5 among three schemes with 5
    tied settings, 8 seeds: found in 77 instead of 65 %, by Holm's method in 75 %).

    The interval of a tuned pair is that of `compare`, widened by the ratio of the swaps' 95 % point
    of |t| to Student's, where it lies further out than with the choice of settings held fixed.
    Measured for two identical schemes of 5 tied settings at 6, 8, 12 seeds: 0 was covered in 84,
    83, 76 % without that, and in 95, 94, 94 % with it.

    Args:
      losses_ZCKS: for each size an array (C, K, S); a value that is not finite diverged.

    Returns:
      for each size and pair of its schemes (i, j), i < j, the comparison of i - j.

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
    # At least the pair's unadjusted p, and the adjusted p of more extreme pairs.
    lowest = 0.0
    for m in np.argsort(-scaled_MB[:, 0], kind="stable"):
        (z, i, j), one = places[m], found_M[m]
        lowest = max(lowest, one.p, float(adjusted_M[m]))
        found[z][i, j] = dataclasses.replace(one, adjusted_p=lowest, family=len(pairs))
    return [{pair: size[pair] for pair in sorted(size)} for size in found]


def _null(pairs: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return the statistic (M, B) of every pair and swap, unswapped first, and it rescaled."""
    seeds = len(pairs[0][0])
    signs_BS = np.concatenate([np.ones((1, seeds)), *sign_flips(seeds)])
    # The sign vectors of few seeds are enumerated, and begin with the unswapped one.
    signs_BS = signs_BS[1:] if is_enumerated(seeds) else signs_BS[: _DRAWN + 1]
    statistics_MB = np.empty((len(pairs), len(signs_BS)))
    for row_B, pair in zip(statistics_MB, pairs, strict=True):
        for start in range(0, len(signs_BS), _BLOCK):
            block = slice(start, start + _BLOCK)
            row_B[block] = swap_statistics(*pair, signs_BS[block])[0]
    is_tuned = pairs[0][0].shape[1] > 1
    return statistics_MB, scaled(statistics_MB, seeds) if is_tuned else statistics_MB


def scaled(statistics: Array, seeds: int) -> Array:
    """Return |Student's t| of each swap (last axis) in units of the pair's 95 % point."""
    t = _t_of(statistics, seeds)
    reached = math.ceil(LEVEL * t.shape[-1])
    critical = np.partition(t, -reached, axis=-1)[..., [-reached]]
    scaled: Array = t / np.where(critical > 0, critical, 1.0)
    return scaled


def _t_of(statistics: Array, seeds: int) -> Array:
    rest = np.maximum(seeds - statistics**2, _ROUNDING * seeds)
    t: Array = statistics * np.sqrt((seeds - 1) / rest)
    return t


def _step_down(statistics_MB: Array) -> Array:
    """Return adjusted p (M,): each pair against the largest of itself and all less extreme ones."""
    adjusted_M = np.empty(len(statistics_MB))
    largest_B = np.zeros(statistics_MB.shape[1])
    for m in np.argsort(statistics_MB[:, 0], kind="stable"):
        largest_B = np.maximum(largest_B, statistics_MB[m])
        adjusted_M[m] = _share_as_far(largest_B, statistics_MB[m, 0])
    return adjusted_M


def _share_as_far(statistics_B: Array, observed: float) -> float:
    """Return the share of swaps, the unswapped one among them, at least as far as observed."""
    return float(np.mean(statistics_B >= observed * (1 - _ROUNDING) - _ROUNDING))


def _one(first_SK1: Array, second_SK1: Array, statistic_B: Array) -> Comparison:
    """Compare a single pair; its interval is wider where the choice of settings is uncertain."""
    chosen = [losses_without_own_seed(table)[:, 0] for table in (first_SK1, second_SK1)]
    p = _share_as_far(statistic_B, statistic_B[0])
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
    """Return the |t| that at least 5 % of the swaps reach."""
    reached = math.ceil(LEVEL * len(statistic_B))
    return float(_t_of(np.partition(statistic_B, -reached)[-reached], seeds))


# The choice of settings


def settings_without_own_seed(losses_SKN: Array) -> NDArray[np.int64]:
    """Return for each seed the setting (S, N) that is best over the other seeds.

    Best is the setting of the fewest diverged runs, then of the lowest mean; the first of equal
    ones. A single seed is judged by itself.

    Args:
      losses_SKN: losses; a value that is not finite diverged.
    """
    is_bad_SKN = ~np.isfinite(losses_SKN)
    bad_SKN = _sum_of_others(is_bad_SKN.astype(np.float64))
    rest_SKN = _sum_of_others(np.where(is_bad_SKN, 0.0, losses_SKN))
    mean_SKN = rest_SKN / np.maximum(max(len(losses_SKN) - 1, 1) - bad_SKN, 1)
    fewest_S1N = bad_SKN.min(1, keepdims=True)
    return np.where(bad_SKN == fewest_S1N, mean_SKN, np.inf).argmin(1)


def losses_without_own_seed(losses_SKN: Array) -> Array:
    """Return the losses (S, N) at those settings."""
    place_SN = settings_without_own_seed(losses_SKN)
    loss_SN: Array = np.take_along_axis(losses_SKN, place_SN[:, None], axis=1)[:, 0]
    return loss_SN


def _finite_losses(losses_SKN: Array) -> Array:
    """Equal `losses_without_own_seed` where no run diverged, several times as fast."""
    rest_SKN = _sum_of_others(losses_SKN)
    lowest_SN, loss_SN = rest_SKN[:, 0], losses_SKN[:, 0]
    for k in range(1, losses_SKN.shape[1]):
        is_lower_SN = rest_SKN[:, k] < lowest_SN
        np.copyto(lowest_SN, rest_SKN[:, k], where=is_lower_SN)
        np.copyto(loss_SN, losses_SKN[:, k], where=is_lower_SN)
    return loss_SN


def _sum_of_others(x_SKN: Array) -> Array:
    """Return for each seed the sum over the others; from both ends, so that nothing cancels."""
    if len(x_SKN) == 1:
        return x_SKN.copy()
    others_SKN = np.empty_like(x_SKN)
    others_SKN[0] = 0.0
    for seed in range(1, len(x_SKN)):
        np.add(others_SKN[seed - 1], x_SKN[seed - 1], out=others_SKN[seed])
    after_KN = x_SKN[-1].copy()
    for seed in range(len(x_SKN) - 2, -1, -1):
        others_SKN[seed] += after_KN
        after_KN += x_SKN[seed]
    return others_SKN


# The statistic


def swap_statistics(first_SKN: Array, second_SKN: Array, signs_BS: Array) -> Array:
    """Return |sum of differences| over the root of their sum of squares, for each swap.

    That ratio ranks as |Student's t| does. Unlike the mean it is comparable between pairs and
    sizes, and it keeps its power where settings are tied or the schemes are best at different ones.

    Two schemes that are clearly tuned at different settings are not equal table by table: where no
    setting remains for both after each scheme's seeds have ruled out the worse ones, the remaining
    settings are matched in their order. Measured, 12 seeds, d = 1.5, other settings 3 standard
    deviations worse: found in 99 % instead of 85. With equal schemes that happens in at most 4 of
    10,000 trials, over all nulls of benchmarks/verdicts.py.

    Args:
      first_SKN: losses of the one scheme, in N comparisons.
      second_SKN: losses of the other.
      signs_BS: -1 where a seed's two tables are swapped, +1 where not.

    Returns:
      (N, B), between 0 and √S; 0 where all differences are 0. Where a judged run diverged, signed
      ranks replace the differences, swap by swap.
    """
    statistic_NB = _statistics(first_SKN, second_SKN, signs_BS)
    if first_SKN.shape[1] == 1:
        return statistic_NB
    left_KN, right_KN = candidates(first_SKN), candidates(second_SKN)
    for n in np.flatnonzero(~(left_KN & right_KN).any(0)):
        matched = _matched(first_SKN[..., n], second_SKN[..., n], left_KN[:, n], right_KN[:, n])
        statistic_NB[n] = _statistics(*matched, signs_BS)[0]
    return statistic_NB


def candidates(losses_SKN: Array) -> Flags:
    """Return (K, N): the settings that a scheme's seeds do not rule out as its best.

    Ruled out is one that diverged in at least two more seeds than the best, or whose loss is above
    the best's by a one-sided paired t test at 1 %, over the seeds in which neither diverged.
    """
    is_bad_SKN = ~np.isfinite(losses_SKN)
    x_SKN = np.where(is_bad_SKN, 0.0, losses_SKN)
    bad_KN = is_bad_SKN.sum(0)
    mean_KN = x_SKN.sum(0) / np.maximum(len(x_SKN) - bad_KN, 1)
    best_N = np.where(bad_KN == bad_KN.min(0), mean_KN, np.inf).argmin(0)[None]
    is_used_SKN = ~is_bad_SKN & ~np.take_along_axis(is_bad_SKN, best_N[None], axis=1)
    gap_SKN = np.where(is_used_SKN, x_SKN - np.take_along_axis(x_SKN, best_N[None], axis=1), 0.0)
    used_KN = is_used_SKN.sum(0)
    gap_KN = gap_SKN.sum(0) / np.maximum(used_KN, 1)
    squares_KN = (np.where(is_used_SKN, gap_SKN - gap_KN, 0.0) ** 2).sum(0)
    error_KN = np.sqrt(squares_KN / np.maximum((used_KN - 1) * used_KN, 1))
    limit_KN = special.stdtrit(np.maximum(used_KN - 1, 1), 1 - _RULED_OUT)
    is_worse_KN = (used_KN > 1) & (gap_KN > limit_KN * error_KN)
    is_worse_KN |= bad_KN >= np.take_along_axis(bad_KN, best_N, axis=0) + 2
    left_KN: Flags = ~is_worse_KN
    np.put_along_axis(left_KN, best_N, True, axis=0)
    return left_KN


def _matched(
    first_SK: Array, second_SK: Array, left_K: Flags, right_K: Flags
) -> tuple[Array, Array]:
    """Return the candidates of both in their order, (S, K', 1) each, padded with diverged ones."""
    one, other = first_SK[:, left_K], second_SK[:, right_K]
    most = max(one.shape[1], other.shape[1])

    def pad(table: Array) -> Array:
        width = ((0, 0), (0, most - table.shape[1]))
        padded: Array = np.pad(table, width, constant_values=np.inf)
        return padded[..., None]

    return pad(one), pad(other)


def _statistics(first_SKN: Array, second_SKN: Array, signs_BS: Array) -> Array:
    first_SKN, second_SKN = _in_play(first_SKN, second_SKN)
    seeds, settings, n = first_SKN.shape
    if settings == 1:
        # Without a choice a swap is a change of sign.
        differences_SN = paired_differences(first_SKN[:, 0], second_SKN[:, 0])
        size_N = np.sqrt((differences_SN**2).sum(0))
        return np.abs(signs_BS @ (differences_SN / np.where(size_N > 0, size_N, 1.0))).T
    finite = bool(np.isfinite(first_SKN).all() and np.isfinite(second_SKN).all())
    judge = _finite_losses if finite else losses_without_own_seed
    is_swapped_SB = signs_BS.T[:, None, None, :] < 0
    one, other = first_SKN[..., None], second_SKN[..., None]
    shape = (seeds, settings, n * len(signs_BS))
    loss_SN = judge(np.where(is_swapped_SB, other, one).reshape(shape))
    mate_SN = judge(np.where(is_swapped_SB, one, other).reshape(shape))
    differences_SN = loss_SN - mate_SN if finite else paired_differences(loss_SN, mate_SN)
    size_N = np.sqrt((differences_SN**2).sum(0))
    ratio_N: Array = np.abs(differences_SN.sum(0)) / np.where(size_N > 0, size_N, 1.0)
    return ratio_N.reshape(n, len(signs_BS))


def _in_play(first_SKN: Array, second_SKN: Array) -> tuple[Array, Array]:
    """Drop the settings that no swap could make the choice of any seed.

    They lose to one and the same other setting even if each seed has the table that suits them
    best, whichever seed is left out.
    """
    is_whole_K = np.isfinite(first_SKN + second_SKN).all((0, 2))
    if not is_whole_K.any():
        return first_SKN, second_SKN
    total_K = _finite(first_SKN + second_SKN).sum((0, 2))
    rival = int(np.argmin(np.where(is_whole_K, total_K, np.inf)))
    gap_SKN = np.minimum(
        _finite(first_SKN - first_SKN[:, [rival]]), _finite(second_SKN - second_SKN[:, [rival]])
    )
    rounding = 1e-9 * float(np.abs(_finite(first_SKN)).max() + np.abs(_finite(second_SKN)).max())
    loses_K = (gap_SKN.sum(0) - gap_SKN.max(0) > rounding).all(1) & is_whole_K
    return first_SKN[:, ~loses_K], second_SKN[:, ~loses_K]


def _finite(x: Array) -> Array:
    return np.where(np.isfinite(x), x, 0.0)
