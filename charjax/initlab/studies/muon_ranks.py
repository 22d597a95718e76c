"""Statistics of rankings: tuned losses, Kendall's tau, spreads, and their intervals over seeds.

Letters: C schemes, L learning rates, S seeds, B resamples of the seeds.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from charjax.initlab.statistics import LEVEL
from charjax.statistics import student_quantile

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A number and its 95 % interval.

    Attributes:
      value: from all seeds.
      low: lower end; NaN without an interval.
      high: upper end, likewise.
      error: standard deviation over the resamples; NaN without an interval.
    """

    value: float
    low: float
    high: float
    error: float


def capped(losses: ArrayLike, uniform: float) -> Array:
    """Return losses, those of diverged runs and any above a uniform guess replaced by its loss."""
    values = np.asarray(losses, np.float64)
    return np.where(np.isfinite(values), np.minimum(values, uniform), uniform)


def tuned(losses_CLS: Array, weights_BS: Array) -> Array:
    """Return the loss (B, C) of each scheme at its best rate, by the weighted mean over seeds."""
    best_BC: Array = np.einsum("cls,bs->bcl", losses_CLS, weights_BS).min(-1)
    return best_BC


def all_seeds(seeds: int) -> Array:
    """Return the weights (1, S) of a plain mean."""
    return np.full((1, seeds), 1 / seeds)


def resamples(seeds: int, count: int) -> Array:
    """Return weights (B, S) of bootstrap samples of the seeds."""
    rng = np.random.default_rng([0, seeds])
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), count) / seeds


def halves(seeds: int) -> tuple[Array, Array]:
    """Return weights (B, S) of one half of the seeds, and of the other, for every division.

    Of an odd number one seed is left out; a single seed has no halves (B = 0).
    """
    size = seeds // 2
    first, second = [np.zeros((0, seeds))], [np.zeros((0, seeds))]
    for one in itertools.combinations(range(seeds), size) if size else ():
        rest = [seed for seed in range(seeds) if seed not in one]
        for other in itertools.combinations(rest, size):
            # Each division once.
            if one < other:
                first.append(_mean_of(one, seeds))
                second.append(_mean_of(other, seeds))
    return np.concatenate(first), np.concatenate(second)


def _mean_of(chosen: tuple[int, ...], seeds: int) -> Array:
    return np.isin(np.arange(seeds), chosen)[None] / len(chosen)


def tau_b(x_BC: ArrayLike, y_BC: ArrayLike) -> Array:
    """Return Kendall's tau-b of two rankings, (B,); NaN where all of one are tied.

    The pairs in the same order less those in the opposite one, over the geometric mean of the
    pairs not tied in x and of those not tied in y (Kendall 1945, as scipy.stats.kendalltau).
    """
    x_BC, y_BC = np.asarray(x_BC, np.float64), np.asarray(y_BC, np.float64)
    upper = np.triu_indices(x_BC.shape[-1], 1)
    x_BP, y_BP = (np.sign(v[..., upper[0]] - v[..., upper[1]]) for v in (x_BC, y_BC))
    untied_B = np.sqrt((x_BP**2).sum(-1) * (y_BP**2).sum(-1))
    same_B = (x_BP * y_BP).sum(-1)
    result: Array = np.where(untied_B > 0, same_B / np.maximum(untied_B, 1.0), np.nan)
    return result


def reliability(x_CLS: Array, y_CLS: Array) -> float:
    """Return the mean tau-b of a ranking from one half of the seeds and one from the other half.

    Args:
      x_CLS: losses under an optimiser.
      y_CLS: under the same one, for the reliability of its ranking; or under another, for the
        agreement of rankings that are as noisy as those.

    Returns:
      the mean over all divisions, each half with each optimiser; NaN if there is none.
    """
    first_BS, second_BS = halves(x_CLS.shape[-1])
    one_B = tau_b(tuned(x_CLS, first_BS), tuned(y_CLS, second_BS))
    other_B = tau_b(tuned(x_CLS, second_BS), tuned(y_CLS, first_BS))
    taus = np.concatenate([one_B, other_B])
    taus = taus[np.isfinite(taus)]
    return float(taus.mean()) if taus.size else math.nan


def spreads(losses_BC: Array) -> tuple[Array, Array]:
    """Return (B,) the worst less the best scheme, and the median less the best."""
    best_B = losses_BC.min(-1)
    return losses_BC.max(-1) - best_B, np.median(losses_BC, -1) - best_B


def estimate(value: float, samples_B: Array, seeds: int, limit: float = math.inf) -> Estimate:
    """Return a number with its bootstrap interval over seeds.

    Its ends are the percentiles, with their distances from the value widened as in
    `charjax.initlab.statistics` for few seeds; the value always lies within.

    Args:
      value: from all seeds.
      samples_B: from resamples of the seeds, with the best rates chosen anew in each.
      seeds: S.
      limit: the largest size that the number can have.
    """
    samples_B = samples_B[np.isfinite(samples_B)]
    if seeds < 2 or samples_B.size < 2 or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan, math.nan)
    normal = float(special.ndtri(1 - LEVEL / 2))
    wider = math.sqrt(seeds / (seeds - 1)) * student_quantile(seeds) / normal
    low, high = value + wider * (np.quantile(samples_B, [LEVEL / 2, 1 - LEVEL / 2]) - value)
    return Estimate(
        value,
        float(max(-limit, min(low, value))),
        float(min(limit, max(high, value))),
        float(samples_B.std() * math.sqrt(seeds / (seeds - 1))),
    )
