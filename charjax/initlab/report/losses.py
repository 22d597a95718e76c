"""Losses over steps, by gain and by learning rate.

Letters: S seeds, T recorded steps, X values of an axis, and as in tables.py C G D W R S.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from charjax.initlab.report import drawing
from charjax.initlab.report.at_init import short_name
from charjax.initlab.report.drawing import MOST_PANELS, Picture
from charjax.initlab.report.tables import Array, Sweep, select
from charjax.initlab.report.verdicts import Cell, Variant, best_setting, ranked_schemes
from charjax.initlab.statistics import BestRate, argmin_interval, interval

_MOST_LINES = 8
Axis = Literal["width", "depth"]


def draw_curves(sweep: Sweep, cells: list[Cell]) -> Picture | None:
    """Draw validation and training loss over steps, a panel for each depth and width."""
    if sweep.curves["step"].nunique() < 2:
        return None
    places = np.unique(np.linspace(0, len(cells) - 1, min(len(cells), MOST_PANELS)).round())
    shown = [cells[int(place)] for place in places]
    schemes = ranked_schemes(sweep, cells, _MOST_LINES)
    panels = drawing.panels(len(shown))
    for cell, axes in zip(shown, panels.main, strict=True):
        variants = {one.scheme: one for one in cell.variants}
        lowest, highest = math.inf, 1.1 * math.log(sweep.facts["vocabulary"])
        for scheme in schemes:
            low, high = _draw_curve(axes, sweep, cell, variants[scheme])
            lowest, highest = min(lowest, low), max(highest, high)
        if math.isfinite(lowest):
            # A loss of 26 at the first step would hide all that follows.
            axes.set_ylim(lowest - 0.05 * (highest - lowest), highest)
        drawing.step_axis(axes, sweep.facts["recorded"])
        axes.set_title(f"depth {sweep.depths[cell.depth]}, width {sweep.widths[cell.width]}")
    panels.label_rows(f"loss (nats per {sweep.facts.get('unit', 'character')})")
    panels.legend()
    band = ", bands: 95 % bootstrap intervals of the mean" if len(sweep.seeds) > 1 else ""
    few = "" if len(shown) == len(cells) else f" {len(shown)} of {len(cells)} networks are shown."
    return panels.picture(
        "loss-curves",
        alt=f"Loss over steps of {len(schemes)} schemes in {len(shown)} panels, one per network.",
        caption="Validation loss (lines with points) and training loss (dotted) of each scheme at "
        f"its best setting: mean over n = {len(sweep.seeds)} seeds{band}. Diverged runs are left "
        "out of the curves and counted in the legend; losses above the axis are in the figure of "
        f"the initial loss.{_left_out(sweep, schemes)}{few}",
    )


def _draw_curve(axes: Any, sweep: Sweep, cell: Cell, variant: Variant) -> tuple[float, float]:
    """Draw a variant; return its lowest and its last validation loss."""
    place = (variant.scheme, variant.gain, cell.depth, cell.width, variant.rate)
    is_whole_S = ~sweep.diverged[place]
    name = short_name(sweep, variant.scheme)
    if not is_whole_S.all():
        name += f" ({(~is_whole_S).sum()} of {is_whole_S.size} diverged)"
    style = drawing.line_style(variant.scheme)
    axes.plot([], [], **style, marker="o", ms=3, label=name)
    names = ("scheme", "gain", "depth", "width", "learning_rate")
    rows = select(sweep.curves, **dict(zip(names, place, strict=True)))
    rows = rows[is_whole_S[rows["seed"]]]
    steps_T, val = np.unique(rows["step"]), list[float]()
    for column in ("train_loss", "val_loss"):
        values_ST = sweep.by_seed(rows, "step", steps_T, column)[is_whole_S]
        has_T = np.isfinite(values_ST).all(0) & is_whole_S.any()
        found = [interval(values_S) for values_S in values_ST[:, has_T].T]
        mean_T = [one.mean for one in found]
        if column == "train_loss":
            axes.plot(steps_T[has_T], mean_T, ":", color=style["color"], lw=1)
        else:
            val = mean_T
            axes.plot(steps_T[has_T], val, **style, marker="o", ms=2.5, lw=1.3)
            ends = [one.low for one in found], [one.high for one in found]
            drawing.spread(axes, steps_T[has_T], *ends, style["color"])
    return (min(val), 1.03 * val[-1]) if val else (math.inf, 0.0)


def draw_gains(sweep: Sweep, cells: list[Cell]) -> Picture | None:
    """Draw loss against gain, a panel per scheme, a line per depth; None unless gains vary."""
    is_number = np.isfinite(sweep.gains)
    gains = sweep.gains[is_number]
    if gains.size < 2:
        return None
    shown = ranked_schemes(sweep, cells, MOST_PANELS)
    panels = drawing.panels(len(shown))
    for scheme, axes in zip(shown, panels.main, strict=True):
        for d, colour in enumerate(drawing.ordered_colours("depth", len(sweep.depths))):
            losses_XS = best_over_rates(sweep.losses[scheme, is_number, d, -1])
            _draw_means(axes, gains, losses_XS, colour, f"depth {sweep.depths[d]}")
        drawing.log_axis(axes.xaxis, gains)
        axes.set(title=short_name(sweep, scheme), xlabel="gain")
    panels.label_rows("validation loss (nats)")
    drawing.share_losses(panels.main, math.log(sweep.facts["vocabulary"]))
    if len(sweep.depths) > 1:
        panels.legend()
    rates = " at each gain's best learning rate," if len(sweep.rates) > 1 else ""
    return panels.picture(
        "loss-by-gain",
        alt=f"Validation loss against gain in {len(shown)} panels, one per scheme.",
        caption=f"Validation loss after step {sweep.facts['steps']},{rates} width "
        f"{sweep.widths[-1]}; mean over n = {len(sweep.seeds)} seeds{_bars(sweep)}. Crosses at the "
        "top: gains at which a run diverged.",
    )


@dataclasses.dataclass(frozen=True)
class Transfer:
    """The best learning rates of one scheme by width in the deepest network, or by depth.

    Attributes:
      scheme: its index.
      axis: "width", at the largest depth; or "depth", at the largest width.
      best: for each place on that axis.
      drift: octaves from the best rate of the narrowest or shallowest network to that of the
        widest or deepest; NaN for a single size.
      low: the least drift between the two intervals.
      high: the most drift between them.
      beyond: whether a best rate is at the end of the grid, so that the drift may be larger.
    """

    scheme: int
    axis: Axis
    best: list[BestRate]
    drift: float
    low: float
    high: float
    beyond: bool


def transfers(sweep: Sweep, shown: Sequence[int]) -> dict[Axis, list[Transfer]]:
    """Return learning-rate transfer by width and by depth, as far as each has several values.

    With one width and one depth it is by that width alone. There are at least 3 rates, else
    nothing.
    """
    if len(sweep.rates) < 3:
        return {}
    axes: list[Axis] = [axis for axis in ("width", "depth") if len(sizes_of(sweep, axis)) > 1]
    axes = axes or ["width"]
    return {axis: [_transfer(sweep, scheme, axis) for scheme in shown] for axis in axes}


def sizes_of(sweep: Sweep, axis: Axis) -> list[int]:
    """Return the widths or depths of a sweep."""
    return sweep.widths if axis == "width" else sweep.depths


def _transfer(sweep: Sweep, scheme: int, axis: Axis) -> Transfer:
    best = [
        argmin_interval(sweep.rates, _losses_by_rate(sweep, scheme, axis, place))
        for place in range(len(sizes_of(sweep, axis)))
    ]
    narrow, wide = best[0], best[-1]
    if len(best) == 1:
        nan = math.nan
        return Transfer(scheme, axis, best, nan, nan, nan, narrow.at_edge)
    return Transfer(
        scheme,
        axis,
        best,
        math.log2(wide.rate / narrow.rate),
        math.log2(wide.low / narrow.high),
        math.log2(wide.high / narrow.low),
        narrow.at_edge or wide.at_edge,
    )


def _losses_by_rate(sweep: Sweep, scheme: int, axis: Axis, place: int) -> Array:
    """Return losses (R, S) at a place on one axis of sizes, at the gain that is best there."""
    size = (-1, place) if axis == "width" else (place, -1)
    losses_GRS = sweep.losses[scheme, :, *size]
    return losses_GRS[best_setting(losses_GRS)[0]]


def draw_transfer(sweep: Sweep, axis: Axis, found: list[Transfer]) -> Picture:
    """Draw loss against learning rate, a panel per scheme, a line per width or depth."""
    panels, sizes = drawing.panels(len(found)), sizes_of(sweep, axis)
    colours = drawing.ordered_colours(axis, len(sizes))
    for one, axes in zip(found, panels.main, strict=True):
        below = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        for w, (colour, best) in enumerate(zip(colours, one.best, strict=True)):
            losses_RS = _losses_by_rate(sweep, one.scheme, axis, w)
            _draw_means(axes, sweep.rates, losses_RS, colour, f"{axis} {sizes[w]}")
            # Each size's best rate and interval in a row below the curves.
            y = -0.05 * (len(colours) - w)
            if math.isfinite(best.low):
                axes.plot([best.low, best.high], [y, y], color=colour, lw=2.5, **below)
            if math.isfinite(best.rate):
                axes.plot([best.rate], [y], "D", color=colour, ms=4, **below)
        axes.tick_params(axis="x", pad=8 + 7 * len(colours))
        drawing.log_axis(axes.xaxis, sweep.rates)
        drift = "" if math.isnan(one.drift) else f"\ndrift {one.drift:+.3g} octaves"
        drift += " (end of the grid)" if drift and one.beyond else ""
        axes.set(title=f"{short_name(sweep, one.scheme)}{drift}", xlabel="learning rate")
    panels.label_rows("validation loss (nats)")
    drawing.share_losses(panels.main, math.log(sweep.facts["vocabulary"]))
    panels.legend()
    gain = f", at each {axis}'s best gain" if len(sweep.gains) > 1 else ""
    other = f"depth {sweep.depths[-1]}" if axis == "width" else f"width {sweep.widths[-1]}"
    name = "learning-rate-transfer" if axis == "width" else "learning-rate-transfer-by-depth"
    return panels.picture(
        name,
        alt=f"Validation loss against learning rate by {axis}, in {len(found)} panels.",
        caption=f"Validation loss against learning rate, {other}{gain}: mean over "
        f"n = {len(sweep.seeds)} seeds{_bars(sweep)}. Diamonds below the axis: each {axis}'s best "
        "rate with its 95 % bootstrap interval. Crosses at the top: rates at which a run diverged."
        f"{_left_out(sweep, found)}",
    )


def best_over_rates(losses_XRS: Array) -> Array:
    """Return losses (X, S) at the learning rate that is best, over all seeds, for each X."""
    return np.stack([one_RS[best_setting(one_RS[None])[1]] for one_RS in losses_XRS])


def _draw_means(axes: Any, x_X: Array, losses_XS: Array, colour: Any, name: str) -> None:
    """Draw means and intervals where no run diverged, and a cross at the top where one did."""
    found = [interval(losses_S) for losses_S in losses_XS]
    mean_X = np.array([one.mean if one.diverged == 0 else math.nan for one in found])
    low_X, high_X = (np.array([getattr(one, end) for one in found]) for end in ("low", "high"))
    bars = np.nan_to_num(np.stack([mean_X - low_X, high_X - mean_X]))
    axes.errorbar(x_X, mean_X, bars, fmt="o-", ms=3, lw=1.3, capsize=2, color=colour, label=name)
    bad = np.array([one.diverged > 0 for one in found])
    if bad.any():
        at_top = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        axes.plot(x_X[bad], np.ones(bad.sum()), "x", color=colour, ms=5, mew=1.5, **at_top)


def _bars(sweep: Sweep) -> str:
    return ", bars: 95 % bootstrap intervals" if len(sweep.seeds) > 1 else ""


def _left_out(sweep: Sweep, shown: Sequence[Any]) -> str:
    all_shown = len(shown) == len(sweep.schemes)
    return "" if all_shown else " Shown: the best schemes and the worst."
