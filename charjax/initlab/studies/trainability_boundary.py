"""The depth at which training ends in a map of losses, in layers and in depth scales.

Letters: D depths, W weight variances, C columns that count, B bootstrap resamples.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from charjax import theory
from charjax.initlab.studies.trainability_settings import Grid, Settings
from charjax.theory import MeanField

Array = NDArray[np.float64]
Side = Literal["ordered", "chaotic"]


def boundary(depths_D: ArrayLike, is_trained_D: ArrayLike) -> tuple[float, int]:
    """Return the depth at which a column's networks cease to train, and whether it is outside.

    It is that of the step, trained before it in the list and not after, which misjudges the fewest
    networks: the least-squares decreasing step, half-way between two depths. Of several steps that
    misjudge as few, the middle of the first and the last.

    Args:
      depths_D: ascending.
      is_trained_D: truth values.

    Returns:
      the depth; and -1 where it lies below the shallowest network, 1 above the deepest, else 0: the
      depth is then half a spacing outside of the list, and the true one further out.
    """
    depths = np.asarray(depths_D, np.float64)
    trained = np.asarray(is_trained_D, bool)
    first = depths[1] - depths[0] if len(depths) > 1 else 1.0
    last = depths[-1] - depths[-2] if len(depths) > 1 else 1.0
    middle = (depths[1:] + depths[:-1]) / 2
    places = np.concatenate([[depths[0] - first / 2], middle, [depths[-1] + last / 2]])
    # Wrong at a step after k depths: those not trained before it, and those trained after it.
    before = np.concatenate([[0], np.cumsum(~trained)])
    after = trained.sum() - np.concatenate([[0], np.cumsum(trained)])
    wrong = before + after
    best = np.flatnonzero(wrong == np.min(wrong))
    outside = -1 if best[-1] == 0 else 1 if best[0] == len(depths) else 0
    return float((places[best[0]] + places[best[-1]]) / 2), outside


def fields(grid: Grid, bias_variance: float, variances: Array) -> list[MeanField]:
    """Return the mean-field theory of a grid's activation at each σ_w²."""
    return [_field(grid.activation, float(w), bias_variance) for w in variances]


@functools.lru_cache(maxsize=4096)
def _field(activation: str, weight_variance: float, bias_variance: float) -> MeanField:
    return theory.mean_field(theory.find_activation(activation), weight_variance, bias_variance)


def scale_at(grid: Grid, bias_variance: float, variances: Array) -> Array:
    """Return ξ_c at each σ_w²."""
    found = fields(grid, bias_variance, variances)
    return np.array([field.correlation_depth for field in found])


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its 95 % bootstrap interval; NaN where there is none.

    Attributes:
      value: of all columns.
      low: lower end.
      high: upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the number with its interval."""
        return f"{self.value:.2f} (95 % interval {self.low:.2f} to {self.high:.2f})"


@dataclasses.dataclass(frozen=True)
class Found:
    """The boundary on one side of a map.

    Attributes:
      activation: of the networks.
      side: of the critical line.
      scales_C: ξ_c of the columns that count, in layers.
      gradient_C: ξ_∇ likewise.
      boundaries_C: measured, in layers.
      outside_C: as of `boundary`.
      ratio: median of boundary / ξ_c.
      gradient_ratio: median of boundary / ξ_∇.
      exponent: of the boundary against ξ_c, where it is inside of the map.
    """

    activation: str
    side: Side
    scales_C: Array
    gradient_C: Array
    boundaries_C: Array
    outside_C: NDArray[np.int64]
    ratio: Estimate
    gradient_ratio: Estimate
    exponent: Estimate

    @property
    def name(self) -> str:
        """Name of activation and side."""
        return f"{'ReLU' if self.activation == 'relu' else self.activation}, {self.side} side"


def find(settings: Settings, grid: Grid, losses_DW: Array) -> list[Found]:
    """Return the boundary on each side of a map that has columns which count.

    A column counts if 6 ξ_c lies between twice the shallowest and the deepest network: which do
    is known before anything is trained.
    """
    boundaries_W, outside_W = boundaries(settings, grid, losses_DW)
    theory_W = fields(grid, settings.bias_variance, grid.variances())
    scale_W = np.array([field.correlation_depth for field in theory_W])
    gradient_W = np.array([field.gradient_depth for field in theory_W])
    chi_W = np.array([field.chi_1 for field in theory_W])
    reach_W = settings.factor * scale_W
    counts_W = (reach_W >= 2 * grid.shallowest) & (reach_W <= grid.deepest)
    found = []
    for side, is_here_W in (("ordered", chi_W < 1), ("chaotic", chi_W > 1)):
        chosen = counts_W & is_here_W
        if not chosen.any():
            continue
        columns = (scale_W[chosen], gradient_W[chosen], boundaries_W[chosen], outside_W[chosen])
        found.append(_found(grid.activation, side, *columns, settings.resamples))  # type: ignore[arg-type]
    return found


def boundaries(settings: Settings, grid: Grid, losses_DW: Array) -> tuple[Array, NDArray[np.int64]]:
    """Return the boundary of every column (W,), and whether it is outside of the map."""
    # A run that diverged has not been trained: a comparison with NaN is false.
    trained_DW = losses_DW < settings.level
    pairs = [boundary(grid.depths(), column) for column in trained_DW.T]
    return np.array([depth for depth, _ in pairs]), np.array([outside for _, outside in pairs])


def _found(
    activation: str,
    side: Side,
    scales_C: Array,
    gradient_C: Array,
    boundaries_C: Array,
    outside_C: NDArray[np.int64],
    resamples: int,
) -> Found:
    inside = outside_C == 0
    return Found(
        activation,
        side,
        scales_C,
        gradient_C,
        boundaries_C,
        outside_C,
        ratio=median(boundaries_C / scales_C, resamples),
        gradient_ratio=median(boundaries_C / gradient_C, resamples),
        exponent=slope(scales_C[inside], boundaries_C[inside], resamples),
    )


def median(values_C: Array, resamples: int) -> Estimate:
    """Return the median of columns and its percentile bootstrap interval over them.

    Columns whose boundary is outside of the map stand at its edge: less than half of them, all on
    the side on which they are, do not move a median.
    """
    rows = _rows(len(values_C), resamples)
    return _estimate(float(np.median(values_C)), np.median(values_C[rows], axis=1))


def slope(scales_C: Array, boundaries_C: Array, resamples: int) -> Estimate:
    """Return the exponent of a power law, by least squares of logarithms; NaN without three ξ_c."""
    usable = boundaries_C > 0
    x, y = np.log(scales_C[usable]), np.log(boundaries_C[usable])
    if len(np.unique(x)) < 3:
        return Estimate(math.nan, math.nan, math.nan)
    rows = _rows(len(x), resamples)
    drawn_x = x[rows] - x[rows].mean(axis=1, keepdims=True)
    squares = np.sum(drawn_x**2, axis=1)
    drawn = np.sum(drawn_x * y[rows], axis=1)[squares > 0] / squares[squares > 0]
    centred = x - x.mean()
    return _estimate(float(centred @ y / (centred @ centred)), drawn)


def _rows(count: int, resamples: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, count, (resamples, count))


def _estimate(value: float, drawn_B: Array) -> Estimate:
    low, high = np.quantile(drawn_B, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def losses_of(data: dict[str, Any], grid: Grid) -> Array:
    """Return the losses (D, W) of a map from JSON; NaN where a run diverged."""
    rows: Sequence[Sequence[float | None]] = data["losses"][grid.activation]
    return np.array([[math.nan if x is None else x for x in row] for row in rows])
