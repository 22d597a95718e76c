"""The network before its first step: measured points beside theory.

Letters: S seeds, L layers, C schemes, G gains.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd

from charjax.initlab.report import drawing
from charjax.initlab.report.drawing import MOST_PANELS, THEORY, Picture
from charjax.initlab.report.tables import Array, Sweep
from charjax.initlab.report.verdicts import Cell, gain_names, ranked_schemes

# Up to this many layers are named below the points; of more, the numbers are shown.
_MOST_NAMES = 8
_MEASURED = (
    ("std", "theory_std", "after the activation", drawing.AFTER, "o"),
    ("preactivation_std", "theory_preactivation_std", "before it", drawing.BEFORE, "s"),
)


@dataclasses.dataclass(frozen=True)
class LayerPoints:
    """One quantity of every layer at step 0.

    Attributes:
      names: of the layers, in their order.
      measured_SL: a value per seed; NaN where it was not finite.
      theory_SL: its theory; NaN where none applies.
    """

    names: list[str]
    measured_SL: Array
    theory_SL: Array

    @property
    def residual_SL(self) -> Array:  # noqa: N802
        """Measured over theory, less 1; NaN without a theory, or where it is 0."""
        return self.measured_SL / np.where(self.theory_SL > 0, self.theory_SL, math.nan) - 1


def layer_points(sweep: Sweep, scheme: int, gain: int, column: str, theory: str) -> LayerPoints:
    """Return a column of layers.csv at step 0 in the deepest and widest network, and its theory.

    Step 0 does not depend on the learning rate: the lowest is read.
    """
    table = sweep.at_largest(sweep.layers, scheme=scheme, gain=gain, learning_rate=0)
    table = table[table["step"] == 0]
    layers = table.drop_duplicates("index").sort_values("index")
    index_L = layers["index"].to_numpy()
    values = (sweep.by_seed(table, "index", index_L, name) for name in (column, theory))
    return LayerPoints(
        list(layers["layer"]), *(np.where(np.isfinite(x), x, np.nan) for x in values)
    )


def mean_and_spread(values_SL: Array) -> tuple[Array, Array]:
    """Return the mean over seeds of the finite values, NaN without any, and their deviation."""
    table = pd.DataFrame(np.where(np.isfinite(values_SL), values_SL, math.nan))
    return table.mean().to_numpy(), table.std().fillna(0.0).to_numpy()


def draw_layers(sweep: Sweep, cells: list[Cell]) -> Picture | None:
    """Draw standard deviations by layer, a panel per scheme and gain; None without layers."""
    variants = _shown_variants(sweep, cells)
    points = [
        [layer_points(sweep, *variant, column, theory) for column, theory, *_ in _MEASURED]
        for variant in variants
    ]
    shown = [(v, both) for v, both in zip(variants, points, strict=True) if both[0].names]
    if not shown:
        return None
    has_theory = any(np.isfinite(one.theory_SL).any() for _, both in shown for one in both)
    panels = drawing.panels(len(shown), residuals=has_theory)
    for place, ((scheme, gain), both) in enumerate(shown):
        main, below = panels.main[place], panels.below[place] if has_theory else None
        for one, (*_, words, colour, marker) in zip(both, _MEASURED, strict=True):
            _draw_points(main, below, one, words, colour, marker)
        name = drawing.label(sweep.schemes[scheme])
        gain_name = f", gain {gain_names(sweep)[gain]}" if len(sweep.gains) > 1 else ""
        main.set_title(name + gain_name)
        _name_layers(main if below is None else below, both[0].names)
        if below is not None:
            below.axhline(0, color=THEORY, linewidth=0.8)
            below.yaxis.set_major_formatter(lambda x, _: f"{100 * x:.3g} %")
    panels.label_rows("standard deviation", "residual")
    drawing.share_values(panels.main)
    if has_theory:
        drawing.share_values(panels.below)
        panels.main[0].plot([], [], "_-", ms=11, color=THEORY, label="theory")
    panels.legend(panels.main[0])
    theory = (
        "; lines and dashes: mean-field theory of a wide network; below each panel: measured over "
        "theory, less 1"
        if has_theory
        else "; no theory applies to these networks"
    )
    return panels.picture(
        "layers-at-init",
        alt=f"Standard deviation of each layer at step 0 in {len(shown)} panels, {sweep.largest}"
        + (", with theory and residuals." if has_theory else "."),
        caption=f"Activations and pre-activations before the first step, {sweep.largest}. Points: "
        f"mean over n = {len(sweep.seeds)} seeds, bars: one standard deviation over seeds{theory}.",
    )


def _shown_variants(sweep: Sweep, cells: list[Cell]) -> list[tuple[int, int]]:
    """Return schemes and gains to draw: all, or ranked schemes with evenly spaced gains."""
    schemes, gains = len(sweep.schemes), len(sweep.gains)
    if schemes * gains <= MOST_PANELS:
        return [(scheme, gain) for scheme in range(schemes) for gain in range(gains)]
    shown = ranked_schemes(sweep, cells, min(schemes, MOST_PANELS if gains == 1 else 4))
    count = min(max(MOST_PANELS // len(shown), 1), gains)
    places = np.unique(np.linspace(0, gains - 1, count).round().astype(int))
    return [(scheme, int(gain)) for scheme in shown for gain in places]


def _draw_points(
    main: Any, below: Any, points: LayerPoints, words: str, colour: str, marker: str
) -> None:
    x_L = np.arange(len(points.names))
    mean_L, spread_L = mean_and_spread(points.measured_SL)
    theory_L, _ = mean_and_spread(points.theory_SL)
    main.errorbar(x_L, mean_L, spread_L, fmt=marker, ms=4, color=colour, capsize=2, label=words)
    # A dash at each, for layers whose neighbours have no theory.
    main.plot(x_L, theory_L, "_-", ms=11, color=THEORY, linewidth=1.0, alpha=0.8)
    if below is not None:
        off_L, off_spread_L = mean_and_spread(points.residual_SL)
        below.errorbar(x_L, off_L, off_spread_L, fmt=marker, ms=3, color=colour, capsize=2)


def _name_layers(axes: Any, names: list[str]) -> None:
    if len(names) <= _MOST_NAMES:
        axes.set_xticks(range(len(names)), [drawing.label(name, 18) for name in names])
        axes.tick_params(axis="x", labelrotation=35, labelsize=7)
    else:
        axes.set_xlabel("layer")


def draw_initial_loss(sweep: Sweep, cells: list[Cell]) -> Picture | None:
    """Draw the initial loss and its theory by gain or by scheme; None where none is finite."""
    at = (slice(None), slice(None), -1, -1, 0)
    measured_CGS = sweep.cube("initial_loss")[at]
    theory_CGS = sweep.cube("initial_loss_theory")[at]
    measured_CGS = np.where(np.isfinite(measured_CGS), measured_CGS, math.nan)
    if np.isnan(measured_CGS).all():
        return None
    shown = ranked_schemes(sweep, cells, MOST_PANELS)
    names = [short_name(sweep, scheme) for scheme in shown]
    has_theory = bool(np.isfinite(theory_CGS).any())
    panels = drawing.panels(1, residuals=has_theory)
    main, below = panels.main[0], panels.below[0] if has_theory else None
    by_gain = np.sum(np.isfinite(sweep.gains)) >= 2
    for place, scheme in enumerate(shown):
        if by_gain:
            # Schemes that agree are beside each other, not one behind the other.
            x_X = sweep.gains * 1.012 ** (place - (len(shown) - 1) / 2)
            measured_SX, theory_SX = measured_CGS[scheme].T, theory_CGS[scheme].T
        else:
            x_X = np.array([float(place)])
            measured_SX, theory_SX = measured_CGS[scheme, :1].T, theory_CGS[scheme, :1].T
        style = drawing.line_style(scheme)
        points = {"fmt": "o", "ms": 4, "capsize": 2, "color": style["color"]}
        main.errorbar(x_X, *mean_and_spread(measured_SX), **points, label=names[place])
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
    panels.label_rows("initial loss (nats)", "less theory (nats)")
    last = main if below is None else below
    if below is not None:
        below.axhline(0, color=THEORY, linewidth=0.8)
    if by_gain:
        drawing.log_axis(last.xaxis, sweep.gains[np.isfinite(sweep.gains)])
        last.set_xlabel("gain")
        panels.legend()
    else:
        last.set_xticks(range(len(shown)), names)
        last.tick_params(axis="x", labelrotation=20, labelsize=8)
    theory = " Lines: theory of Gaussian logits; below: measured less theory." if has_theory else ""
    return panels.picture(
        "initial-loss",
        alt=f"Initial loss by {'gain' if by_gain else 'scheme'}, {sweep.largest}.",
        caption=f"The loss before the first step, {sweep.largest}. Points: mean over "
        f"n = {len(sweep.seeds)} seeds, bars: one standard deviation over seeds.{theory}",
    )


def short_name(sweep: Sweep, scheme: int) -> str:
    """Return a scheme's name as pictures show it."""
    return drawing.label(sweep.schemes[scheme], 34 if sweep.facts.get("settings") else 22)
