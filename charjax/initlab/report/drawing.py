"""How the report's pictures look, and how they become files."""

import contextlib
import dataclasses
import functools
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import matplotlib.font_manager
import matplotlib.ft2font
import matplotlib.ticker
import numpy as np

from charjax.errors import printable

# At most so many small multiples in a picture.
MOST_PANELS = 12
# Okabe & Ito 2008: told apart by those who do not see all colours; black for theory.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
_DASHES = ("-", "--", "-.", ":")
THEORY = "#222222"
_RC: dict[str, Any] = {
    # Names of schemes and layers are text, and may hold a dollar sign.
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "figure.facecolor": "white",
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG and what is said of it.

    Attributes:
      name: of its file, without .png.
      png: the bytes; a white ground, so that it can be read on any page.
      alt: what is seen, for those who do not.
      caption: what is shown, how many seeds, and what the bands are.
    """

    name: str
    png: bytes
    alt: str
    caption: str


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """The look of all pictures; figures must be made and saved within."""
    with matplotlib.rc_context(_RC):
        yield


@dataclasses.dataclass(frozen=True)
class Panels:
    """A figure's panels, row by row.

    Attributes:
      figure: to be saved.
      axes: for each panel the axes, and those of the residuals below it or None.
      columns: how many panels are beside each other.
    """

    figure: matplotlib.figure.Figure
    axes: list[tuple[Any, Any]]
    columns: int


def single_panels(
    count: int, *, columns: int | None = None, size: tuple[float, float] = (3.4, 2.8)
) -> Panels:
    """Panels without anything below them; `size` is of one, in inches."""
    figure, columns, rows = _figure(count, columns, size)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.set_axis_off()
    return Panels(figure, [(one, None) for one in axes[:count]], columns)


def paired_panels(count: int) -> Panels:
    """Panels with a low one for residuals under each, on the same x axis."""
    figure, columns, rows = _figure(count, None, (3.4, 3.6))
    ratios = [3, 1] * rows
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=ratios)
    pairs = []
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        main, below = grid[2 * row, column], grid[2 * row + 1, column]
        if place < count:
            below.sharex(main)
            main.tick_params(axis="x", labelbottom=False)
            pairs.append((main, below))
        else:
            main.set_axis_off()
            below.set_axis_off()
    return Panels(figure, pairs, columns)


def _figure(
    count: int, columns: int | None, size: tuple[float, float]
) -> tuple[matplotlib.figure.Figure, int, int]:
    """A figure with room for the panels, and how many columns and rows they make."""
    if columns is None:
        columns = count if count < 4 else 2 if count == 4 else 3 if count <= 9 else 4
    rows = math.ceil(count / columns)
    width, height = size
    # One panel alone is larger, with room for its legend.
    inches = (7.2, height + 0.8) if count == 1 else (max(width * columns, 7.2), height * rows)
    return matplotlib.figure.Figure(figsize=inches, dpi=110, layout="constrained"), columns, rows


def legend_beside(axes: Any, labels: Any = None, **options: Any) -> None:
    """A legend at the right of the axes, where it hides nothing; of what `labels`, axes, hold."""
    handles = (axes if labels is None else labels).get_legend_handles_labels()
    axes.legend(*handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), **options)


def picture(figure: matplotlib.figure.Figure, name: str, *, alt: str, caption: str) -> Picture:
    """Draw a figure; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return Picture(name, file.getvalue(), alt, caption)


def line_style(place: int) -> dict[str, Any]:
    """Colour and dashes of the n-th of things that have no order."""
    dashes = _DASHES[place // len(_COLOURS) % len(_DASHES)]
    return {"color": _COLOURS[place % len(_COLOURS)], "linestyle": dashes}


def ordered_colours(count: int) -> list[Any]:
    """Colours, dark to light, for things in an order (layers, widths)."""
    return list(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, count)))


def share_values(axes: Sequence[Any]) -> None:
    """One y axis for all panels, logarithmic where what they show spans much."""
    for one in axes[1:]:
        one.sharey(axes[0])
    shown = np.concatenate([np.zeros(0), *(line.get_ydata() for a in axes for line in a.lines)])
    positive = shown[np.isfinite(shown) & (shown > 0)]
    if positive.size and not (shown < 0).any() and positive.max() > 8 * positive.min():
        plain_log(axes[0].yaxis)
        axes[0].set_ylim(positive.min() / 1.3, positive.max() * 1.3)
    else:
        axes[0].autoscale(axis="y")


def spread(axes: Any, x: Any, low: Any, high: Any, colour: Any) -> None:
    """A band."""
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def log_axis(axis: Any, values: Sequence[float] | np.ndarray, *, base: int = 2) -> None:
    """A logarithmic axis whose ticks are the values themselves, as plain numbers, if few."""
    values = np.unique(np.asarray(values, np.float64))
    set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
    set_scale("log", base=base)
    step = math.ceil(len(values) / 7)
    axis.set_major_locator(matplotlib.ticker.FixedLocator(values[::step].tolist()))
    axis.set_minor_locator(matplotlib.ticker.NullLocator())
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:.3g}"))


def plain_log(axis: Any, subs: tuple[float, ...] = (1.0, 2.0, 5.0)) -> None:
    """A logarithmic axis with plain numbers at its ticks: `subs` times powers of ten."""
    set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
    set_scale("log")
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=subs, numticks=7))
    axis.set_minor_locator(matplotlib.ticker.NullLocator())
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:g}"))


def step_axis(axes: Any, steps: Sequence[float] | np.ndarray) -> None:
    """Steps are recorded at log-spaced ones and 0: linear up to 1, then logarithmic."""
    top = max(float(np.max(steps)), 1.0)
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.4)
    powers = [10.0**k for k in range(math.floor(math.log10(top)) + 1)]
    ticks = [0.0, *powers] + ([top] if top >= 3 * powers[-1] else [])
    axes.xaxis.set_major_locator(matplotlib.ticker.FixedLocator(ticks))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(_steps))
    axes.set_xlim(0, top * 1.02)
    axes.set_xlabel("step")


def label(text: str, most: int = 34) -> str:
    """A name as a picture can show it: printable, with glyphs that the font has, not too long."""
    shown = "".join(char if ord(char) in _glyphs() else "\ufffd" for char in printable(text))
    if len(shown) > most:
        shown = shown[: most - 1] + "…"
    # matplotlib leaves names that begin with an underscore out of legends.
    return f" {shown}" if shown.startswith("_") else shown


def _steps(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


@functools.cache
def _glyphs() -> frozenset[int]:
    path = matplotlib.font_manager.findfont("DejaVu Sans")
    return frozenset(matplotlib.ft2font.FT2Font(path).get_charmap())
