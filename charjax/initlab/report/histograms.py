"""Activations and gradients by layer, and the update-to-data ratio.

One curve per layer, as in Building makemore Part 3. Letters: S seeds, L layers, T recorded steps,
N rows, B bins.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from charjax.initlab.report import drawing
from charjax.initlab.report.at_init import mean_and_spread, short_name
from charjax.initlab.report.drawing import THEORY, Picture
from charjax.initlab.report.tables import Array, Sweep
from charjax.initlab.report.verdicts import Cell, Variant, gain_names, ranked_schemes

_MOST_SCHEMES = 6
_MOST_LAYERS = 8
_BINS = 64
# The activations that can be saturated.
_BOUNDED = ("tanh", "gates")


def draw_histograms(sweep: Sweep, cells: list[Cell], kind: str) -> Picture | None:
    """Draw densities of `activation` or `gradient` by layer, at the first and the last step.

    There is a row for each scheme at its best gain and learning rate, in the deepest and widest
    network; None without any histogram.
    """
    shown = []
    for variant in _shown(sweep, cells):
        table = _rows(sweep, variant, sweep.histograms)
        table = table[_usable(sweep, table) & (table["kind"] == kind)]
        steps = sorted({table["step"].min(), table["step"].max()}) if len(table) else []
        shown += [(variant, table[table["step"] == step], step) for step in steps]
    if not shown:
        return None
    columns = len({step for _, _, step in shown})
    panels = drawing.panels(len(shown), columns=min(columns, 2), size=(6.0, 2.7))
    for (variant, table, step), axes in zip(shown, panels.main, strict=True):
        _draw_densities(axes, sweep, variant, table, kind, step)
        axes.set_title(f"{_setting(sweep, variant)}, step {step:.0f}")
    contents = (
        "activations, with their mean, standard deviation and the fraction with |h| > 0.97"
        if kind == "activation"
        else "derivatives of the loss with respect to the activations, with their standard "
        "deviation and the gradient-to-data ratio of the kernel; the density is logarithmic"
    )
    return panels.picture(
        f"{kind}-histograms",
        alt=f"Histograms of {kind}s by layer, {sweep.largest}, in {len(shown)} panels.",
        caption=f"One curve per layer: {contents}. {sweep.largest.capitalize()}; pooled over "
        f"n = {len(sweep.seeds)} seeds, after step 0 without diverged runs.{_rule(sweep)}",
    )


def draw_updates(sweep: Sweep, cells: list[Cell]) -> Picture | None:
    """Draw log10 of update-to-data by layer over steps, a panel per scheme; None without any."""
    shown = []
    for variant in _shown(sweep, cells):
        table = _rows(sweep, variant, sweep.layers)
        is_usable = np.isfinite(table["update_to_data"]) & (table["update_to_data"] > 0)
        table = table[is_usable & ~sweep.has_diverged(table)]
        if len(table):
            shown.append((variant, table))
    if not shown:
        return None
    panels = drawing.panels(len(shown))
    for (variant, table), axes in zip(shown, panels.main, strict=True):
        _draw_ratios(axes, sweep, table)
        axes.axhline(-3, color=THEORY, linestyle="--", linewidth=0.9)
        axes.set_title(_setting(sweep, variant))
        drawing.step_axis(axes, sweep.facts["recorded"])
    panels.label_rows("log10(update / data)")
    drawing.share_values(panels.main)
    panels.legend()
    return panels.picture(
        "update-to-data",
        alt=f"Update-to-data ratio of each layer over the steps, in {len(shown)} panels, with the "
        "guide at -3.",
        caption="Update-to-data ratio: the standard deviation of a kernel's next update over that "
        "of the kernel, log10; dashed: the guide at -3. Lines: mean of the logarithm over "
        f"n = {len(sweep.seeds)} seeds less those that diverged, bands: one standard deviation; "
        f"{sweep.largest}.{_rule(sweep)}",
    )


def pooled_density(low_N: Array, high_N: Array, counts_NB: Array) -> tuple[Array, Array]:
    """Pool histograms of several seeds, each over its own range, into one density.

    Returns:
      centres and densities of 64 bins over all the ranges; the densities integrate to 1.
    """
    width_N = np.maximum(high_N - low_N, 1e-6 * np.maximum(np.abs(low_N), 1e-30))
    edges = np.linspace(np.min(low_N), np.max(low_N + width_N), _BINS + 1)
    bins = counts_NB.shape[1]
    mass = np.zeros(_BINS)
    for low, width, counts_B in zip(low_N, width_N, counts_NB, strict=True):
        cumulative = np.concatenate([[0.0], np.cumsum(counts_B / counts_B.sum())])
        seed_edges = low + width * np.arange(bins + 1) / bins
        mass += np.diff(np.interp(edges, seed_edges, cumulative))
    return (edges[:-1] + edges[1:]) / 2, mass / mass.sum() / np.diff(edges)


def _shown(sweep: Sweep, cells: list[Cell]) -> list[Variant]:
    """Return the variants to draw, in the order of the sweep."""
    schemes = ranked_schemes(sweep, cells, _MOST_SCHEMES)
    variants = (one for one in cells[-1].variants if one.scheme in schemes)
    return sorted(variants, key=lambda one: one.scheme)


def _rows(sweep: Sweep, one: Variant, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a variant's best setting in the deepest and widest network."""
    return sweep.at_largest(table, scheme=one.scheme, gain=one.gain, learning_rate=one.rate)


def _setting(sweep: Sweep, variant: Variant) -> str:
    """Return `glorot, gain 1.67, rate 0.1`, without the axes of one value."""
    words = [short_name(sweep, variant.scheme)]
    if len(sweep.gains) > 1:
        words.append(f"gain {gain_names(sweep)[variant.gain]}")
    if len(sweep.rates) > 1:
        words.append(f"rate {sweep.rates[variant.rate]:.3g}")
    return ", ".join(words)


def _rule(sweep: Sweep) -> str:
    best = ""
    if len(sweep.gains) * len(sweep.rates) > 1:
        best = " Each scheme at the gain and learning rate that are best over all seeds."
    if len(sweep.schemes) > _MOST_SCHEMES:
        half = _MOST_SCHEMES // 2
        best += f" Shown: the {half} best schemes and the {half} worst of {len(sweep.schemes)}."
    return best


def _usable(sweep: Sweep, table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return the histograms that are not empty; of a diverged run only that at step 0."""
    is_whole = (table["step"] == 0) | ~sweep.has_diverged(table)
    is_finite = np.isfinite(table["low"]) & np.isfinite(table["high"])
    usable: NDArray[np.bool_] = is_whole & is_finite & (sweep.counts[table.index].sum(1) > 0)
    return usable


def _draw_densities(
    axes: Any, sweep: Sweep, variant: Variant, table: pd.DataFrame, kind: str, step: float
) -> None:
    rows = _rows(sweep, variant, sweep.layers)
    rows = rows[rows["step"] == step]
    names = _layer_names(table, rows)
    peaks = []
    for name, colour in zip(names, drawing.ordered_colours("layer", len(names)), strict=True):
        one = table[table["layer"] == name]
        counts_NB = sweep.counts[one.index].astype(np.float64)
        x, density = pooled_density(one["low"].to_numpy(), one["high"].to_numpy(), counts_NB)
        words = f"{drawing.label(name, 26)}: {_stats(rows[rows['layer'] == name], kind)}"
        axes.plot(x, np.where(density > 0, density, math.nan), color=colour, lw=1.2, label=words)
        peaks.append(float(np.max(density)))
    axes.set_ylabel("density")
    if kind == "gradient":
        drawing.plain_log(axes.yaxis)
        axes.set_ylim(1e-3 * min(peaks), 1.5 * max(peaks))
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    else:
        # One layer that is nearly constant must not flatten the others.
        axes.set_ylim(0, 1.1 * min(max(peaks), 4 * float(np.median(peaks))))
    drawing.legend_beside(axes, handlelength=1.2, fontsize=7)


def _layer_names(table: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Return the names of at most 8 layers of a table, evenly spaced in the order of layers.csv."""
    order = dict(zip(rows["layer"], rows["index"], strict=True))
    names = sorted(set(table["layer"]), key=lambda name: (order.get(name, 1e9), name))
    places = np.unique(np.linspace(0, len(names) - 1, min(len(names), _MOST_LAYERS)).round())
    return [names[int(place)] for place in places]


def _stats(rows: pd.DataFrame, kind: str) -> str:
    """Return `mean +0.01, std 0.65, saturated 5.1 %`."""
    if kind == "activation":
        mean, std, saturated = (_mean(rows[name]) for name in ("mean", "std", "saturated"))
        has_bounds = bool(rows["activation"].isin(_BOUNDED).any())
        share = f", saturated {100 * saturated:.1f} %" if has_bounds else ""
        return f"mean {mean:+.2f}, std {std:.2g}{share}"
    std, ratio = _mean(rows["gradient_std"]), _mean(rows["gradient_to_data"])
    return f"std {std:.1e}" + ("" if math.isnan(ratio) else f", grad/data {ratio:.1e}")


def _mean(values: "pd.Series[float]") -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _draw_ratios(axes: Any, sweep: Sweep, table: pd.DataFrame) -> None:
    steps_T, names = np.unique(table["step"]), _layer_names(table, table)
    for name, colour in zip(names, drawing.ordered_colours("layer", len(names)), strict=True):
        rows = table[table["layer"] == name]
        ratios_ST = sweep.by_seed(rows, "step", steps_T, "update_to_data")
        mean_T, spread_T = mean_and_spread(np.log10(ratios_ST))
        axes.plot(steps_T, mean_T, color=colour, lw=1.3, label=drawing.label(name, 26))
        drawing.spread(axes, steps_T, mean_T - spread_T, mean_T + spread_T, colour)
