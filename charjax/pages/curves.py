"""The curves of a run as a page draws them, from metrics.jsonl.

Letters: N logged lines, P points.
"""

import math
from typing import Any

import numpy as np

from charjax.pages.thinning import Thinned, point_starts, thin

# Points of a curve; each may be a mean with its extremes.
MOST_POINTS = 2000
_TRAIN = ("loss", "learning_rate", "grad_norm", "tokens_per_second")
# Digits that no screen can show are left out.
_DIGITS = 6

Line = dict[str, Any]


def curves(lines: list[Line], most: int = MOST_POINTS) -> dict[str, Any]:
    """Return the curves of a run for its page.

    Args:
      lines: of metrics.jsonl.
      most: points of a curve.

    Returns:
      `train`, `val` and `val_trained` (the parameters as they were trained, where `val` is of
      their average; else without points), each with `lines` (their number), `step`, and for each
      quantity its `mean` and, where a point stands for several lines, `low` and `high`; None where
      there is no value.
    """
    return {
        split: _curves([line for line in lines if line["split"] == split], names, most)
        for split, names in (("train", _TRAIN), ("val", ("loss",)), ("val_trained", ("loss",)))
    }


def _curves(lines: list[Line], names: tuple[str, ...], most: int) -> dict[str, Any]:
    # By step, the last of equal ones: a damaged file may have them in any order.
    by_step = {line["step"]: line for line in lines if abs(line["step"]) < 2**53}
    steps_N = np.array(sorted(by_step), np.float64)
    starts_P = point_starts(len(steps_N), most)
    ends_P = np.append(starts_P[1:], len(steps_N)) - 1
    columns = {
        name: np.array([_number(by_step[step].get(name)) for step in sorted(by_step)], np.float64)
        for name in names
    }
    return {
        "lines": len(steps_N),
        "step": [int(step) for step in steps_N[(starts_P + ends_P) // 2]] if len(steps_N) else [],
        **{name: _shown(thin(values_N, starts_P)) for name, values_N in columns.items()},
    }


def _number(value: Any) -> float:
    """Return a finite number, else NaN: a damaged file may hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if abs(value) < 1e300 else math.nan


def _shown(thinned: Thinned) -> dict[str, list[float | None]]:
    shown = {"mean": _rounded(thinned.mean_P)}
    if not np.array_equal(thinned.low_P, thinned.high_P, equal_nan=True):
        shown |= {"low": _rounded(thinned.low_P), "high": _rounded(thinned.high_P)}
    return shown


def _rounded(values_P: np.ndarray) -> list[float | None]:
    return [
        None if math.isnan(value) else float(f"{value:.{_DIGITS}g}") for value in values_P.tolist()
    ]
