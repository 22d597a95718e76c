"""The network before its first step, with theory drawn on the measured points.

Letters: S seeds, L layers, C schemes, G gains.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from charjax.initlab.report import drawing
from charjax.initlab.report.drawing import MOST_PANELS, THEORY, Picture
from charjax.initlab.report.tables import Array, Sweep, Table
from charjax.initlab.report.verdicts import Cell, gain_names, ranked_schemes

# Layer names are written below the points up to so many; beyond, their numbers.
_MOST_NAMES = 8
_MEASURED = (
    ("std", "theory_std", "after the activation", "#0072B2", "o"),
    ("preactivation_std", "theory_preactivation_std", "before it", "#D55E00", "s"),
)


@dataclasses.dataclass(frozen=True)
class LayerPoints:
    """One quantity of every layer at step 0.

    Attributes:
      names: of the layers, in their order.
      measured_SL: a value a seed; NaN where it was not finite.
      theory_SL: what theory says of it; NaN where it says nothing.
    """

    names: list[str]
    measured_SL: Array
    theory_SL: Array

    @property
    def residual_SL(self) -> Array:  # noqa: N802
        """Measured over theory, less 1; NaN without a theory, or where it is 0."""
        return self.measured_SL / np.where(self.theory_SL > 0, self.theory_SL, math.nan) - 1


def layer_points(
    sweep: Sweep, scheme: int, gain: int, column: str, theory: str | None
) -> LayerPoints:
    """A column of layers.csv at step 0 in the deepest and widest network, and its theory's.

    Step 0 does not depend on the learning rate: the lowest is read.
    """
    deepest, widest = len(sweep.depths) - 1, len(sweep.widths) - 1
    table = sweep.layers.select(
        scheme=scheme, gain=gain, depth=deepest, width=widest, learning_rate=0
    )
    table = table.where(table["step"] == 0)
    names, measured_SL = by_layer(sweep, table, column)
    if theory is None:
        return LayerPoints(names, measured_SL, np.full_like(measured_SL, math.nan))
    return LayerPoints(names, measured_SL, by_layer(sweep, table, theory)[1])


def by_layer(sweep: Sweep, table: Table, column: str) -> tuple[list[str], Array]:
    """Rows of one setting and step as (S, L), and the layers' names; NaN if not finite."""
    indices, first, place = np.unique(table["index"], return_index=True, return_inverse=True)
    values_SL = np.full((len(sweep.seeds), len(indices)), math.nan)
    values_SL[table.places[-1], place] = table[column]
    values_SL[~np.isfinite(values_SL)] = math.nan
    return [str(name) for name in table["layer"][first]], values_SL


def mean_and_spread(values_SL: Array) -> tuple[Array, Array]:
    """Mean and standard deviation over seeds, of the finite values; NaN where there is none."""
    count_L = np.sum(np.isfinite(values_SL), axis=0)
    safe_L = np.maximum(count_L, 1)
    filled_SL = np.nan_to_num(values_SL)
    mean_L = np.where(count_L > 0, filled_SL.sum(0) / safe_L, math.nan)
    off_SL = np.where(np.isfinite(values_SL), values_SL - mean_L, 0.0)
    spread_L = np.sqrt((off_SL**2).sum(0) / np.maximum(count_L - 1, 1))
    return mean_L, spread_L


def draw_layers(sweep: Sweep, cells: list[Cell]) -> Picture | None:
    """Standard deviations by layer, a panel for each scheme and gain; None without layers."""
    shown = [
        arm
        for arm in shown_arms(sweep, cells)
        if layer_points(sweep, *arm, "std", None).measured_SL.size
    ]
    if not shown:
        return None
    points = {
        (arm, column): layer_points(sweep, *arm, column, theory)
        for arm in shown
        for column, theory, *_ in _MEASURED
    }
    has_theory = any(np.isfinite(one.theory_SL).any() for one in points.values())
    pairs = drawing.paired_panels(len(shown)) if has_theory else drawing.single_panels(len(shown))
    for place, (arm, (main, below)) in enumerate(zip(shown, pairs.axes, strict=True)):
        for column, _, words, colour, marker in _MEASURED:
            _draw_points(main, below, points[arm, column], words, colour, marker)
        main.set_title(arm_label(sweep, *arm))
        _name_layers(main if below is None else below, points[arm, "std"].names)
        if below is not None:
            below.axhline(0, color=THEORY, linewidth=0.8)
            below.set_ylabel("off by" if place % pairs.columns == 0 else "")
            below.yaxis.set_major_formatter(lambda x, _: f"{100 * x:.3g} %")
        if place % pairs.columns == 0:
            main.set_ylabel("standard deviation")
    mains, lows = [main for main, _ in pairs.axes], [below for _, below in pairs.axes]
    drawing.share_values(mains)
    if has_theory:
        drawing.share_values(lows)
        mains[0].plot([], [], "_-", ms=11, color="gray", label="theory")
    drawing.legend_beside(mains[min(pairs.columns, len(shown)) - 1], labels=mains[0])
    network = f"depth {sweep.depths[-1]}, width {sweep.widths[-1]}"
    theory = (
        "; lines and dashes: mean-field theory of a wide network; below each panel: measured over "
        "theory, less 1"
        if has_theory
        else "; there is no theory of these networks"
    )
    return drawing.picture(
        pairs.figure,
        "layers-at-init",
        alt=f"Standard deviation of each layer at step 0 in {len(shown)} panels, {network}"
        + (", with theory and residuals." if has_theory else "."),
        caption=f"What flows through the layers before the first step, {network}. Points: mean "
        f"over n = {len(sweep.seeds)} seeds, bars: one standard deviation over seeds{theory}.",
    )


def _draw_points(
    main: Any, below: Any, points: LayerPoints, words: str, colour: str, marker: str
) -> None:
    x_L = np.arange(len(points.names))
    mean_L, spread_L = mean_and_spread(points.measured_SL)
    theory_L, _ = mean_and_spread(points.theory_SL)
    main.errorbar(x_L, mean_L, spread_L, fmt=marker, ms=4, color=colour, capsize=2, label=words)
    # A dash at each, for layers whose neighbours have no theory.
    main.plot(x_L, theory_L, "_-", ms=11, color=colour, linewidth=1.2, alpha=0.8)
    if below is not None:
        off_L, off_spread_L = mean_and_spread(points.residual_SL)
        below.errorbar(x_L, off_L, off_spread_L, fmt=marker, ms=3, color=colour, capsize=2)


def _name_layers(axes: Any, names: list[str]) -> None:
    if len(names) <= _MOST_NAMES:
        axes.set_xticks(range(len(names)), [drawing.label(name, 18) for name in names])
        axes.tick_params(axis="x", labelrotation=35, labelsize=7)
    else:
        axes.set_xlabel("layer")


def arm_label(sweep: Sweep, scheme: int, gain: int) -> str:
    """`glorot, gain 1.67`; the gain only where the sweep has several."""
    told = drawing.label(sweep.schemes[scheme])
    return f"{told}, gain {gain_names(sweep)[gain]}" if len(sweep.gains) > 1 else told


def draw_initial_loss(sweep: Sweep, cells: list[Cell]) -> Picture | None:
    """The initial loss by gain or by scheme, and theory's; None where it is nowhere finite."""
    at = (slice(None), slice(None), -1, -1, 0)
    measured_CGS = sweep.cube("initial_loss")[at]
    theory_CGS = sweep.cube("initial_loss_theory")[at]
    measured_CGS = np.where(np.isfinite(measured_CGS), measured_CGS, math.nan)
    if np.isnan(measured_CGS).all():
        return None
    shown = ranked_schemes(sweep, cells, MOST_PANELS)
    has_theory = bool(np.isfinite(theory_CGS).any())
    pairs = drawing.paired_panels(1) if has_theory else drawing.single_panels(1)
    main, below = pairs.axes[0]
    by_gain = np.sum(np.isfinite(sweep.gains)) >= 2
    for place, scheme in enumerate(shown):
        if by_gain:
            x_X, measured_SX = sweep.gains, measured_CGS[scheme].T
            theory_SX = theory_CGS[scheme].T
        else:
            x_X, measured_SX = np.array([float(place)]), measured_CGS[scheme, :1].T
            theory_SX = theory_CGS[scheme, :1].T
        style = drawing.line_style(scheme)
        mean_X, spread_X = mean_and_spread(measured_SX)
        # Schemes that agree are beside each other, not one behind the other.
        x_X = x_X * 1.012 ** (place - (len(shown) - 1) / 2) if by_gain else x_X
        points = {"fmt": "o", "ms": 4, "capsize": 2, "color": style["color"]}
        main.errorbar(x_X, mean_X, spread_X, **points, label=arm_name(sweep, scheme))
        theory_X, _ = mean_and_spread(theory_SX)
        if by_gain:
            main.plot(x_X, theory_X, **style, linewidth=1.2)
        else:
            main.plot(x_X, theory_X, "_", ms=22, mew=1.5, color=THEORY)
        if below is not None:
            below.errorbar(x_X, *mean_and_spread(measured_SX - theory_SX), **points)
    uniform = math.log(sweep.facts["vocabulary"])
    main.axhline(uniform, color="gray", linestyle=":", linewidth=1)
    words, axis = f"uniform, ln {sweep.facts['vocabulary']}", main.get_yaxis_transform()
    main.text(1, uniform, words, transform=axis, ha="right", va="bottom", fontsize=7)
    drawing.plain_log(main.yaxis, subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0))
    main.set_ylabel("initial loss (nats)")
    last = main if below is None else below
    if below is not None:
        below.axhline(0, color=THEORY, linewidth=0.8)
        below.set_ylabel("less theory (nats)")
    if by_gain:
        drawing.log_axis(last.xaxis, sweep.gains[np.isfinite(sweep.gains)])
        last.set_xlabel("gain")
        drawing.legend_beside(main)
    else:
        last.set_xticks(range(len(shown)), [arm_name(sweep, scheme) for scheme in shown])
        last.tick_params(axis="x", labelrotation=20, labelsize=8)
    network = f"depth {sweep.depths[-1]}, width {sweep.widths[-1]}"
    told = " Lines: theory of Gaussian logits; below: measured less theory." if has_theory else ""
    return drawing.picture(
        pairs.figure,
        "initial-loss",
        alt=f"Initial loss by {'gain' if by_gain else 'scheme'}, {network}.",
        caption=f"The loss before the first step, {network}. Points: mean over "
        f"n = {len(sweep.seeds)} seeds, bars: one standard deviation over seeds.{told}",
    )


def arm_name(sweep: Sweep, scheme: int) -> str:
    """A scheme's name as pictures show it."""
    return drawing.label(sweep.schemes[scheme], 22)


def shown_arms(sweep: Sweep, cells: list[Cell]) -> list[tuple[int, int]]:
    """Schemes and gains to draw: all, or the ranked schemes with evenly spaced gains of each."""
    schemes, gains = len(sweep.schemes), len(sweep.gains)
    if schemes * gains <= MOST_PANELS:
        return [(scheme, gain) for scheme in range(schemes) for gain in range(gains)]
    kept = ranked_schemes(sweep, cells, min(schemes, MOST_PANELS if gains == 1 else 4))
    each = max(MOST_PANELS // len(kept), 1)
    places = np.unique(np.linspace(0, gains - 1, min(each, gains)).round().astype(int))
    return [(scheme, int(gain)) for scheme in kept for gain in places]
