"""Fates of runs: where each begins, in units of the threshold, how it ends, where it settles.

Letters: C schemes, L learning rates, S seeds, M measured steps.
"""

import dataclasses
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charjax.initlab.studies.edge_settings import Settings
from charjax.initlab.studies.study import Data

Array = NDArray[np.float64]
EDGE, LEFT, BELOW, UNTRAINED = "at the edge", "left", "below", "untrained"
FATES = (EDGE, LEFT, BELOW, UNTRAINED)


@dataclasses.dataclass(frozen=True)
class Fates:
    """The runs under one optimiser, in units of the threshold.

    Attributes:
      ratio: (C, L, S, M), NaN where nothing was measured.
      loss: (C, L, S), the last one.
      start: (C, L, S), at step 0.
      fate: (C, L, S), one of `FATES`.
      tail: (C, L, S), the median of the last steps; NaN of an untrained run.
      settled: (C, L, S), the same of runs at the edge; NaN of others.
    """

    ratio: Array
    loss: Array
    start: Array
    fate: NDArray[np.str_]
    tail: Array
    settled: Array

    def count(self, fate: str) -> int:
        """Return the number of runs of a fate."""
        return int(np.sum(self.fate == fate))


def fates_of(settings: Settings, data: Data, name: str) -> Fates:
    """Return the runs under the optimiser of that name."""
    runs, at_M = data["runs"][name], np.asarray(data["at"])
    ratio = np.asarray(runs["ratio"], np.float64)
    loss = np.asarray(runs["loss"], np.float64)[..., -1]
    is_tail_M = at_M >= (1 - settings.tail) * at_M[-1]
    with np.errstate(invalid="ignore"):
        is_trained = (np.asarray(runs["diverged"]) < 0) & (loss < data["uniform"])
        reaches = ratio >= settings.reach
    at_edge = is_trained & reaches[..., is_tail_M].any(-1)
    reached = is_trained & reaches[..., at_M >= settings.after].any(-1)
    tail = np.where(is_trained, nan_median(ratio[..., is_tail_M]), np.nan)
    fate = np.select([~is_trained, at_edge, reached], [UNTRAINED, EDGE, LEFT], BELOW)
    settled = np.where(at_edge, tail, np.nan)
    return Fates(ratio, loss, ratio[..., 0], fate, tail, settled)


def nan_median(values: Any, axis: Any = -1) -> Array:
    """Return medians of the numbers; NaN where there is none, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(values, axis=axis), np.float64)


def nan_mean(values: Any, axis: Any = -1) -> Array:
    """Return means of the numbers; NaN where there is none, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axis), np.float64)


def scheme_values(settled_CLS: Array) -> Array:
    """Return each scheme's distance from the others at equal rates, (C, S).

    Args:
      settled_CLS: with NaN where a run did not settle; what one rate has in common is taken away.
    """
    common_L11 = nan_mean(settled_CLS, axis=(0, 2))[None, :, None]
    return nan_mean(settled_CLS - common_L11, axis=1)


def scheme_p(values_CS: Array, permutations: int) -> float | None:
    """Test whether the schemes differ; None with fewer than two of them, or of seeds.

    The p of a permutation test: within each seed the schemes' values are exchanged, and the
    variance of the schemes' means is compared with the observed one. Schemes without a value in
    some seed are left out.
    """
    whole_CS = values_CS[np.isfinite(values_CS).all(axis=1)]
    if min(whole_CS.shape) < 2:
        return None
    rng = np.random.default_rng(0)
    many = np.broadcast_to(whole_CS, (permutations, *whole_CS.shape))
    drawn_B = rng.permuted(many, axis=1).mean(axis=2).var(axis=1)
    observed = float(whole_CS.mean(axis=1).var())
    # As large up to rounding counts as large.
    return float((1 + np.sum(drawn_B >= observed * (1 - 1e-9))) / (permutations + 1))
