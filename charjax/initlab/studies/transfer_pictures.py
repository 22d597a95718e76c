"""Pictures of the study of learning-rate transfer."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charjax.initlab.report import drawing
from charjax.initlab.report.drawing import Picture
from charjax.initlab.studies.study import Data
from charjax.initlab.studies.transfer_result import drifts_of, losses_of
from charjax.initlab.studies.transfer_settings import MUP, STANDARD, Settings
from charjax.initlab.studies.transfer_statistics import Drift

# Losses are shown up to so many nats above the lowest of a panel: beyond, nothing is trained.
_SHOWN = 0.8


def draw(settings: Settings, data: Data) -> list[Picture]:
    """Draw losses against rates, and best rates against widths; `data` is that of `measure`."""
    return [_losses(settings, data), _rates(settings, data)]


def _losses(settings: Settings, data: Data) -> Picture:
    losses, drifts = losses_of(settings, data), drifts_of(settings, losses_of(settings, data))
    rows = list(dict.fromkeys(parametrisation for _, parametrisation, _ in settings.grids))
    columns = [name for name, _ in settings.optimisers]
    panels = drawing.panels(len(rows) * len(columns), columns=len(columns))
    by_grid = {grid[:2]: (grid[2], x) for grid, x in zip(settings.grids, losses, strict=True)}
    places = [(optimiser, row) for row in rows for optimiser in columns]
    for axes, key in zip(panels.main, places, strict=True):
        axes.set_title(f"{key[0]}, {key[1]}")
        if key in by_grid:
            _panel(axes, settings, *by_grid[key], drifts[key])
    for axes in panels.main[-len(columns) :]:
        axes.set_xlabel("log2 of the learning rate")
    panels.label_rows("loss (nats per character)")
    panels.legend()
    return panels.picture(
        "mup-transfer-losses",
        alt=f"Training loss against learning rate at widths {_widths(settings)}, a panel for each "
        f"optimiser ({', '.join(columns)}) and parametrisation ({', '.join(rows)}).",
        caption=f"Mean loss of {settings.seeds} seeds after {settings.steps} steps; bands reach "
        "from the lowest to the highest seed, rates that diverge are not shown. Dots: the best "
        "rate of each width, by a parabola; bars: its 95 % interval.",
    )


def _panel(
    axes: Any,
    settings: Settings,
    exponents: tuple[float, ...],
    losses_WLS: NDArray[np.float64],
    drift: Drift,
) -> None:
    log_rates_L = np.array(exponents)
    colours = drawing.ordered_colours("width", len(settings.widths))
    for width, colour, losses_LS in zip(settings.widths, colours, losses_WLS, strict=True):
        trained_L = np.isfinite(losses_LS).all(axis=1)
        mean_L = np.where(trained_L, losses_LS.mean(axis=1), np.nan)
        axes.plot(
            log_rates_L, mean_L, color=colour, marker=".", markersize=3, label=f"width {width}"
        )
        drawing.spread(
            axes,
            log_rates_L[trained_L],
            losses_LS[trained_L].min(axis=1),
            losses_LS[trained_L].max(axis=1),
            colour,
        )
    lowest = [loss for loss in drift.lowest_W if math.isfinite(loss)]
    for colour, best, loss in zip(colours, drift.best_W, drift.lowest_W, strict=True):
        if math.isfinite(loss):
            axes.plot([best.value], [loss], "o", color=colour, markeredgecolor="black", zorder=4)
            if best.has_interval:
                axes.plot([best.low, best.high], [loss, loss], color="black", zorder=3)
    if lowest:
        axes.set_ylim(min(lowest) - 0.05 * _SHOWN, min(lowest) + _SHOWN)
    axes.set_xlim(exponents[0] - 0.3, exponents[-1] + 0.3)


def _rates(settings: Settings, data: Data) -> Picture:
    drifts = drifts_of(settings, losses_of(settings, data))
    columns = [name for name, _ in settings.optimisers]
    panels = drawing.panels(len(columns))
    styles = {MUP: drawing.line_style(0), STANDARD: drawing.line_style(1)}
    for axes, optimiser in zip(panels.main, columns, strict=True):
        axes.set_title(optimiser)
        for (name, parametrisation), drift in drifts.items():
            if name == optimiser:
                _series(axes, settings, parametrisation, drift, styles[parametrisation]["color"])
        drawing.log_axis(axes.xaxis, settings.widths)
        axes.set_xlabel("width")
    panels.label_rows("log2 of the best learning rate")
    panels.legend()
    return panels.picture(
        "mup-transfer-rates",
        alt=f"Best learning rate against width under {', '.join(columns)}, by parametrisation.",
        caption=f"Best rate of the mean loss of {settings.seeds} seeds with its 95 % interval; "
        "open: at the edge of its grid, a bound. Dashed: a rate that stays, and one that falls as "
        "1/width, from the narrowest width's.",
    )


def _series(axes: Any, settings: Settings, parametrisation: str, drift: Drift, colour: Any) -> None:
    widths_W = np.array(settings.widths, np.float64)
    value_W = np.array([best.value for best in drift.best_W])
    low_W, high_W = (
        np.array([getattr(b, end) if b.has_interval else b.value for b in drift.best_W])
        for end in ("low", "high")
    )
    inside_W = np.array([not place for place in drift.places_W])
    axes.errorbar(
        widths_W,
        value_W,
        yerr=np.abs(np.stack([value_W - low_W, high_W - value_W])),
        color=colour,
        capsize=2,
        label=parametrisation,
    )
    for one_W, fill in ((inside_W, colour), (~inside_W, "white")):
        axes.plot(widths_W[one_W], value_W[one_W], "o", color=colour, markerfacecolor=fill)
    slope = 0.0 if parametrisation == MUP else -1.0
    guide_W = value_W[0] + slope * np.log2(widths_W / widths_W[0])
    axes.plot(widths_W, guide_W, color=drawing.THEORY, linestyle="--", linewidth=0.8)


def _widths(settings: Settings) -> str:
    return ", ".join(map(str, settings.widths))
