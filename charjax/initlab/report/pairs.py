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
    permutation_p,
    sign_flips,
)

# So many swaps at once: what is computed of them stays in a core's cache.
_BLOCK = 512
_ROUNDING = 1e-12

Found = dict[tuple[int, int], Comparison]


def compare_all(losses_ZCKS: Sequence[Array]) -> list[Found]:
    """Compare every scheme with every later one, at every size; all of it is one family.

    p is that of swapping a seed's two tables of losses before the settings are chosen (see
    swaps.py). adjusted_p is by the step-down maximum of Westfall & Young (1993, algorithm 2.8) of
    the same statistic, swapping a seed's tables in all pairs and at all sizes together: the chance
    of any false finding in the report is kept at the level as by Holm's method, but the smallest
    adjusted p stays 2/2^n however many comparisons there are, where Holm's is that times the
    comparisons: 8 seeds could not tell apart any of 5 schemes. For two schemes at any number of
    sizes that is exact; with three or more alike it asks in addition that the seeds' differences be
    symmetric jointly (measured: docs/initlab.md, "Verdicts").

    The interval of a tuned pair is that of `compare`, wider by as much as the swaps' 95 % point of
    |Student's t| lies further out than it does with the choice of settings held fixed.

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
    observed_M = np.array([_observed(*pair) for pair in pairs])
    # From the least extreme on: each beside the largest of itself and all before it.
    order_M = np.argsort(observed_M, kind="stable")
    largest_B = np.zeros(1)
    adjusted_M, lowest = np.empty(len(pairs)), 0.0
    ones: list[Comparison | None] = [None] * len(pairs)
    for m in order_M:
        statistic_B = _swapped(*pairs[m])
        largest_B = np.maximum(largest_B, statistic_B)
        reach = observed_M[m] - _ROUNDING
        p = permutation_p(int((statistic_B >= reach).sum()), seeds)
        adjusted_M[m] = permutation_p(int((largest_B >= reach).sum()), seeds)
        ones[m] = _one(*pairs[m], statistic_B, p)
    for m in order_M[::-1]:
        z, i, j = places[m]
        one = ones[m]
        assert one is not None
        lowest = max(lowest, one.p, float(adjusted_M[m]))
        found[z][i, j] = dataclasses.replace(one, adjusted_p=lowest, family=len(pairs))
    return [{pair: size[pair] for pair in sorted(size)} for size in found]


def _observed(first_SK1: Array, second_SK1: Array) -> float:
    return float(swap_statistics(first_SK1, second_SK1, np.ones((1, len(first_SK1))))[0, 0])


def _swapped(first_SK1: Array, second_SK1: Array) -> Array:
    """The statistic of every swap, (B,)."""
    blocks = [
        swap_statistics(first_SK1, second_SK1, signs_BS[start : start + _BLOCK])[0]
        for signs_BS in sign_flips(len(first_SK1))
        for start in range(0, len(signs_BS), _BLOCK)
    ]
    return np.concatenate(blocks)


def _one(first_SK1: Array, second_SK1: Array, statistic_B: Array, p: float) -> Comparison:
    """A pair by itself: its interval is wider where the choice of settings is unsure."""
    chosen = [losses_without_own_seed(table)[:, 0] for table in (first_SK1, second_SK1)]
    one = dataclasses.replace(compare(*chosen), p=p, adjusted_p=p)
    if first_SK1.shape[1] == 1:
        return one
    fixed_B = _swapped(chosen[0][:, None, None], chosen[1][:, None, None])
    seeds = len(first_SK1)
    wider = _critical_t(statistic_B, seeds) / _critical_t(fixed_B, seeds)
    if not wider > 1:
        return one
    low, high = (one.mean + wider * (end - one.mean) for end in (one.low, one.high))
    return dataclasses.replace(one, low=low, high=high)


def _critical_t(statistic_B: Array, seeds: int) -> float:
    """The |t| that at least 5 % of the swaps reach; infinite where no seed's sign differs."""
    reached = math.ceil(LEVEL * len(statistic_B))
    ratio = float(np.partition(statistic_B, -reached)[-reached])
    left = seeds - ratio**2
    return ratio * math.sqrt((seeds - 1) / left) if left > _ROUNDING * seeds else math.inf
