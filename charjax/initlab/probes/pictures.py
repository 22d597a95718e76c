"""A probe's pictures: histograms as in Building makemore Part 3, and curves by depth and width."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from charjax.files import replacing
from charjax.initlab.activations.layers import BINS
from charjax.initlab.probes.network import SeedProbe


def draw(tree: dict[str, Any], probe: SeedProbe, directory: Path) -> list[str]:
    """Write the probe's pictures, and return the names of their files.

    Args:
      tree: the summary of all seeds, with "coordinates" and "depth_coordinates".
      probe: of the seed whose histograms are drawn.
      directory: of the files.
    """
    stats = probe.layers.stats
    names = [layer["name"] for layer in tree["layers"]]
    figures = {}
    for kind in ("activation", "gradient"):
        counts_LK = getattr(stats, f"{kind}_counts")
        low_L, high_L = getattr(stats, f"{kind}_low"), getattr(stats, f"{kind}_high")
        title = f"{kind}s by layer at the first step, seed {probe.seed}"
        figures[f"{kind}s.png"] = _histograms(names, low_L, high_L, counts_LK, title)
    figures["depth.png"] = _depth(tree)
    for name in ("coordinates", "depth_coordinates"):
        if tree[name] is not None:
            figures[f"{name}.png"] = _coordinates(tree[name])
    for name, figure in figures.items():
        with replacing(directory / name) as temporary:
            figure.savefig(temporary, format="png")
    return list(figures)


def _panels(count: int, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels, at most 4 in a row, each `height` inches high."""
    columns = min(4, max(1, count))
    rows = -(-max(1, count) // columns)
    figure = Figure(figsize=(3 * columns, height * rows + 0.5), dpi=120, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, **shared).ravel())
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _histograms(names: list[str], low_L: Any, high_L: Any, counts_LK: Any, title: str) -> Figure:
    """Draw one panel per layer: scales differ too much between layers to share one."""
    figure, panels = _panels(len(names), 1.8)
    for i, axes in enumerate(panels):
        edges = np.linspace(low_L[i], high_L[i], BINS + 1)
        axes.stairs(counts_LK[i] / max(1, counts_LK[i].sum()), edges, fill=True)
        axes.set_title(names[i], fontsize=8, parse_math=False)
        axes.tick_params(labelsize=6)
        axes.set_yticks([])
    figure.suptitle(title, fontsize=9)
    return figure


def _depth(tree: dict[str, Any]) -> Figure:
    """Draw standard deviations, gradients, correlations and ranks from layer to layer."""
    layers = tree["layers"]
    figure = Figure(figsize=(max(8, 0.45 * len(layers)), 10), dpi=120, layout="constrained")
    panels = figure.subplots(4, 1, sharex=True)
    _line(panels[0], layers, "std", "std of the output")
    _theory(panels[0], layers, "std")
    _line(panels[1], layers, "gradient_std", "std of the gradient")
    _line(panels[2], layers, "correlation", "correlation of two inputs")
    _theory(panels[2], layers, "correlation")
    _line(panels[3], layers, "effective_rank", "effective rank")
    for axes in panels[:2]:
        axes.set_yscale("log")
    names = [layer["name"] for layer in layers]
    panels[-1].set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    figure.suptitle(f"by depth, mean ± std over {len(tree['seeds'])} seeds", fontsize=9)
    return figure


def _line(axes: Axes, layers: list[dict[str, Any]], name: str, label: str) -> None:
    known = [(i, layer[name]) for i, layer in enumerate(layers) if layer[name]["mean"] is not None]
    if known:
        places, numbers = zip(*known, strict=True)
        means, stds = zip(*((n["mean"], n["std"]) for n in numbers), strict=True)
        axes.errorbar(places, means, stds, fmt="o-", markersize=3, linewidth=1, label="measured")
    axes.set_ylabel(label, fontsize=8)
    axes.grid(alpha=0.3)


def _theory(axes: Axes, layers: list[dict[str, Any]], name: str) -> None:
    values = [layer["theory"][name] for layer in layers]
    known = [(i, value) for i, value in enumerate(values) if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "x", color="black", markersize=5, label="theory")
        # Above the axes, where it covers nothing.
        place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
        axes.legend(fontsize=7, ncols=2, frameon=False, **place)


def _coordinates(check: dict[str, Any]) -> Figure:
    """Draw one line per step: mean |change| of each layer against width; flat lines pass."""
    layers = [layer for layer in check["layers"] if layer["change"]["verdict"] != "still"]
    figure, panels = _panels(len(layers), 2.2, sharex=True)
    for axes, layer in zip(panels, layers, strict=True):
        sizes_WT = layer["change"]["sizes"]
        for step in range(1, check["steps"] + 1):
            shade = str(0.8 * (1 - step / check["steps"]))
            axes.plot(check["places"], [sizes[step] for sizes in sizes_WT], ".-", color=shade)
        axes.set_title(layer["layer"], fontsize=8, parse_math=False)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.3)
    figure.suptitle(
        f"mean |change| of each layer by {check['axis']}, steps 1 (light) to {check['steps']}",
        fontsize=9,
    )
    return figure
