"""All pairs of several arms at once, with as much power as the seeds that they share allow.

Letters: C arms, S seeds, M pairs, B sign vectors.
"""

import dataclasses
import itertools

import numpy as np
from numpy.typing import ArrayLike

from charjax.initlab.statistics import (
    Array,
    Comparison,
    compare,
    paired_differences,
    permutation_p,
    sign_flips,
)


def compare_all(losses_CS: ArrayLike) -> dict[tuple[int, int], Comparison]:
    """Compare every arm with every later one, as one family.

    As `compare`, and adjusted_p is by the step-down maximum of Westfall & Young (1993, algorithm
    2.8), flipping a seed's sign in all pairs together: the chance of any false finding is kept at
    the level as by Holm's method, but the smallest adjusted p stays 2/2^n however many pairs there
    are, where Holm's is that times the pairs: 8 seeds could not tell apart any of 5 arms. What it
    asks for beyond a single test is that the seeds' differences be symmetric jointly. Measured,
    chance of any finding among 5 equal arms at n = 8: 4.0 % for normal losses, 4.4 % for
    exponential.

    Args:
      losses_CS: a row an arm, a column a seed; what is not finite diverged.

    Returns:
      for each pair of rows (i, j), i < j, what became of i - j.

    Raises:
      ValueError: fewer than 2 seeds.
    """
    losses_CS = np.asarray(losses_CS, np.float64)
    pairs = list(itertools.combinations(range(len(losses_CS)), 2))
    if not pairs:
        return {}
    differences_SM = np.stack(
        [paired_differences(losses_CS[i], losses_CS[j]) for i, j in pairs], axis=1
    )
    adjusted_M = _step_down(differences_SM)
    found = {}
    for (i, j), adjusted in zip(pairs, adjusted_M, strict=True):
        one = compare(losses_CS[i], losses_CS[j])
        p = max(one.p, float(adjusted))
        found[i, j] = dataclasses.replace(one, adjusted_p=p, family=len(pairs))
    return found


def _step_down(differences_SM: Array) -> Array:
    """Adjusted p (M,): each pair beside the largest of itself and all less extreme ones."""
    n, pairs = differences_SM.shape
    size_M = np.sqrt((differences_SM**2).sum(0))
    # Sums over root sums of squares, which no sign changes, rank as Student's t does.
    unit_SM = differences_SM / np.where(size_M > 0, size_M, 1.0)
    observed_M = np.abs(unit_SM.sum(0))
    order_M = np.argsort(-observed_M, kind="stable")
    as_far_M = np.zeros(pairs, np.int64)
    for signs_BS in sign_flips(n):
        sums_BM = np.abs(signs_BS @ unit_SM[:, order_M])
        largest_BM = np.maximum.accumulate(sums_BM[:, ::-1], axis=1)[:, ::-1]
        as_far_M += (largest_BM >= observed_M[order_M] - 1e-12).sum(0)
    adjusted_M = np.empty(pairs)
    adjusted_M[order_M] = np.maximum.accumulate([permutation_p(int(k), n) for k in as_far_M])
    return adjusted_M
