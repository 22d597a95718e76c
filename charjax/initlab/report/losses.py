"""Losses over steps, by gain and by learning rate.

Letters: S seeds, T recorded steps, X values of an axis, and as in tables.py C G D W R S.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from charjax.initlab.report import drawing
from charjax.initlab.report.at_init import arm_name
from charjax.initlab.report.drawing import MOST_PANELS, Picture
from charjax.initlab.report.tables import Array, Sweep
from charjax.initlab.report.verdicts import Arm, Cell, best_setting, ranked_schemes
from charjax.initlab.statistics import BestRate, argmin_interval, interval

_MOST_LINES = 8


def draw_curves(sweep: Sweep, cells: list[Cell]) -> Picture | None:
    """Validation and training loss over steps, a panel for each depth and width."""
    if not len(sweep.curves) or len(np.unique(sweep.curves["step"])) < 2:
        return None
    kept = np.unique(np.linspace(0, len(cells) - 1, min(len(cells), MOST_PANELS)).round())
    shown = [cells[int(place)] for place in kept]
    schemes = ranked_schemes(sweep, cells, _MOST_LINES)
    made = drawing.single_panels(len(shown))
    for place, (cell, (axes, _)) in enumerate(zip(shown, made.axes, strict=True)):
        arms = {arm.scheme: arm for arm in cell.arms}
        lowest, highest = math.inf, 1.1 * math.log(sweep.facts["vocabulary"])
        for scheme in schemes:
            low, high = _draw_curve(axes, sweep, cell, arms[scheme])
            lowest, highest = min(lowest, low), max(highest, high)
        if math.isfinite(lowest):
            # A loss of 26 at the first step would hide all that follows.
            axes.set_ylim(lowest - 0.05 * (highest - lowest), highest)
        drawing.step_axis(axes, sweep.facts["recorded"])
        axes.set_title(f"depth {sweep.depths[cell.depth]}, width {sweep.widths[cell.width]}")
        if place % made.columns == 0:
            axes.set_ylabel("loss (nats a character)")
    drawing.legend_beside(made.axes[min(made.columns, len(shown)) - 1][0])
    band = ", bands: 95 % bootstrap intervals of the mean" if len(sweep.seeds) > 1 else ""
    few = "" if len(schemes) == len(sweep.schemes) else " Shown: the best schemes and the worst."
    few += "" if len(shown) == len(cells) else f" {len(shown)} of {len(cells)} networks are shown."
    return drawing.picture(
        made.figure,
        "loss-curves",
        alt=f"Loss over steps of {len(schemes)} schemes in {len(shown)} panels, one a network.",
        caption="Validation loss (lines with points) and training loss (dotted) of each scheme at "
        f"its best setting: mean over n = {len(sweep.seeds)} seeds{band}. Runs that diverged are "
        "left out of the curves and counted in the legend; what is above the axis is in the figure "
        f"of the initial loss.{few}",
    )


def _draw_curve(axes: Any, sweep: Sweep, cell: Cell, arm: Arm) -> tuple[float, float]:
    """Draws an arm; returns its lowest and its last validation loss."""
    place = (arm.scheme, arm.gain, cell.depth, cell.width, arm.rate)
    kept_S = ~sweep.diverged[place]
    name = arm_name(sweep, arm.scheme)
    if not kept_S.all():
        name += f" ({(~kept_S).sum()} of {kept_S.size} diverged)"
    style = drawing.line_style(arm.scheme)
    axes.plot([], [], **style, marker="o", ms=3, label=name)
    rows = sweep.curves.select(
        **dict(zip(("scheme", "gain", "depth", "width", "learning_rate"), place, strict=True))
    )
    rows = rows.where(kept_S[rows.places[-1]])
    steps_T = np.unique(rows["step"])
    means = {}
    for column in ("train_loss", "val_loss"):
        values_ST = np.full((len(sweep.seeds), len(steps_T)), math.nan)
        values_ST[rows.places[-1], np.searchsorted(steps_T, rows["step"])] = rows[column]
        has_T = np.isfinite(values_ST[kept_S]).all(0) if kept_S.any() else np.zeros(0, bool)
        found = [interval(values_ST[kept_S, t]) for t in np.flatnonzero(has_T)]
        x_T, means[column] = steps_T[has_T], [one.mean for one in found]
        if column == "train_loss":
            axes.plot(x_T, means[column], ":", color=style["color"], lw=1)
        else:
            axes.plot(x_T, means[column], **style, marker="o", ms=2.5, lw=1.3)
            ends = [one.low for one in found], [one.high for one in found]
            drawing.spread(axes, x_T, *ends, style["color"])
    val = means["val_loss"]
    return (min(val), 1.03 * val[-1]) if val else (math.inf, 0.0)


def draw_gains(sweep: Sweep, cells: list[Cell]) -> Picture | None:
    """Loss against gain, a panel a scheme, a line a depth; None unless gains vary."""
    given = np.isfinite(sweep.gains)
    if given.sum() < 2:
        return None
    shown = ranked_schemes(sweep, cells, MOST_PANELS)
    made = drawing.single_panels(len(shown))
    for place, (scheme, (axes, _)) in enumerate(zip(shown, made.axes, strict=True)):
        for d, colour in enumerate(drawing.ordered_colours(len(sweep.depths))):
            losses_XS = best_over_rates(sweep.losses[scheme, given, d, -1])
            _draw_means(axes, sweep.gains[given], losses_XS, colour, f"depth {sweep.depths[d]}")
        drawing.log_axis(axes.xaxis, sweep.gains[given])
        axes.set(title=arm_name(sweep, scheme), xlabel="gain")
        if place % made.columns == 0:
            axes.set_ylabel("validation loss (nats)")
    _share([axes for axes, _ in made.axes], sweep)
    if len(sweep.depths) > 1:
        drawing.legend_beside(made.axes[min(made.columns, len(shown)) - 1][0])
    rates = " at each gain's best learning rate," if len(sweep.rates) > 1 else ""
    return drawing.picture(
        made.figure,
        "loss-by-gain",
        alt=f"Validation loss against gain in {len(shown)} panels, one a scheme.",
        caption=f"Validation loss after step {sweep.facts['steps']},{rates} width "
        f"{sweep.widths[-1]}; mean over n = {len(sweep.seeds)} seeds{_bars(sweep)}. Crosses at the "
        "top: gains at which a run diverged.",
    )


@dataclasses.dataclass(frozen=True)
class Transfer:
    """The best learning rates of one scheme in the deepest network, by width.

    Attributes:
      scheme: its place.
      best: for each width.
      drift: octaves from the narrowest width's best rate to the widest's.
      low: the drift by the ends of the two intervals, its least.
      high: its most.
      beyond: whether a best rate is at the edge of the grid, so that the drift may be larger.
    """

    scheme: int
    best: list[BestRate]
    drift: float
    low: float
    high: float
    beyond: bool


def transfers(sweep: Sweep, shown: Sequence[int]) -> list[Transfer]:
    """Learning-rate transfer where there are at least 3 rates and 2 widths; else nothing."""
    if len(sweep.rates) < 3 or len(sweep.widths) < 2:
        return []
    return [_transfer(sweep, scheme) for scheme in shown]


def _transfer(sweep: Sweep, scheme: int) -> Transfer:
    best = [
        argmin_interval(sweep.rates, rates_by_width(sweep, scheme, w))
        for w in range(len(sweep.widths))
    ]
    narrow, wide = best[0], best[-1]
    return Transfer(
        scheme,
        best,
        math.log2(wide.rate / narrow.rate),
        math.log2(wide.low / narrow.high),
        math.log2(wide.high / narrow.low),
        narrow.at_edge or wide.at_edge,
    )


def rates_by_width(sweep: Sweep, scheme: int, width: int) -> Array:
    """Losses (R, S) in the deepest network, at the gain that is best for that width."""
    losses_GRS = sweep.losses[scheme, :, -1, width]
    return losses_GRS[best_setting(losses_GRS)[0]]


def draw_transfer(sweep: Sweep, found: list[Transfer]) -> Picture | None:
    """Loss against learning rate, a panel a scheme, a line a width."""
    if not found:
        return None
    made = drawing.single_panels(len(found))
    colours = drawing.ordered_colours(len(sweep.widths))
    for place, (one, (axes, _)) in enumerate(zip(found, made.axes, strict=True)):
        for w, colour in enumerate(colours):
            losses_RS = rates_by_width(sweep, one.scheme, w)
            _draw_means(axes, sweep.rates, losses_RS, colour, f"width {sweep.widths[w]}")
        below = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        for w, colour in enumerate(colours):
            # A row of its own below the curves for each width's best rate and its interval.
            y = -0.05 * (len(colours) - w)
            best = one.best[w]
            if math.isfinite(best.low):
                axes.plot([best.low, best.high], [y, y], color=colour, lw=2.5, **below)
            if math.isfinite(best.rate):
                axes.plot([best.rate], [y], "D", color=colour, ms=4, **below)
        axes.tick_params(axis="x", pad=8 + 7 * len(colours))
        drawing.log_axis(axes.xaxis, sweep.rates)
        drift = "" if math.isnan(one.drift) else f"\ndrift {one.drift:+.3g} octaves"
        drift += " (end of the grid)" if drift and one.beyond else ""
        axes.set(title=f"{arm_name(sweep, one.scheme)}{drift}", xlabel="learning rate")
        if place % made.columns == 0:
            axes.set_ylabel("validation loss (nats)")
    _share([axes for axes, _ in made.axes], sweep)
    drawing.legend_beside(made.axes[min(made.columns, len(found)) - 1][0])
    few = "" if len(found) == len(sweep.schemes) else " Shown: the best schemes and the worst."
    gain = ", at each width's best gain" if len(sweep.gains) > 1 else ""
    return drawing.picture(
        made.figure,
        "learning-rate-transfer",
        alt=f"Validation loss against learning rate by width, in {len(found)} panels.",
        caption=f"Validation loss against learning rate, depth {sweep.depths[-1]}{gain}: mean over "
        f"n = {len(sweep.seeds)} seeds{_bars(sweep)}. Diamonds below the axis: each width's best "
        "rate, and the 95 % bootstrap interval of it. Crosses at the top: rates at which a run "
        f"diverged.{few}",
    )


def best_over_rates(losses_XRS: Array) -> Array:
    """Losses (X, S) at the learning rate that is best, over all seeds, for each X."""
    return np.stack([one_RS[best_setting(one_RS[None])[1]] for one_RS in losses_XRS])


def _draw_means(axes: Any, x_X: Array, losses_XS: Array, colour: Any, name: str) -> None:
    """Means and intervals where no run diverged, a cross at the top where one did."""
    found = [interval(losses_S) for losses_S in losses_XS]
    mean_X = np.array([one.mean if one.diverged == 0 else math.nan for one in found])
    low_X, high_X = (np.array([getattr(one, end) for one in found]) for end in ("low", "high"))
    bars = np.nan_to_num(np.stack([mean_X - low_X, high_X - mean_X]))
    axes.errorbar(x_X, mean_X, bars, fmt="o-", ms=3, lw=1.3, capsize=2, color=colour, label=name)
    bad = np.array([one.diverged > 0 for one in found])
    if bad.any():
        at_top = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        axes.plot(x_X[bad], np.ones(bad.sum()), "x", color=colour, ms=5, mew=1.5, **at_top)


def _share(axes: Sequence[Any], sweep: Sweep) -> None:
    """One y axis: no more of the loss than a guess knows, unless nothing is below that."""
    for one in axes[1:]:
        one.sharey(axes[0])
    axes[0].autoscale(axis="y")
    low, high = axes[0].get_ylim()
    guess = 1.1 * math.log(sweep.facts["vocabulary"])
    if low < guess < high:
        axes[0].set_ylim(low, guess)


def _bars(sweep: Sweep) -> str:
    return ", bars: 95 % bootstrap intervals" if len(sweep.seeds) > 1 else ""
