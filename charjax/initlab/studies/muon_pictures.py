"""The pictures of the study of schemes under Muon."""

from typing import Any

import matplotlib.ticker
import numpy as np
from scipy import stats

from charjax.initlab.report import drawing
from charjax.initlab.report.drawing import Picture
from charjax.initlab.studies.muon_ranking import Ranking, rankings_of
from charjax.initlab.studies.muon_settings import Settings
from charjax.initlab.studies.study import Data

_COLOURS = {"AdamW": "#0072B2", "Muon": "#D55E00", "SGD": "#009E73"}
_MARKERS = {"AdamW": "o", "Muon": "D", "SGD": "s"}
# From the left: neighbours are compared by eye.
_COLUMNS = ("SGD", "AdamW", "Muon")
_ROW = 0.34


def draw(settings: Settings, data: Data) -> list[Picture]:
    """Draw the losses, the rankings and the choice of rates."""
    every = [rankings_of(settings, data, network) for network in settings.networks]
    return [_losses(settings, every), _ranks(settings, every), _rates(settings, every)]


def _losses(settings: Settings, every: list[dict[str, Ranking]]) -> Picture:
    rows = max(len(network.schemes) for network in settings.networks)
    panels = drawing.panels(len(every), size=(4.2, 1.2 + _ROW * rows))
    for axes, rankings in zip(panels.main, every, strict=True):
        _draw_behind(axes, rankings, settings.matters)
    panels.legend()
    return panels.picture(
        "muon-losses",
        alt="How far each scheme is behind the best one under AdamW, Muon and SGD.",
        caption="Each scheme at its best rate, behind the best scheme under the same optimiser "
        f"(at 0), mean of {settings.seeds} seeds with 95 % intervals of the paired difference; "
        f"dashed: {settings.matters:g} nats. Linear below 0.02. Schemes in the order of their "
        "losses under Muon.",
    )


def _draw_behind(axes: Any, rankings: dict[str, Ranking], matters: float) -> None:
    schemes = rankings["Muon"].network.schemes
    order = np.argsort(rankings["Muon"].tuned_losses, kind="stable")
    for place, (name, ranking) in enumerate(rankings.items()):
        y = np.arange(len(order)) + 0.22 * (place - 1)
        found = [ranking.behind[c] for c in order]
        best = ranking.tuned_losses[ranking.best]
        behind = [float(ranking.tuned_losses[c] - best) for c in order]
        low = [b if one is None else min(one.low, b) for one, b in zip(found, behind, strict=True)]
        high = [
            b if one is None else max(one.high, b) for one, b in zip(found, behind, strict=True)
        ]
        axes.hlines(y, low, high, color=_COLOURS[name], linewidth=1.4)
        axes.plot(behind, y, _MARKERS[name], color=_COLOURS[name], markersize=4.5, label=name)
    axes.axvline(matters, color=drawing.THEORY, linestyle="--", linewidth=1)
    axes.axvline(0, color=drawing.THEORY, linewidth=0.8)
    axes.set_xscale("symlog", linthresh=0.02, linscale=0.6)
    axes.xaxis.set_major_locator(matplotlib.ticker.FixedLocator([0, 0.01, 0.05, 0.2, 0.5, 1]))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_yticks(range(len(order)), [schemes[c] for c in order])
    axes.invert_yaxis()
    axes.set_xlabel("nats behind the best scheme")
    axes.set_title(rankings["Muon"].network.name)


def _ranks(settings: Settings, every: list[dict[str, Ranking]]) -> Picture:
    rows = max(len(network.schemes) for network in settings.networks)
    panels = drawing.panels(len(every), size=(4.2, 1.0 + 0.3 * rows))
    for axes, rankings in zip(panels.main, every, strict=True):
        _draw_ranks(axes, rankings)
    panels.label_rows("rank")
    return panels.picture(
        "muon-ranks",
        alt="Ranks of the schemes under SGD, AdamW and Muon, joined by lines.",
        caption="Rank of each scheme (1: lowest loss) at its best rate, mean of "
        f"{settings.seeds} seeds; tied schemes share their mean rank. Bars: 95 % of resamples of "
        "the seeds, the best rates chosen anew.",
    )


def _draw_ranks(axes: Any, rankings: dict[str, Ranking]) -> None:
    schemes = rankings["Muon"].network.schemes
    rank_OC = np.array([stats.rankdata(rankings[name].tuned_losses) for name in _COLUMNS])
    ends = [
        np.quantile(stats.rankdata(rankings[name].resampled, axis=1), [0.025, 0.975], axis=0)
        for name in _COLUMNS
    ]
    # The places of names: tied schemes one under the other.
    place_C = np.argsort(np.argsort(rank_OC[-1], kind="stable"), kind="stable") + 1
    first_C = np.argsort(np.argsort(rank_OC[0], kind="stable"), kind="stable") + 1
    for c, scheme in enumerate(schemes):
        style = drawing.line_style(c)
        axes.plot(range(len(_COLUMNS)), rank_OC[:, c], **style, linewidth=1.6)
        for column, (low_C, high_C) in enumerate(ends):
            shift = column + 0.012 * (c - len(schemes) / 2)
            axes.vlines(shift, low_C[c], high_C[c], color=style["color"], linewidth=1, alpha=0.6)
        axes.plot(range(len(_COLUMNS)), rank_OC[:, c], "o", color=style["color"], markersize=4.5)
        last, colour = len(_COLUMNS) - 1, style["color"]
        axes.text(last + 0.12, place_C[c], scheme, color=colour, va="center", fontsize=8)
        axes.text(-0.12, first_C[c], scheme, color=colour, va="center", ha="right", fontsize=8)
    axes.set_xticks(range(len(_COLUMNS)), _COLUMNS)
    axes.set_xlim(-1.1, len(_COLUMNS) + 0.1)
    axes.set_yticks(range(1, len(schemes) + 1))
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_title(rankings["Muon"].network.name)


def _rates(settings: Settings, every: list[dict[str, Ranking]]) -> Picture:
    panels = drawing.panels(len(every) * len(_COLUMNS), columns=len(_COLUMNS), size=(3.0, 3.2))
    cells = [(rankings, name) for rankings in every for name in _COLUMNS]
    for axes, (rankings, name) in zip(panels.main, cells, strict=True):
        ranking = rankings[name]
        exponents = dict(ranking.network.rates)[name]
        for c, scheme in enumerate(ranking.network.schemes):
            style = drawing.line_style(c)
            mean_L = ranking.losses_CLS[c].mean(-1)
            axes.plot(exponents, mean_L, **style, linewidth=1.2, label=scheme)
            best = ranking.best_rates[c]
            axes.plot(exponents[best], mean_L[best], "o", color=style["color"], markersize=4)
        axes.set_xticks(exponents)
        axes.set_title(f"{ranking.network.name}, {name}")
        axes.set_xlabel("learning rate, exponent of 2")
    panels.label_rows("loss, nats")
    for row in range(len(every)):
        drawing.legend_beside(panels.main[(row + 1) * len(_COLUMNS) - 1])
    return panels.picture(
        "muon-rates",
        alt="Loss against learning rate for each scheme, network and optimiser.",
        caption=f"Mean loss of {settings.seeds} seeds by learning rate; the dot is a scheme's "
        "best rate. Runs that diverged, or ended above a uniform guess, count as that.",
    )
