"""The coordinate check as a table, and as a picture like that of Yang et al. 2022."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from charjax.initlab.probes.coordinates import MOST_SEEDS


def coordinates_table(found: dict[str, Any]) -> Table:
    """How far each layer's coordinates have moved, by width, and the slope of that.

    Args:
      found: what `check_coordinates` returns.
    """
    limit, moving = found["limit"], found["moving_layers"]
    table = Table(
        title=f"Coordinate check of {escape(found['scheme'])} at rate {found['learning_rate']:g}: "
        f"{verdict_in_words(found)}. Mean |change| after {found['steps']} steps, and its slope "
        f"against {found['axis']} (log-log, {len(found['seeds'])} seeds); pass: the 95 % interval "
        f"lies within {limit} of 0; fail: it lies beyond even when corrected for {moving} layers",
        title_justify="left",
    )
    table.add_column("layer")
    for place in found["places"]:
        table.add_column(str(place), justify="right")
    for column in ("slope", "95 % interval", "verdict"):
        table.add_column(column, justify="right")
    for layer in found["layers"]:
        change = layer["change"]
        sizes = [f"{steps[-1]:.3g}" for steps in change["sizes"]]
        slope = "-" if change["slope"] is None else f"{change['slope']:+.3f}"
        ends = "-" if change["slope"] is None else "{:+.3f} to {:+.3f}".format(*change["interval"])
        colour = {"fail": "red", "unclear": "yellow"}.get(change["verdict"], "")
        table.add_row(layer["layer"], *sizes, slope, ends, change["verdict"], style=colour)
    return table


def verdict_in_words(found: dict[str, Any]) -> str:
    """`passed`, `failed`, or `cannot tell` and what would decide."""
    if found["verdict"] != "cannot tell":
        return str(found["verdict"])
    ways = []
    if found["seeds_needed"] is not None:
        ways.append(f"about {found['seeds_needed']} seeds")
    if found["places_needed"] is not None:
        ways.append(f"{found['axis']}s {', '.join(map(str, found['places_needed']))}")
    if not ways:
        ways.append(f"more than {MOST_SEEDS:,} seeds")
    return f"cannot tell ({' or '.join(ways)} would decide, if {found['needed_if']})"


def draw_coordinates(found: dict[str, Any], path: Path) -> None:
    """A line a step: mean |change| of each layer against width; flat lines pass."""
    layers = [layer for layer in found["layers"] if layer["change"]["verdict"] != "still"]
    columns = min(4, max(1, len(layers)))
    rows = -(-max(1, len(layers)) // columns)
    figure = Figure(figsize=(3 * columns, 2.2 * rows + 0.5), dpi=120, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes, layer in zip(panels, layers, strict=False):
        sizes_WT = layer["change"]["sizes"]
        for step in range(1, found["steps"] + 1):
            shade = str(0.8 * (1 - step / found["steps"]))
            axes.plot(found["places"], [sizes[step] for sizes in sizes_WT], ".-", color=shade)
        axes.set_title(layer["layer"], fontsize=8, parse_math=False)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.3)
    for axes in panels[len(layers) :]:
        axes.set_axis_off()
    figure.suptitle(
        f"mean |change| of each layer by {found['axis']}, steps 1 (light) to {found['steps']}",
        fontsize=9,
    )
    figure.savefig(path)
