"""Sentences, checks and tables from the losses of the study of learning-rate transfer."""

import math

import numpy as np
from numpy.typing import NDArray

from charjax.initlab.studies.study import Conclusion, Data, Table
from charjax.initlab.studies.transfer_settings import MUP, OCTAVES, STANDARD, Settings
from charjax.initlab.studies.transfer_statistics import Drift, Estimate, drift_of
from charjax.reproduction.checks import Check, Mean, at_most, stated

# By optimiser and parametrisation.
Drifts = dict[tuple[str, str], Drift]


def conclude(settings: Settings, data: Data) -> Conclusion:
    """Return the conclusion; `data` is that of `measure`."""
    losses = losses_of(settings, data)
    drifts = drifts_of(settings, losses)
    return Conclusion(_answer(settings, drifts), _checks(settings, drifts), _tables(settings, data))


def losses_of(settings: Settings, data: Data) -> list[NDArray[np.float64]]:
    """Return the losses of each grid, (W, L, S); inf where a run diverged."""
    arrays = [np.array(rows, np.float64) for rows in data["losses"]]
    return [np.where(np.isfinite(losses_WLS), losses_WLS, np.inf) for losses_WLS in arrays]


def drifts_of(settings: Settings, losses: list[NDArray[np.float64]]) -> Drifts:
    """Return the drift of each grid."""
    return {
        (optimiser, parametrisation): drift_of(np.array(exponents), settings.widths, losses_WLS)
        for (optimiser, parametrisation, exponents), losses_WLS in zip(
            settings.grids, losses, strict=True
        )
    }


def verdict(octaves: Estimate) -> str:
    """Return `transfers`, `does not transfer` or `undecided`, by the whole interval."""
    if not octaves.has_interval:
        return "undecided"
    if max(abs(octaves.low), abs(octaves.high)) <= OCTAVES:
        return "transfers"
    beyond = octaves.low > OCTAVES or octaves.high < -OCTAVES
    return "does not transfer" if beyond else "undecided"


def in_words(estimate: Estimate, digits: int = 2) -> str:
    """Return a number with its sign and its interval."""
    if not math.isfinite(estimate.value):
        return "not available"
    value = f"{estimate.value:+.{digits}f}"
    if not estimate.has_interval:
        return f"{value} (no interval)"
    return f"{value} ({estimate.low:+.{digits}f} to {estimate.high:+.{digits}f})"


def _answer(settings: Settings, drifts: Drifts) -> list[str]:
    return [
        _first(settings, drifts),
        *_moves(settings, drifts),
        *_costs(drifts),
        *_bounds(settings, drifts),
    ]


def _first(settings: Settings, drifts: Drifts) -> str:
    found: dict[str, list[str]] = {}
    for (optimiser, parametrisation), drift in drifts.items():
        if parametrisation == MUP:
            found.setdefault(verdict(drift.octaves), []).append(
                f"{optimiser} ({_octaves(drift.octaves)})"
            )
    openings = {
        "transfers": "it transfers under",
        "does not transfer": "it does not transfer under",
        "undecided": "it is undecided under",
    }
    parts = [f"{text} {_listed(found[key])}" for key, text in openings.items() if key in found]
    return (
        f"The best learning rate of muP over {settings.times} times the width, in octaves with "
        f"95 % intervals: {'; '.join(parts)}."
    )


def _octaves(octaves: Estimate) -> str:
    if not math.isfinite(octaves.value):
        return "the best rate is at an edge of the grid, or there is none"
    return in_words(octaves)


def _moves(settings: Settings, drifts: Drifts) -> list[str]:
    standard = [
        f"{optimiser} {in_words(drift.octaves)}"
        for (optimiser, parametrisation), drift in drifts.items()
        if parametrisation == STANDARD
    ]
    per_octave = [
        f"{optimiser} {in_words(drift.slope)}"
        for (optimiser, parametrisation), drift in drifts.items()
        if parametrisation == MUP
    ]
    found = [
        f"Over all {len(settings.widths)} widths it moves by so many octaves per octave of width: "
        f"{_listed(per_octave)}."
    ]
    if standard:
        found.append(f"In the standard parametrisation the drift is: {_listed(standard)} octaves.")
    return found


def _costs(drifts: Drifts) -> list[str]:
    found = []
    for parametrisation in (MUP, STANDARD):
        costs = [
            f"{optimiser} {in_words(drift.lost, 3) if not _diverges(drift) else 'the run diverges'}"
            for (optimiser, other), drift in drifts.items()
            if other == parametrisation
        ]
        if costs:
            found.append(
                "The widest network, trained at the narrowest's best rate, loses so many nats per "
                f"character ({parametrisation}): {_listed(costs)}."
            )
    return found


def _diverges(drift: Drift) -> bool:
    return math.isinf(drift.lost.value)


def _bounds(settings: Settings, drifts: Drifts) -> list[str]:
    found = [
        f"{optimiser}, {parametrisation}, width {width}: the best rate is {place}."
        for (optimiser, parametrisation), drift in drifts.items()
        for width, place in zip(settings.widths, drift.places_W, strict=True)
        if place
    ]
    return found or ["Every best rate lies within its grid."]


def _checks(settings: Settings, drifts: Drifts) -> list[Check]:
    of = f"best rates of the mean loss of {settings.seeds} seeds"
    what = f"drift of the best rate over {settings.times} x the width"
    checks: list[Check] = []
    for (optimiser, parametrisation), drift in drifts.items():
        name = f"{optimiser}, {parametrisation}"
        interval = f"95 %: {in_words(drift.octaves)}{_note(drift)}"
        measured = _mean(drift.octaves, settings.seeds)
        if parametrisation == MUP:
            size = measured._replace(value=abs(measured.value))
            details = {"of": of, "unit": "octaves", "note": interval}
            checks.append(at_most(f"{name}: size of the {what}", size, OCTAVES, **details))
        else:
            checks.append(stated(f"{name}: {what}", measured, interval, of=of, unit="octaves"))
        checks += [
            stated(
                f"{name}: octaves of the best rate per octave of width",
                _mean(drift.slope, settings.seeds),
                f"95 %: {in_words(drift.slope)}; {len(settings.widths)} widths",
                of=of,
            ),
            stated(
                f"{name}: loss lost by the widest at the narrowest's best rate",
                _mean(drift.lost, settings.seeds),
                "the run diverges" if _diverges(drift) else f"95 %: {in_words(drift.lost, 3)}",
                of=f"mean loss of {settings.seeds} seeds",
                unit="nats",
            ),
        ]
    return checks


def _mean(estimate: Estimate, seeds: int) -> Mean:
    error = estimate.error if math.isfinite(estimate.error) else None
    return Mean(estimate.value, seeds, error)


def _note(drift: Drift) -> str:
    return "" if drift.is_bounded else "; the best rate of an end is at the edge, or there is none"


def _tables(settings: Settings, data: Data) -> list[Table]:
    losses = losses_of(settings, data)
    drifts = drifts_of(settings, losses)
    head = ("optimiser", "parametrisation")
    moves = [
        [*key, in_words(drift.octaves), in_words(drift.slope), _cost(drift)]
        for key, drift in drifts.items()
    ]
    places = [
        [*key, str(width), in_words(best), _loss(low), place or "within the grid"]
        for key, drift in drifts.items()
        for width, best, low, place in zip(
            settings.widths, drift.best_W, drift.lowest_W, drift.places_W, strict=True
        )
    ]
    drift_head = (*head, "octaves of drift", "octaves per octave of width", "nats lost")
    place_head = (*head, "width", "log2 of the best rate", "loss there", "place")
    return [
        ("Drift of the best rate, with 95 % intervals over seeds", drift_head, moves),
        ("Best rates, with 95 % intervals over seeds", place_head, places),
        *(_grid(settings, grid, x) for grid, x in zip(settings.grids, losses, strict=True)),
    ]


def _cost(drift: Drift) -> str:
    return "diverges" if _diverges(drift) else in_words(drift.lost, 3)


def _grid(
    settings: Settings,
    grid: tuple[str, str, tuple[float, ...]],
    losses_WLS: NDArray[np.float64],
) -> Table:
    optimiser, parametrisation, exponents = grid
    rows = [
        [str(width), *(_loss(float(losses_S.mean())) for losses_S in losses_LS)]
        for width, losses_LS in zip(settings.widths, losses_WLS, strict=True)
    ]
    caption = f"{optimiser}, {parametrisation}: mean loss of {settings.seeds} seeds by rate"
    return (caption, ("width", *(f"2^{exponent:g}" for exponent in exponents)), rows)


def _loss(loss: float) -> str:
    return f"{loss:.3f}" if math.isfinite(loss) else "diverged"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
