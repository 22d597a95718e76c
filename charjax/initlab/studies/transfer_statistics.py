"""Best learning rates by width, their drift and its cost, with intervals over seeds.

Letters: W widths, L learning rates, S seeds, B resamples.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from charjax.initlab.reproductions.transfer import best_rate
from charjax.initlab.statistics import LEVEL
from charjax.statistics import student_quantile

Array = NDArray[np.float64]
# Beyond these many seeds there are too many resamples to count all of them.
_MOST_SEEDS = 7


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its 95 % bootstrap interval over seeds.

    Attributes:
      value: NaN where it is not defined.
      low: lower end; NaN where some resample has no value.
      high: upper end, likewise.
      error: standard error, likewise.
    """

    value: float
    low: float
    high: float
    error: float

    @property
    def has_interval(self) -> bool:
        """True if both ends are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclasses.dataclass(frozen=True)
class Drift:
    """The best rates of an optimiser in a parametrisation.

    Attributes:
      best_W: exponents of the best rates.
      lowest_W: the mean losses there; inf where every rate diverged.
      places_W: "", or the reason why a best rate is only a bound: at an edge, or none at all.
      octaves: from the narrowest to the widest width.
      slope: octaves per octave of width, over all widths.
      lost: nats that the widest width loses at the narrowest's best rate.
    """

    best_W: tuple[Estimate, ...]
    lowest_W: tuple[float, ...]
    places_W: tuple[str, ...]
    octaves: Estimate
    slope: Estimate
    lost: Estimate

    @property
    def is_bounded(self) -> bool:
        """True if both ends of the drift lie within their grids."""
        return not self.places_W[0] and not self.places_W[-1]


def drift_of(log_rates_L: Array, widths: tuple[int, ...], losses_WLS: Array) -> Drift:
    """Return best rates, drift and loss lost.

    Args:
      log_rates_L: exponents of 2, increasing evenly.
      widths: W of them, increasing.
      losses_WLS: losses; what is not finite diverged.
    """
    # A rate at which a seed diverged is no candidate in resamples without that seed either.
    trained_WL1 = np.isfinite(losses_WLS).all(axis=-1, keepdims=True)
    losses_WLS = np.where(trained_WL1, losses_WLS, np.inf)
    logs_W = np.log2(np.asarray(widths, np.float64))

    def numbers(mean_WL: Array) -> Array:
        best_W = np.array([_best(log_rates_L, mean_L) for mean_L in mean_WL])
        slope = np.polyfit(logs_W, best_W, 1)[0] if np.all(np.isfinite(best_W)) else math.nan
        lost = loss_at(log_rates_L, mean_WL[-1], best_W[0]) - lowest(log_rates_L, mean_WL[-1])
        return np.array([*best_W, best_W[-1] - best_W[0], slope, lost])

    *best_W, octaves, slope, lost = _estimates(numbers, losses_WLS)
    mean_WL = losses_WLS.mean(axis=-1)
    places_W = tuple(_place(mean_L) for mean_L in mean_WL)
    if places_W[0] or places_W[-1]:
        octaves = Estimate(*[math.nan] * 4)
    if any(places_W):
        slope = Estimate(*[math.nan] * 4)
    if places_W[0].startswith("none") or places_W[-1].startswith("none"):
        lost = Estimate(*[math.nan] * 4)
    # No loss is below the lowest one: its interval, which is widened, ends at 0.
    lost = dataclasses.replace(lost, low=max(lost.low, 0.0) if lost.has_interval else lost.low)
    lowest_W = tuple(lowest(log_rates_L, mean_L) for mean_L in mean_WL)
    return Drift(tuple(best_W), lowest_W, places_W, octaves, slope, lost)


def loss_at(log_rates_L: Array, losses_L: Array, place: float) -> float:
    """Return the loss at a rate between those of the grid; inf beside a diverged one.

    On the parabola through the lowest loss within its three rates; elsewhere on straight lines.
    """
    if not math.isfinite(place) or not np.isfinite(losses_L).any():
        return math.inf
    best = int(np.argmin(losses_L))
    if _has_parabola(losses_L) and log_rates_L[best - 1] <= place <= log_rates_L[best + 1]:
        near = slice(best - 1, best + 2)
        return float(np.polyval(np.polyfit(log_rates_L[near], losses_L[near], 2), place))
    above = int(np.clip(np.searchsorted(log_rates_L, place), 0, len(losses_L) - 1))
    if place >= log_rates_L[above] or above == 0:
        return float(losses_L[above])
    part = (place - log_rates_L[above - 1]) / (log_rates_L[above] - log_rates_L[above - 1])
    if not np.all(np.isfinite(losses_L[above - 1 : above + 1])):
        return math.inf
    return float((1 - part) * losses_L[above - 1] + part * losses_L[above])


def lowest(log_rates_L: Array, losses_L: Array) -> float:
    """Return the loss at the best rate; inf where every rate diverged."""
    return loss_at(log_rates_L, losses_L, _best(log_rates_L, losses_L))


def _best(log_rates_L: Array, losses_L: Array) -> float:
    return best_rate(log_rates_L, losses_L) if np.isfinite(losses_L).any() else math.nan


def _has_parabola(losses_L: Array) -> bool:
    best = int(np.argmin(losses_L))
    inside = 0 < best < len(losses_L) - 1
    return inside and bool(np.all(np.isfinite(losses_L[best - 1 : best + 2])))


def _place(losses_L: Array) -> str:
    if not np.isfinite(losses_L).any():
        return "none: every rate diverged"
    best = int(np.argmin(losses_L))
    if best in (0, len(losses_L) - 1):
        return f"at the {'upper' if best else 'lower'} edge of the grid"
    return ""


def _estimates(numbers: Callable[[Array], Array], losses_WLS: Array) -> list[Estimate]:
    """Return estimates of `numbers(mean losses (W, L))`, from all resamples of the seeds."""
    seeds = losses_WLS.shape[-1]
    values = numbers(losses_WLS.mean(axis=-1))
    if seeds < 2:
        return [Estimate(float(value), *[math.nan] * 3) for value in values]
    samples, counts = [], []
    for drawn, count in resamples(seeds):
        samples.append(numbers(losses_WLS[:, :, drawn].mean(axis=-1)))
        counts.append(count)
    samples_B = np.repeat(np.stack(samples), counts, axis=0)
    return [_estimate(float(v), samples_B[:, i], seeds) for i, v in enumerate(values)]


def resamples(seeds: int) -> list[tuple[list[int], int]]:
    """Return every multiset of as many seeds, and in how many orders it can be drawn.

    Raises:
      ValueError: more seeds than can be enumerated.
    """
    if seeds > _MOST_SEEDS:
        raise ValueError(f"{seeds} seeds given; at most {_MOST_SEEDS} can be enumerated")
    found = []
    for drawn in itertools.combinations_with_replacement(range(seeds), seeds):
        repeats = [math.factorial(drawn.count(seed)) for seed in set(drawn)]
        found.append((list(drawn), math.factorial(seeds) // math.prod(repeats)))
    return found


def _estimate(value: float, samples_B: Array, seeds: int) -> Estimate:
    if not math.isfinite(value) or not np.all(np.isfinite(samples_B)):
        return Estimate(value, *[math.nan] * 3)
    low, high = np.quantile(samples_B, [LEVEL / 2, 1 - LEVEL / 2])
    share = math.sqrt(seeds / (seeds - 1))
    wider = share * student_quantile(seeds) / float(special.ndtri(1 - LEVEL / 2))
    # The bootstrap's variance of few seeds is too small by the factor (n - 1) / n.
    error = float(samples_B.std()) * share
    # A resample's number may lie on one side of the estimate only.
    ends = min(0.0, float(low) - value), max(0.0, float(high) - value)
    return Estimate(value, value + wider * ends[0], value + wider * ends[1], error)
