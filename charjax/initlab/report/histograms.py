"""Activations and gradients by layer as in the lectures, and the update-to-data ratio.

Building makemore Part 3: one curve a layer. Letters: S seeds, L layers, T recorded steps, N rows, B
bins.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charjax.initlab.report import drawing
from charjax.initlab.report.at_init import arm_name, mean_and_spread
from charjax.initlab.report.drawing import THEORY, Picture
from charjax.initlab.report.tables import Array, Sweep, Table
from charjax.initlab.report.verdicts import Arm, Cell, gain_names, ranked_schemes

_MOST_SCHEMES = 6
_MOST_LAYERS = 8
_BINS = 64
_RANGES = ("low", "high", "counts")
# The activations that can be saturated.
_BOUNDED = ("tanh", "gates")


def draw_histograms(sweep: Sweep, cells: list[Cell], kind: str) -> Picture | None:
    """Densities of `activation` or `gradient` by layer, at step 0 and the last; None without any.

    A row for each scheme at its best gain and learning rate, in the deepest and widest network.
    """
    shown = [
        (arm, table.where(_usable(sweep, table) & (table["kind"] == kind)))
        for arm, table in _shown(sweep, cells, sweep.histograms)
    ]
    panels = [
        (arm, table.where(table["step"] == step), step)
        for arm, table in shown
        for step in _ends(table["step"])
    ]
    if not panels:
        return None
    columns = len({step for _, _, step in panels})
    made = drawing.single_panels(len(panels), columns=min(columns, 2), size=(6.0, 2.7))
    for (arm, table, step), (axes, _) in zip(panels, made.axes, strict=True):
        _draw_densities(axes, sweep, arm, table, kind, step)
        axes.set_title(f"{setting(sweep, arm)}, step {step:.0f}")
    network = f"depth {sweep.depths[-1]}, width {sweep.widths[-1]}"
    told = (
        "activations, with their mean, standard deviation and the part with |h| > 0.97"
        if kind == "activation"
        else "derivatives of the loss with respect to the activations, with their standard "
        "deviation and, of the kernel, the gradient-to-data ratio; the density is logarithmic"
    )
    return drawing.picture(
        made.figure,
        f"{kind}-histograms",
        alt=f"Histograms of {kind}s by layer, {network}, in {len(panels)} panels.",
        caption=f"One curve a layer: {told}. {network.capitalize()}; pooled over "
        f"n = {len(sweep.seeds)} seeds, after step 0 without those that diverged.{_rule(sweep)}",
    )


def draw_updates(sweep: Sweep, cells: list[Cell]) -> Picture | None:
    """log10 of update-to-data by layer over steps, a panel a scheme; None without any."""
    shown = []
    for arm, table in _shown(sweep, cells, sweep.layers):
        usable = np.isfinite(table["update_to_data"]) & (table["update_to_data"] > 0)
        usable &= ~sweep.diverged[tuple(table.places)]
        if usable.any():
            shown.append((arm, table.where(usable)))
    if not shown:
        return None
    made = drawing.single_panels(len(shown))
    for place, ((arm, table), (axes, _)) in enumerate(zip(shown, made.axes, strict=True)):
        _draw_ratios(axes, sweep, table)
        axes.axhline(-3, color=THEORY, linestyle="--", linewidth=0.9)
        axes.set_title(setting(sweep, arm))
        drawing.step_axis(axes, sweep.facts["recorded"])
        if place % made.columns == 0:
            axes.set_ylabel("log10(update / data)")
    drawing.share_values([axes for axes, _ in made.axes])
    drawing.legend_beside(made.axes[min(made.columns, len(shown)) - 1][0])
    return drawing.picture(
        made.figure,
        "update-to-data",
        alt=f"Update-to-data ratio of each layer over the steps, in {len(shown)} panels, with the "
        "guide at -3.",
        caption="How large a step is beside the weights it changes: the standard deviation of the "
        "update a kernel is about to get over that of the kernel, log10; dashed: the guide at -3. "
        f"Lines: mean of the logarithm over n = {len(sweep.seeds)} seeds less those that diverged, "
        f"bands: one standard deviation; depth {sweep.depths[-1]}, width {sweep.widths[-1]}."
        f"{_rule(sweep)}",
    )


def pooled_density(low_N: Array, high_N: Array, counts_NB: Array) -> tuple[Array, Array]:
    """Histograms of several seeds, each over a range of its own, as one density.

    Returns:
      centres and densities of 64 bins over all the ranges; the densities integrate to 1.
    """
    width_N = np.maximum(high_N - low_N, 1e-6 * np.maximum(np.abs(low_N), 1e-30))
    edges = np.linspace(np.min(low_N), np.max(low_N + width_N), _BINS + 1)
    bins = counts_NB.shape[1]
    mass = np.zeros(_BINS)
    for low, width, counts_B in zip(low_N, width_N, counts_NB, strict=True):
        cumulative = np.concatenate([[0.0], np.cumsum(counts_B / counts_B.sum())])
        own_edges = low + width * np.arange(bins + 1) / bins
        mass += np.diff(np.interp(edges, own_edges, cumulative))
    return (edges[:-1] + edges[1:]) / 2, mass / mass.sum() / np.diff(edges)


def setting(sweep: Sweep, arm: Arm) -> str:
    """`glorot, gain 1.67, rate 0.1`; what the sweep has only one of is left out."""
    words = [arm_name(sweep, arm.scheme)]
    if len(sweep.gains) > 1:
        words.append(f"gain {gain_names(sweep)[arm.gain]}")
    if len(sweep.rates) > 1:
        words.append(f"rate {sweep.rates[arm.rate]:.3g}")
    return ", ".join(words)


def _shown(sweep: Sweep, cells: list[Cell], table: Table) -> list[tuple[Arm, Table]]:
    """Arms to draw, in the order of the sweep, and their rows in the deepest, widest network."""
    kept = sorted(ranked_schemes(sweep, cells, _MOST_SCHEMES))
    arms = {arm.scheme: arm for arm in cells[-1].arms}
    return [(arms[scheme], arm_rows(sweep, arms[scheme], table)) for scheme in kept]


def arm_rows(sweep: Sweep, arm: Arm, table: Table) -> Table:
    """The rows of an arm's best setting in the deepest and widest network."""
    place = {"scheme": arm.scheme, "gain": arm.gain, "learning_rate": arm.rate}
    return table.select(depth=len(sweep.depths) - 1, width=len(sweep.widths) - 1, **place)


def _rule(sweep: Sweep) -> str:
    best = ""
    if len(sweep.gains) * len(sweep.rates) > 1:
        best = " Each scheme at the gain and learning rate that are best over all seeds."
    if len(sweep.schemes) > _MOST_SCHEMES:
        half = _MOST_SCHEMES // 2
        best += f" Shown: the {half} best schemes and the {half} worst of {len(sweep.schemes)}."
    return best


def _usable(sweep: Sweep, table: Table) -> NDArray[np.bool_]:
    """Histograms that hold something; of a run that diverged only that at step 0."""
    is_whole = (table["step"] == 0) | ~sweep.diverged[tuple(table.places)]
    is_finite = np.isfinite(table["low"]) & np.isfinite(table["high"])
    usable: NDArray[np.bool_] = is_whole & is_finite & (table["counts"].sum(1) > 0)
    return usable


def _ends(steps: Array) -> list[float]:
    return sorted({float(np.min(steps)), float(np.max(steps))}) if steps.size else []


def _draw_densities(
    axes: Any, sweep: Sweep, arm: Arm, table: Table, kind: str, step: float
) -> None:
    rows = arm_rows(sweep, arm, sweep.layers)
    rows = rows.where(rows["step"] == step)
    names = [name for name, _ in _layers(table, rows)]
    told = dict(_layers(table, rows))
    peaks = []
    for name, colour in zip(names, drawing.ordered_colours(len(names)), strict=True):
        one = table.where(table["layer"] == name)
        x, density = pooled_density(*(one[column].astype(np.float64) for column in _RANGES))
        words = f"{drawing.label(name, 26)}: {_stats(told[name], kind)}"
        axes.plot(x, np.where(density > 0, density, math.nan), color=colour, lw=1.2, label=words)
        peaks.append(float(np.max(density)))
    axes.set_ylabel("density")
    if kind == "gradient":
        drawing.plain_log(axes.yaxis)
        axes.set_ylim(1e-3 * min(peaks), 1.5 * max(peaks))
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    else:
        # One layer that is all but constant must not flatten the others.
        axes.set_ylim(0, 1.1 * min(max(peaks), 4 * float(np.median(peaks))))
    drawing.legend_beside(axes, handlelength=1.2, fontsize=7)


def _layers(table: Table, rows: Table) -> list[tuple[str, Table]]:
    """At most 8 layers in their order, evenly spaced, and their rows of layers.csv."""
    order = {str(name): index for name, index in zip(rows["layer"], rows["index"], strict=True)}
    names = sorted({str(name) for name in table["layer"]}, key=lambda name: order.get(name, 1e9))
    kept = np.unique(np.linspace(0, len(names) - 1, min(len(names), _MOST_LAYERS)).round())
    return [(names[int(k)], rows.where(rows["layer"] == names[int(k)])) for k in kept]


def _stats(rows: Table, kind: str) -> str:
    """`mean +0.01, std 0.65, saturated 5.1 %`."""
    if kind == "activation":
        mean, std, saturated = (_mean(rows[name]) for name in ("mean", "std", "saturated"))
        has_bounds = bool(np.isin(rows["activation"], _BOUNDED).any())
        share = f", saturated {100 * saturated:.1f} %" if has_bounds else ""
        return f"mean {mean:+.2f}, std {std:.2g}{share}"
    std, ratio = _mean(rows["gradient_std"]), _mean(rows["gradient_to_data"])
    return f"std {std:.1e}" + ("" if math.isnan(ratio) else f", grad/data {ratio:.1e}")


def _mean(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def _draw_ratios(axes: Any, sweep: Sweep, table: Table) -> None:
    steps_T = np.unique(table["step"])
    names = [name for name, _ in _layers(table, table)]
    for name, colour in zip(names, drawing.ordered_colours(len(names)), strict=True):
        rows = table.where(table["layer"] == name)
        values_ST = np.full((len(sweep.seeds), len(steps_T)), math.nan)
        place_T = np.searchsorted(steps_T, rows["step"])
        values_ST[rows.places[-1], place_T] = np.log10(rows["update_to_data"])
        mean_T, spread_T = mean_and_spread(values_ST)
        axes.plot(steps_T, mean_T, color=colour, lw=1.3, label=drawing.label(name, 26))
        drawing.spread(axes, steps_T, mean_T - spread_T, mean_T + spread_T, colour)
