"""The style of the report's pictures, their panels and axes, and how they become files."""

import contextlib
import contextvars
import dataclasses
import functools
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import matplotlib
import matplotlib.figure
import matplotlib.font_manager
import matplotlib.ft2font
import matplotlib.ticker
import numpy as np

from charjax.errors import printable

# The most panels in a picture.
MOST_PANELS = 12
# Each colour has one meaning on the page. Schemes: Okabe & Ito 2008, distinct for colour-blind
# readers too.
SCHEMES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
_DASHES = ("-", "--", "-.", ":")
# Lines of theory, and guides.
THEORY = "#222222"
# Activations, and the values before them.
AFTER, BEFORE = "#6A3D9A", "#7F7F00"
# Maps of ordered things, and the part of each that is readable on white.
_ORDERED = {"layer": ("viridis", 0.0, 0.85), "depth": ("pink", 0.1, 0.5), "width": ("Reds", 0.3, 1)}
LOSSES = "magma_r"
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
    "svg.hashsalt": "charjax",
    # Text stays text, which readers can search and edit.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
# Nothing that depends on the time or the program.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_KINDS: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("kinds", default=("png",))


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG and its descriptions.

    Attributes:
      name: of its files, without .png.
      files: by kind (png, svg, pdf) those that `styled` asks for; the PNG is always there, on a
        white ground, so that it is readable on any page.
      alt: a short description for readers who do not see it.
      caption: what is shown, over how many seeds, and the meaning of bands and bars.
    """

    name: str
    files: Mapping[str, bytes]
    alt: str
    caption: str

    @property
    def png(self) -> bytes:
        """The PNG."""
        return self.files["png"]


@contextlib.contextmanager
def styled(kinds: Sequence[str] = ()) -> Iterator[None]:
    """Apply the style; figures must be made and saved within.

    Args:
      kinds: files to make beside the PNGs: svg, pdf.
    """
    token = _KINDS.set(tuple(dict.fromkeys(("png", *kinds))))
    try:
        with matplotlib.rc_context(_RC):
            yield
    finally:
        _KINDS.reset(token)


@dataclasses.dataclass(frozen=True)
class Panels:
    """A figure's panels, row by row.

    Attributes:
      figure: the figure.
      main: the axes of each panel.
      below: the axes of the residuals below each panel, if any.
      columns: number of panels in a row.
    """

    figure: matplotlib.figure.Figure
    main: list[Any]
    below: list[Any]
    columns: int

    def label_rows(self, text: str, below: str = "") -> None:
        """Label the y axes of the first panel in each row."""
        for axes in self.main[:: self.columns]:
            axes.set_ylabel(text)
        for axes in self.below[:: self.columns]:
            axes.set_ylabel(below)

    def legend(self, labels: Any = None) -> None:
        """Place a legend beside the first row; it names what `labels`, axes, holds."""
        legend_beside(self.main[min(self.columns, len(self.main)) - 1], labels)

    def picture(self, name: str, *, alt: str, caption: str) -> Picture:
        """Draw the figure; equal figures have equal bytes."""
        made = {}
        for kind in _KINDS.get():
            file = io.BytesIO()
            self.figure.savefig(file, format=kind, metadata=_METADATA[kind])
            made[kind] = file.getvalue()
        return Picture(name, made, alt, caption)


def panels(
    count: int,
    *,
    columns: int | None = None,
    size: tuple[float, float] | None = None,
    residuals: bool = False,
) -> Panels:
    """Make panels, with `residuals` a low one under each, on the same x axis.

    Args:
      count: number of panels.
      columns: number of panels in a row; by default as fits a page.
      size: of one panel, in inches; by default 3.4 wide.
      residuals: make the low panels.
    """
    if columns is None:
        columns = count if count < 4 else 2 if count == 4 else 3 if count <= 9 else 4
    rows = math.ceil(count / columns)
    width, height = size or (3.4, 3.6 if residuals else 2.8)
    # A single panel is larger, with room for its legend.
    inches = (7.2, height + 0.8) if count == 1 else (max(width * columns, 7.2), height * rows)
    figure = matplotlib.figure.Figure(figsize=inches, dpi=110, layout="constrained")
    ratios = [3, 1] * rows if residuals else [1] * rows
    grid = figure.subplots(len(ratios), columns, squeeze=False, height_ratios=ratios)
    main, below = grid[:: 1 + residuals].ravel().tolist(), []
    if residuals:
        below = grid[1::2].ravel().tolist()
        for upper, lower in zip(main[:count], below[:count], strict=True):
            lower.sharex(upper)
            upper.tick_params(axis="x", labelbottom=False)
    for unused in main[count:] + below[count:]:
        unused.set_axis_off()
    return Panels(figure, main[:count], below[:count], columns)


def legend_beside(axes: Any, labels: Any = None, **options: Any) -> None:
    """Place a legend at the right of the axes; it names what `labels`, axes, holds."""
    handles = (axes if labels is None else labels).get_legend_handles_labels()
    axes.legend(*handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), **options)


def line_style(place: int) -> dict[str, Any]:
    """Return colour and dashes of the n-th of several unordered things."""
    dashes = _DASHES[place // len(SCHEMES) % len(_DASHES)]
    return {"color": SCHEMES[place % len(SCHEMES)], "linestyle": dashes}


def ordered_colours(kind: Literal["layer", "depth", "width"], count: int) -> list[Any]:
    """Return colours for ordered things of a kind."""
    name, first, last = _ORDERED[kind]
    return list(matplotlib.colormaps[name](np.linspace(first, last, count)))


def share_values(axes: Sequence[Any]) -> None:
    """Give all panels one y axis, logarithmic where their values span a wide range."""
    for one in axes[1:]:
        one.sharey(axes[0])
    shown = np.concatenate([np.zeros(0), *(line.get_ydata() for a in axes for line in a.lines)])
    positive = shown[np.isfinite(shown) & (shown > 0)]
    if positive.size and not (shown < 0).any() and positive.max() > 8 * positive.min():
        plain_log(axes[0].yaxis)
        axes[0].set_ylim(positive.min() / 1.3, positive.max() * 1.3)
    else:
        axes[0].autoscale(axis="y")


def share_losses(axes: Sequence[Any], uniform: float) -> None:
    """Give all panels one y axis, up to a little above the loss of a uniform guess."""
    for one in axes[1:]:
        one.sharey(axes[0])
    axes[0].autoscale(axis="y")
    low, high = axes[0].get_ylim()
    if low < 1.1 * uniform < high:
        axes[0].set_ylim(low, 1.1 * uniform)


def spread(axes: Any, x: Any, low: Any, high: Any, colour: Any) -> None:
    """Draw a band."""
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def log_axis(axis: Any, values: Sequence[float] | np.ndarray) -> None:
    """Make an axis logarithmic; its ticks are the values (a few of many), as plain numbers."""
    values = np.unique(np.asarray(values, np.float64))
    step = math.ceil(len(values) / 7)
    ticks = matplotlib.ticker.FixedLocator(values[::step].tolist())
    _set_log(axis, ticks, lambda x, _: f"{x:.3g}", base=2)


def plain_log(axis: Any, subs: tuple[float, ...] = (1.0, 2.0, 5.0)) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks: `subs` times powers of ten."""
    _set_log(axis, matplotlib.ticker.LogLocator(subs=subs, numticks=7), lambda x, _: f"{x:g}")


def _set_log(axis: Any, ticks: matplotlib.ticker.Locator, text: Any, **scale: Any) -> None:
    set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
    set_scale("log", **scale)
    _set_ticks(axis, ticks, text)


def _set_ticks(axis: Any, ticks: matplotlib.ticker.Locator, text: Any) -> None:
    axis.set_major_locator(ticks)
    axis.set_minor_locator(matplotlib.ticker.NullLocator())
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(text))


def step_axis(axes: Any, steps: Sequence[float] | np.ndarray) -> None:
    """Make an x axis of steps: linear up to 1, then logarithmic, as they are recorded."""
    top = max(float(np.max(steps)), 1.0)
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.4)
    powers = [10.0**k for k in range(math.floor(math.log10(top)) + 1)]
    ticks = [0.0, *powers] + ([top] if top >= 3 * powers[-1] else [])
    _set_ticks(axes.xaxis, matplotlib.ticker.FixedLocator(ticks), _steps)
    axes.set_xlim(0, top * 1.02)
    axes.set_xlabel("step")


def _steps(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def label(text: str, most: int = 34) -> str:
    """Return a name as a picture can show it: printable, with glyphs of the font, not too long."""
    shown = "".join(char if ord(char) in _glyphs() else "\ufffd" for char in printable(text))
    if len(shown) > most:
        shown = shown[: most - 1] + "…"
    # matplotlib leaves names that begin with an underscore out of legends.
    return f" {shown}" if shown.startswith("_") else shown


@functools.cache
def _glyphs() -> frozenset[int]:
    path = matplotlib.font_manager.findfont("DejaVu Sans")
    return frozenset(matplotlib.ft2font.FT2Font(path).get_charmap())
