"""The verdicts of a sweep as JSON, for other programs."""

import dataclasses
import math
from typing import Any

import numpy as np

from charjax.initlab.report.losses import sizes_of, transfers
from charjax.initlab.report.tables import Sweep, combinations_of, settings_of
from charjax.initlab.report.text import verdict_lines
from charjax.initlab.report.verdicts import Cell, Variant, judge, ranked_schemes

_FORMAT = 1


def verdicts(sweep: Sweep) -> dict[str, Any]:
    """Return rankings, comparisons and learning-rate transfer; a number not available is null."""
    cells = judge(sweep)
    shown = ranked_schemes(sweep, cells, len(sweep.schemes))
    result = {
        "format": _FORMAT,
        "command": sweep.facts["command"],
        "steps": sweep.facts["steps"],
        "seeds": sweep.seeds,
        "lines": verdict_lines(sweep),
        "sizes": [_size(sweep, cell) for cell in cells],
        "transfer": [
            {
                **_named(sweep, one.scheme),
                "axis": axis,
                "best": [
                    {axis: size, **dataclasses.asdict(best)}
                    for size, best in zip(sizes_of(sweep, axis), one.best, strict=True)
                ],
                "drift_octaves": one.drift,
                "low": one.low,
                "high": one.high,
                "at_end_of_grid": one.beyond,
            }
            for axis, found in transfers(sweep, shown).items()
            for one in found
        ],
    }
    plain: dict[str, Any] = _finite(result)
    return plain


def _size(sweep: Sweep, cell: Cell) -> dict[str, Any]:
    return {
        "depth": sweep.depths[cell.depth],
        "width": sweep.widths[cell.width],
        "ranking": [_variant(sweep, one) for one in cell.variants],
        "comparisons": [
            {
                "first": _named(sweep, cell.variants[pair.first].scheme),
                "second": _named(sweep, cell.variants[pair.second].scheme),
                "verdict": pair.found.verdict,
                **dataclasses.asdict(pair.found),
                "ranked": pair.found.ranked,
                "cautions": list(pair.cautions),
            }
            for pair in cell.pairs
        ],
    }


def _variant(sweep: Sweep, one: Variant) -> dict[str, Any]:
    return {
        **_named(sweep, one.scheme),
        "best_gain": sweep.gains[one.gain],
        "best_learning_rate": sweep.rates[one.rate],
        "is_stable": one.is_stable,
        "loss": dataclasses.asdict(one.loss),
        "diverged": one.diverged,
        "runs": one.runs,
    }


def _named(sweep: Sweep, place: int) -> dict[str, Any]:
    """Return the scheme, and the values of settings that are axes."""
    combinations = combinations_of(sweep.facts)
    scheme, values = divmod(place, len(combinations))
    names = [name for name, _ in settings_of(sweep.facts)]
    named: dict[str, Any] = {"scheme": sweep.facts["scheme_names"][scheme]}
    if names:
        named["settings"] = dict(zip(names, combinations[values], strict=True))
    return named


def _finite(value: Any) -> Any:
    """Return plain JSON: None for a number that is not finite, numpy's numbers as Python's."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _finite(value.tolist())
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
