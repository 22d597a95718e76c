"""Rows of a benchmark as tables and pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def quantity(value: float | None, unit: str) -> str:
    """Return `312 GFLOP/s` or `4.21 ms`; n/a for None."""
    if value is None:
        return "n/a"
    if unit == "1/s":
        return f"{value:,.0f} /s"
    steps = _SMALL if unit == "s" else _PREFIXES
    factor, prefix = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    scaled = value / factor
    digits = 0 if scaled >= 100 else 1 if scaled >= 10 else 2
    return f"{scaled:.{digits}f} {prefix}{unit}"


def percent(value: float | None) -> str:
    """Return `37.2 %`; n/a for None."""
    return "n/a" if value is None else f"{100 * value:.1f} %"


def spread(row: Row) -> str:
    """Return median and quartiles of a row in seconds: `4.21 ms (4.15 ms to 4.40 ms)`."""
    low, mid, high = (quantity(row[key], "s") for key in ("q1", "median", "q3"))
    return f"{mid} ({low} to {high})"


def make_table(title: str, columns: tuple[Column, ...], rows: list[Row]) -> Table:
    """Return a table whose first column is words, and the others numbers."""
    table = Table(title=title)
    for index, (name, _) in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*(cell(row) for _, cell in columns))
    return table


def make_console() -> Console:
    """Return a console that is wide enough for the tables where the output is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def picture(
    path: Path, title: str, draw: Callable[[Any, list[Row]], None], rows: list[Row]
) -> None:
    """Draw rows into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    draw(axes, rows)
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
