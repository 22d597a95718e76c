"""Conclusions on the edge of stability, from the ratios of curvature and threshold.

Letters: C schemes, L learning rates, S seeds, P optimisers.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charjax.initlab.statistics import LEVEL, holm, interval
from charjax.initlab.studies.edge_fates import (
    BELOW,
    EDGE,
    LEFT,
    UNTRAINED,
    Array,
    Fates,
    fates_of,
    nan_mean,
    nan_median,
    scheme_p,
    scheme_values,
)
from charjax.initlab.studies.edge_settings import OPTIMISERS, Settings
from charjax.initlab.studies.study import Conclusion, Data, Table
from charjax.reproduction.checks import Check, Mean, at_least, mean_of, near, not_run, stated

Mask = NDArray[np.bool_]


def conclude(settings: Settings, data: Data) -> Conclusion:
    """Return where the runs settle, whether the schemes differ, and how each begins."""
    found: dict[str, Fates] = {
        name: fates_of(settings, data, name) for name, _ in settings.optimisers
    }
    p_P = dict(zip(found, _adjusted(settings, found), strict=True))
    answer = [_place(found)]
    answer += [_schemes(settings, name, found[name], p_P[name]) for name in found]
    answer += [_endings(settings, data, name, one) for name, one in found.items()]
    answer += [_beginnings(settings, name, one) for name, one in found.items()]
    checks = [check for name, one in found.items() for check in _checks(settings, name, one)]
    return Conclusion(answer, checks, _tables(settings, data, found))


def settled_by_seed(fates: Fates) -> Array:
    """Return the median over schemes and rates at the edge, of those seeds that have any."""
    medians_S = nan_median(fates.settled, axis=(0, 1))
    return medians_S[np.isfinite(medians_S)]


def _place(found: dict[str, Fates]) -> str:
    parts = []
    for name, fates in found.items():
        values_S, optimiser = settled_by_seed(fates), OPTIMISERS[name]
        if values_S.size:
            parts.append(
                f"under {name} the {optimiser.curvature} settles at {_in_words(values_S)} times "
                f"{optimiser.threshold}"
            )
        else:
            parts.append(f"under {name} no run is at the edge at its end")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _schemes(settings: Settings, name: str, fates: Fates, p: float | None) -> str:
    start = f"{name.capitalize()}: whether the place depends on the scheme"
    if p is None:
        return (
            f"{start} cannot be tested: it takes two seeds or more, and two schemes at the edge in "
            "each of them."
        )
    means_C = nan_mean(scheme_values(fates.settled))
    low, high = int(np.nanargmin(means_C)), int(np.nanargmax(means_C))
    span = (
        f"at equal rates the schemes' means span {means_C[high] - means_C[low]:.3f} of the "
        f"threshold, from {settings.schemes[low]} to {settings.schemes[high]} (p = {p:.2g})"
    )
    verdict = "the place depends on the scheme" if p < LEVEL else "no dependence is shown"
    return f"{name.capitalize()}: {verdict}; {span}."


def _adjusted(settings: Settings, found: dict[str, Fates]) -> list[float | None]:
    """Return p of the schemes' differences under each optimiser, as one family."""
    raw_P = [scheme_p(scheme_values(one.settled), settings.permutations) for one in found.values()]
    tested = [p for p in raw_P if p is not None]
    adjusted = iter(holm(tested).tolist() if tested else [])
    return [None if p is None else next(adjusted) for p in raw_P]


def _endings(settings: Settings, data: Data, name: str, fates: Fates) -> str:
    total, cells = fates.fate.size, (fates.fate == EDGE).all(axis=2)
    fitted = (fates.fate == BELOW) & (fates.loss - data["floor"] < settings.fitted)
    return (
        f"{name.capitalize()}: {fates.count(EDGE)} of {total} runs end at the edge ("
        f"{int(cells.sum())} of {cells.size} pairs of scheme and rate with every seed), "
        f"{fates.count(LEFT)} left it, {fates.count(BELOW)} stay below it "
        f"({int(fitted.sum())} of these have fitted the batch); untrained: "
        f"{fates.count(UNTRAINED)}."
    )


def _beginnings(settings: Settings, name: str, fates: Fates) -> str:
    means_CL = nan_mean(fates.start)
    if not np.isfinite(means_CL).any():
        return f"{name.capitalize()}: nothing was measured at step 0."
    low, high = (
        np.unravel_index(int(place), means_CL.shape)
        for place in (np.nanargmin(means_CL), np.nanargmax(means_CL))
    )
    is_above, is_down = above_and_down(settings, fates)
    rates = dict(settings.optimisers)[name]  # type: ignore[index]
    sentence = (
        f"{name.capitalize()}: at step 0 the {OPTIMISERS[name].curvature} is from "
        f"{means_CL[low]:.2g} ({settings.schemes[low[0]]} at {rates[low[1]]:g}) to "
        f"{means_CL[high]:.2g} ({settings.schemes[high[0]]} at {rates[high[1]]:g}) times the "
        f"threshold; {int(is_above.sum())} of {is_above.size} runs begin above it"
    )
    if not is_above.any():
        return f"{sentence}."
    lost = int((is_above & (fates.fate == UNTRAINED)).sum())
    schemes = [
        scheme for scheme, some in zip(settings.schemes, is_above.any((1, 2)), strict=True) if some
    ]
    which = "all schemes" if len(schemes) == len(settings.schemes) else ", ".join(schemes)
    return (
        f"{sentence} ({which}): {int(is_down.sum())} of them come down to at most "
        f"{settings.down:g} times the threshold; untrained: {lost}."
    )


def above_and_down(settings: Settings, fates: Fates) -> tuple[Mask, Mask]:
    """Return which runs begin above the threshold, and which of these come down, (C, L, S)."""
    is_above = np.nan_to_num(fates.start, nan=0.0) > 1
    # Untrained runs have no median of their last steps.
    is_low = np.nan_to_num(fates.tail, nan=math.inf) <= settings.down
    return is_above, is_above & is_low


def _checks(settings: Settings, name: str, fates: Fates) -> list[Check]:
    optimiser, values_S = OPTIMISERS[name], settled_by_seed(fates)
    what = f"{name}: {optimiser.curvature} over {optimiser.threshold}, settled"
    of = "the medians over schemes and rates at the edge, mean of the seeds"
    if values_S.size:
        place = near(what, mean_of(values_S), 1.0, percent=settings.percent, of=of, theory=1.0)
    else:
        place = not_run(what, "no run is at the edge at its end", 1.0)
    share = _share_by_seed(fates.fate == EDGE, np.ones(fates.fate.shape, bool))
    checks = [
        place,
        at_least(f"{name}: runs that end at the edge", share, 0.5, of="the share, by seed"),
    ]
    is_above, is_down = above_and_down(settings, fates)
    what = f"{name}: runs that begin above the threshold and come down"
    if is_above.any():
        came = _share_by_seed(is_down, is_above)
        checks.append(at_least(what, came, 0.9, of="the share, by seed"))
    else:
        checks.append(not_run(what, "no run begins above it", 0.9))
    means_C = nan_mean(scheme_values(fates.settled))
    if np.isfinite(means_C).sum() > 1:
        span = float(np.nanmax(means_C) - np.nanmin(means_C))
        note = "between the schemes that settle lowest and highest, at equal rates"
        checks.append(
            stated(f"{name}: span of the schemes", Mean(span), note, of="", unit="thresholds")
        )
    return checks


def _share_by_seed(some: Mask, of: Mask) -> Mean:
    """Return the share of runs, and its standard error over the seeds that have any."""
    counts_S = of.sum((0, 1))
    return mean_of(some.sum((0, 1))[counts_S > 0] / counts_S[counts_S > 0])


def _tables(settings: Settings, data: Data, found: dict[str, Fates]) -> list[Table]:
    tables: list[Table] = []
    for name, rates in settings.optimisers:
        fates = found[name]
        caption = (
            f"{name.capitalize()}: {OPTIMISERS[name].curvature} over {OPTIMISERS[name].threshold}, "
            "at step 0 (mean of the seeds) and where it ends (mean and 95 % interval of the seeds "
            f"at the edge, or what became of the runs); loss at the end, floor {data['floor']:.3f}"
        )
        head = ["scheme", *(f"{rate:g}" for rate in rates), "all rates", "loss"]
        rows = []
        for place, scheme in enumerate(settings.schemes):
            cells = [_cell(fates, place, rate) for rate in range(len(rates))]
            by_seed_S = nan_mean(fates.settled[place], axis=0)
            whole = _in_words(by_seed_S[np.isfinite(by_seed_S)])
            losses = " / ".join(f"{x:.3f}" for x in nan_mean(fates.loss[place]))
            rows.append([scheme, *cells, whole, losses])
        tables.append((caption, head, rows))
    dropped = sum(data["runs"][name]["dropped"] for name in found)
    measured = sum(fates.ratio.size for fates in found.values())
    counts: Sequence[str] = (f"{dropped:,}", f"{measured:,}", f"{settings.residual:g}")
    head = ["left out", "of", "residual over"]
    tables.append(("Measured values that do not count", head, [list(counts)]))
    return tables


def _cell(fates: Fates, place: int, rate: int) -> str:
    start = nan_mean(fates.start[place, rate])
    settled_S, fate_S = fates.settled[place, rate], fates.fate[place, rate]
    settled_S = settled_S[np.isfinite(settled_S)]
    parts = [f"{_in_words(settled_S)}"] if settled_S.size else []
    parts += [
        f"{int((fate_S == fate).sum())} {fate}"
        for fate in (LEFT, BELOW, UNTRAINED)
        if (fate_S == fate).any()
    ]
    return f"{float(start):.3g} → {', '.join(parts)}"


def _in_words(values_S: Array) -> str:
    if not values_S.size:
        return "–"
    found = interval(values_S)
    if math.isnan(found.low):
        return f"{found.mean:.3f}"
    return f"{found.mean:.3f} (95 % {found.low:.3f} to {found.high:.3f})"
