"""Measurements during training, by step.

Letters: S seeds, T steps.
"""

from typing import Any

import numpy as np
import pandas as pd

from charjax.initlab.report import drawing
from charjax.initlab.report.at_init import short_name
from charjax.initlab.report.drawing import Picture
from charjax.initlab.report.tables import Sweep, select
from charjax.initlab.report.verdicts import Cell, Variant, ranked_schemes
from charjax.initlab.statistics import interval

_MOST_LINES = 8
# Bounds of errors, and parts of a quotient that is drawn.
_NOT_DRAWN = ("_residual", "gradient_variance", "gradient_square")


def draw_measurements(sweep: Sweep, cells: list[Cell]) -> Picture | None:
    """Draw quantities of whole runs over steps, a panel each; None where none is measured.

    Of layers, matrices and heads the mean is drawn.
    """
    table = sweep.measurements
    if table is None:
        return None
    names = [
        name for name in dict.fromkeys(table["quantity"]) if not str(name).endswith(_NOT_DRAWN)
    ]
    table = sweep.at_largest(table)
    shown = ranked_schemes(sweep, cells, _MOST_LINES)
    variants = [one for one in cells[-1].variants if one.scheme in shown]
    panels = drawing.panels(len(names))
    for name, axes in zip(names, panels.main, strict=True):
        for variant in variants:
            if name == "noise_scale":
                _draw_noise_scale(axes, sweep, variant, table)
            else:
                _draw_line(axes, sweep, variant, table[table["quantity"] == name])
        drawing.step_axis(axes, np.unique(table["step"]))
        axes.set_title(drawing.label(str(name)))
    panels.legend()
    return panels.picture(
        "measurements",
        alt=f"Measurements during training over steps in {len(names)} panels, {sweep.largest}.",
        caption=f"Measurements of each {sweep.noun} at its best setting, {sweep.largest}: "
        f"mean over n = {len(sweep.seeds)} seeds, bands: 95 % bootstrap intervals. Of quantities "
        "of layers, matrices or heads the mean of these. The noise scale is the quotient of its "
        "parts' means over seeds. Diverged runs are left out.",
    )


def _draw_line(axes: Any, sweep: Sweep, variant: Variant, table: pd.DataFrame) -> None:
    rows = _rows(sweep, variant, table)
    by_seed = rows.groupby(["step", "seed"])["value"].mean().unstack("seed")
    found = [interval(values_S.dropna().to_numpy()) for _, values_S in by_seed.iterrows()]
    style = drawing.line_style(variant.scheme)
    steps_T = by_seed.index.to_numpy()
    mean_T = [one.mean for one in found]
    name = short_name(sweep, variant.scheme)
    axes.plot(steps_T, mean_T, **style, marker="o", ms=2.5, lw=1.3, label=name)
    ends = [one.low for one in found], [one.high for one in found]
    drawing.spread(axes, steps_T, *ends, style["color"])


def _draw_noise_scale(axes: Any, sweep: Sweep, variant: Variant, table: pd.DataFrame) -> None:
    """Draw tr S over |G|^2, of each the mean over seeds: single quotients are biased."""
    rows = _rows(sweep, variant, table)
    means = rows.groupby(["quantity", "step"])["value"].mean()
    quotient_T = means["gradient_variance"] / means["gradient_square"]
    # Where even the mean over seeds does not show the gradient there is no point.
    quotient_T = quotient_T[quotient_T > 0]
    style, name = drawing.line_style(variant.scheme), short_name(sweep, variant.scheme)
    axes.plot(quotient_T.index, quotient_T, **style, marker="o", ms=2.5, lw=1.3, label=name)


def _rows(sweep: Sweep, variant: Variant, table: pd.DataFrame) -> pd.DataFrame:
    """Return the finite values of a variant's runs that did not diverge."""
    place = {"scheme": variant.scheme, "gain": variant.gain, "learning_rate": variant.rate}
    rows = select(table, **place)
    return rows[~sweep.has_diverged(rows) & np.isfinite(rows["value"])]
