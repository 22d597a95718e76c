"""Pictures of the edge of stability.

Letters: C schemes, L learning rates, S seeds, M measured steps.
"""

from typing import Any

import numpy as np

from charjax.initlab.report import drawing
from charjax.initlab.report.drawing import Panels, Picture
from charjax.initlab.statistics import interval
from charjax.initlab.studies.edge_fates import EDGE, Fates, fates_of, nan_mean, nan_median
from charjax.initlab.studies.edge_settings import OPTIMISERS, Settings
from charjax.initlab.studies.study import Data

_MARKERS = "os^Dv"


def draw(settings: Settings, data: Data) -> list[Picture]:
    """Draw the curvature over the steps, and where it begins and settles."""
    found: dict[str, Fates] = {
        name: fates_of(settings, data, name) for name, _ in settings.optimisers
    }
    return [_over_steps(settings, data, found), _places(settings, found)]


def _over_steps(settings: Settings, data: Data, found: dict[str, Fates]) -> Picture:
    panels = drawing.panels(len(found), columns=len(found), size=(3.4, 3.4))
    for axes, (name, rates) in zip(panels.main, settings.optimisers, strict=True):
        middle = len(rates) // 2
        lines_CM = nan_median(found[name].ratio[:, middle], axis=1)
        for place, (scheme, line_M) in enumerate(zip(settings.schemes, lines_CM, strict=True)):
            style = drawing.line_style(place)
            axes.plot(data["at"], line_M, label=drawing.label(scheme), linewidth=1.2, **style)
        _threshold(axes.axhline)
        axes.set_title(f"{name}, rate {rates[middle]:g}")
        drawing.step_axis(axes, data["at"])
        if (lines_CM > 0).any():
            drawing.plain_log(axes.yaxis, (1.0,))
    panels.label_rows("(preconditioned) sharpness / threshold")
    panels.legend()
    return panels.picture(
        "edge-of-stability-steps",
        alt="Sharpness over the steps, in units of each optimiser's threshold, a line per scheme",
        caption=f"The sharpness, Adam's preconditioned, over the threshold of a quadratic ("
        f"{_thresholds(settings)}; the line at 1), at the middle rate of each optimiser: the "
        f"median of {settings.seeds} seeds for each scheme.",
    )


def _places(settings: Settings, found: dict[str, Fates]) -> Picture:
    height = 1.3 + 0.28 * len(settings.schemes)
    panels = drawing.panels(len(found), columns=len(found), size=(3.4, height))
    for axes, (name, rates) in zip(panels.main, settings.optimisers, strict=True):
        for rate in range(len(rates)):
            _of_rate(axes, settings, found[name], rate, len(rates))
        _threshold(axes.axvline)
        axes.set_title(name)
        axes.set_yticks(range(len(settings.schemes)), [*map(drawing.label, settings.schemes)])
        axes.set_ylim(len(settings.schemes) - 0.5, -0.5)
        axes.set_xlabel("sharpness / threshold")
        if (found[name].start > 0).any():
            drawing.plain_log(axes.xaxis, (1.0,))
        if axes is not panels.main[0]:
            axes.tick_params(axis="y", labelleft=False)
    _legends(panels, settings)
    return panels.picture(
        "edge-of-stability-places",
        alt="Sharpness at step 0 and where it ends, in units of the threshold, by scheme",
        caption=f"Hollow: the sharpness, Adam's preconditioned, at step 0 over the threshold "
        f"({_thresholds(settings)}; the line at 1), mean of {settings.seeds} seeds. Filled: the "
        "median of the last steps, mean and 95 % interval of the seeds at the edge; crosses: the "
        "same where no seed is at the edge. One marker for each rate, ascending, by optimiser.",
    )


def _of_rate(axes: Any, settings: Settings, fates: Fates, rate: int, rates: int) -> None:
    shift = 0.0 if rates == 1 else 0.5 * (rate / (rates - 1) - 0.5)
    marker = _MARKERS[rate % len(_MARKERS)]
    for place in range(len(settings.schemes)):
        colour, y = drawing.line_style(place)["color"], place + shift
        start = float(nan_mean(fates.start[place, rate]))
        axes.plot(start, y, marker, color=colour, markerfacecolor="white", markersize=4.5)
        is_edge_S = fates.fate[place, rate] == EDGE
        tail_S = fates.tail[place, rate]
        if not is_edge_S.any():
            axes.plot(float(nan_mean(tail_S)), y, "x", color=colour, markersize=5)
            continue
        there = interval(tail_S[is_edge_S])
        axes.plot(there.mean, y, marker, color=colour, markersize=4.5)
        if np.isfinite(there.low):
            # A logarithmic axis has no place for an end below 0.
            axes.plot([max(there.low, 0.1 * there.mean), there.high], [y, y], color=colour)


def _legends(panels: Panels, settings: Settings) -> None:
    most = max(len(rates) for _, rates in settings.optimisers)
    axes = panels.main[-1]
    words = ("lowest rate", "middle rate", "highest rate") if most == 3 else ()
    for rate in range(most):
        label = words[rate] if words else f"rate {rate + 1}"
        axes.plot([], [], _MARKERS[rate], color=drawing.THEORY, markersize=4.5, label=label)
    hollow = {"color": drawing.THEORY, "markerfacecolor": "white", "markersize": 4.5}
    axes.plot([], [], "o", label="step 0", **hollow)
    panels.legend(axes)


def _threshold(line: Any) -> None:
    line(1.0, color=drawing.THEORY, linewidth=1, linestyle="--")


def _thresholds(settings: Settings) -> str:
    return ", ".join(f"{name} {OPTIMISERS[name].threshold}" for name, _ in settings.optimisers)
