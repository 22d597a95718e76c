"""The null distribution of two tuned schemes' difference: whole tables swapped, then tuned again.

A scheme is judged, seed by seed, at the setting that is best over the other seeds. Where settings
are nearly tied that choice moves from seed to seed against the seed left out, for all seeds alike,
so that the paired differences spread too little and flipping their signs finds too much. Here the
choice is part of the statistic: if two schemes are alike, a seed's two tables of losses may be
exchanged before anything is chosen (Fisher 1935, with the choice made anew for every exchange).

Letters: S seeds, K settings (gain, rate), N comparisons side by side, B swaps.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import special

from charjax.initlab.statistics import Array, signed_ranks

Flags = NDArray[np.bool_]

# A setting is ruled out for a scheme by a one-sided paired t test of its own seeds at 1 %.
_RULED_OUT = 0.01


def settings_without_own_seed(losses_SKN: Array) -> NDArray[np.int64]:
    """For each seed the setting (S, N) that is best over the other seeds.

    Best is the setting of the fewest runs that diverged, then of the lowest mean; the first of
    equal ones. A single seed is judged by itself.

    Args:
      losses_SKN: losses; a value that is not finite diverged.
    """
    bad_SKN, mean_SKN = _others(losses_SKN)
    fewest_S1N = bad_SKN.min(1, keepdims=True)
    return np.where(bad_SKN == fewest_S1N, mean_SKN, np.inf).argmin(1)


def losses_without_own_seed(losses_SKN: Array) -> Array:
    """Losses (S, N) at those settings."""
    place_SN = settings_without_own_seed(losses_SKN)
    loss_SN: Array = np.take_along_axis(losses_SKN, place_SN[:, None], axis=1)[:, 0]
    return loss_SN


def _others(losses_SKN: Array) -> tuple[Array, Array]:
    """Of the other seeds how many diverged, and the mean of those that did not."""
    is_bad_SKN = ~np.isfinite(losses_SKN)
    bad_SKN = _sum_of_others(is_bad_SKN.astype(np.float64))
    rest_SKN = _sum_of_others(np.where(is_bad_SKN, 0.0, losses_SKN))
    return bad_SKN, rest_SKN / np.maximum(max(len(losses_SKN) - 1, 1) - bad_SKN, 1)


def _sum_of_others(x_SKN: Array) -> Array:
    """For each seed the sum over the others; by sums from both ends, so that nothing cancels."""
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


def swap_statistics(first_SKN: Array, second_SKN: Array, signs_BS: Array) -> Array:
    """|sum of differences| over the root of their sum of squares, for each swap of the tables.

    That ratio ranks as |Student's t| does. Unlike the mean it can be compared between pairs and
    sizes, and it keeps its power where settings are tied or the schemes are best at different ones.

    Two schemes that are plainly tuned at different settings are not alike table by table: where no
    setting is left to both after each scheme's own seeds have ruled out the worse ones, the
    remaining ones are matched in their order. Measured, 12 seeds, d = 1.5, other settings 3
    standard deviations worse: found in 99 % instead of 85. Alike schemes come to that in at most 4
    of 10,000 trials, of all nulls of benchmarks/verdicts.py.

    Args:
      first_SKN: losses of the one scheme, in N comparisons.
      second_SKN: losses of the other.
      signs_BS: -1 where a seed's two tables are swapped, +1 where not.

    Returns:
      (N, B), between 0 and √S; 0 where all differences are 0. Where a run that counts diverged,
      signed ranks stand for the differences, swap by swap.
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
    """(K, N): the settings that a scheme's own seeds do not rule out as its best.

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
    """The candidates of both, (S, K', 1) each: in their order, filled up with what is not run."""
    one, other = first_SK[:, left_K], second_SK[:, right_K]
    most = max(one.shape[1], other.shape[1])

    def fill(table: Array) -> Array:
        missing = most - table.shape[1]
        filled: Array = np.pad(table, ((0, 0), (0, missing)), constant_values=np.inf)
        return filled[..., None]

    return fill(one), fill(other)


def _statistics(first_SKN: Array, second_SKN: Array, signs_BS: Array) -> Array:
    first_SKN, second_SKN = _in_play(first_SKN, second_SKN)
    if first_SKN.shape[1] == 1:
        return _flipped(first_SKN[:, 0], second_SKN[:, 0], signs_BS)
    seeds, settings, n = first_SKN.shape
    finite = bool(np.isfinite(first_SKN).all() and np.isfinite(second_SKN).all())
    judge = _finite_losses if finite else losses_without_own_seed
    is_swapped_SB = signs_BS.T[:, None, None, :] < 0
    one, other = first_SKN[..., None], second_SKN[..., None]
    shape = (seeds, settings, n * len(signs_BS))
    loss_SN = judge(np.where(is_swapped_SB, other, one).reshape(shape))
    mate_SN = judge(np.where(is_swapped_SB, one, other).reshape(shape))
    differences_SN = loss_SN - mate_SN if finite else _differences(loss_SN, mate_SN)
    size_N = np.sqrt((differences_SN**2).sum(0))
    ratio_N: Array = np.abs(differences_SN.sum(0)) / np.where(size_N > 0, size_N, 1.0)
    return ratio_N.reshape(n, len(signs_BS))


def _in_play(first_SKN: Array, second_SKN: Array) -> tuple[Array, Array]:
    """The tables without those settings that no swap could make the choice of any seed.

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


def _finite_losses(losses_SKN: Array) -> Array:
    """`losses_without_own_seed` where no run diverged, several times as fast."""
    rest_SKN = _sum_of_others(losses_SKN)
    lowest_SN, loss_SN = rest_SKN[:, 0], losses_SKN[:, 0]
    for k in range(1, losses_SKN.shape[1]):
        is_lower_SN = rest_SKN[:, k] < lowest_SN
        np.copyto(lowest_SN, rest_SKN[:, k], where=is_lower_SN)
        np.copyto(loss_SN, losses_SKN[:, k], where=is_lower_SN)
    return loss_SN


def _flipped(first_SN: Array, second_SN: Array, signs_BS: Array) -> Array:
    """Without a choice a swap is a change of sign."""
    differences_SN = _differences(first_SN, second_SN)
    size_N = np.sqrt((differences_SN**2).sum(0))
    unit_SN = differences_SN / np.where(size_N > 0, size_N, 1.0)
    return np.abs(signs_BS @ unit_SN).T


def _differences(first_SN: Array, second_SN: Array) -> Array:
    """Paired differences; signed ranks in those columns where a run diverged."""
    bad_SN, mate_bad_SN = ~np.isfinite(first_SN), ~np.isfinite(second_SN)
    ranked_N = (bad_SN | mate_bad_SN).any(0)
    if not ranked_N.any():
        difference_SN: Array = first_SN - second_SN
        return difference_SN
    difference_SN = np.where(bad_SN, 0.0, first_SN) - np.where(mate_bad_SN, 0.0, second_SN)
    infinite_SN = np.where(bad_SN, np.inf, -np.inf)
    difference_SN[bad_SN != mate_bad_SN] = infinite_SN[bad_SN != mate_bad_SN]
    difference_SN[bad_SN & mate_bad_SN] = 0.0
    difference_SN[:, ranked_N] = signed_ranks(difference_SN[:, ranked_N])
    return difference_SN
