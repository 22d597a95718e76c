"""One page about one or several runs: `charjax report`."""

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from charjax import __version__, files
from charjax.errors import printable
from charjax.pages import parts
from charjax.pages.curves import MOST_POINTS, curves
from charjax.pages.facts import (
    SCORE_HEAD,
    Facts,
    machine_rows,
    read_facts,
    reproducing,
    samples,
    score_cells,
    setting_rows,
)
from charjax.pages.texts import Studied, study
from charjax.pages.words import headline, show_character, show_prediction
from charjax.units import bits_per_character

# Hues of runs; more of them have dashed lines.
COLOURS = 8
# Upper ends of the colours of the passage, nats.
LEVELS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

_SCRIPTS = (
    "templates/common.js",
    "vendor/uPlot.iife.min.js",
    "templates/curves.js",
    "templates/passage.js",
    "templates/start.js",
)


def write_report(
    directories: Sequence[Path],
    out: Path | None = None,
    *,
    quick: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write a page about runs, finished or not; nothing is locked, and it is replaced in one move.

    Args:
      directories: of the runs, at least one.
      out: the page's file; by default report.html in the run's directory, or, of several runs, in
        the current one.
      quick: leave out what needs the text or the model: counts and the held-out passage.
      note: called with each line about what takes time.

    Returns:
      the page's path.

    Raises:
      UserError: an unknown run, one given twice, or `out` is a directory, or in none.
    """
    facts = read_facts(list(directories))
    default = directories[0] if len(directories) == 1 else Path()
    out = default / "report.html" if out is None else out
    parts.check_out(out)
    studied = [Studied() for _ in facts] if quick else study(facts, note)
    files.replace(out, document(facts, studied))
    return out


def document(facts: list[Facts], studied: list[Studied]) -> str:
    """Return the page."""
    names = [run.name for run in facts]
    machines = [machine_rows(run) for run in facts]
    rows = list(dict.fromkeys(key for machine in machines for key in machine))
    return parts.render(
        "report.html.j2",
        styles=("vendor/uPlot.min.css", "templates/report.css"),
        scripts=_SCRIPTS,
        title=names[0] if len(names) == 1 else f"{len(names)} runs",
        runs=[_shown(place, run) for place, run in enumerate(facts)],
        headlines=headline(facts, studied),
        notes=_notes(facts, studied),
        score_head=SCORE_HEAD,
        thinned=_thinned(facts),
        has_averages=any(line["split"] == "val_trained" for run in facts for line in run.lines),
        settings=setting_rows(facts),
        samples=[samples(run.directory) for run in facts],
        passages=[_passage(found) for found in studied],
        levels=LEVELS,
        machine=[(key, *_beside([one.get(key, "–") for one in machines])) for key in rows],
        command="charjax report " + " ".join(shlex.quote(str(run.directory)) for run in facts),
        version=__version__,
        data=_data(facts, studied),
    )


def _shown(place: int, facts: Facts) -> dict[str, Any]:
    return {
        "name": facts.name,
        "path": str(facts.directory),
        "hue": place % COLOURS,
        "dashed": place >= COLOURS,
        "scores": score_cells(facts),
        "reproduce": reproducing(facts),
        "config": facts.config.to_toml(),
    }


def _beside(values: list[str]) -> tuple[list[str], bool]:
    """Return the values, and whether they differ between runs."""
    return values, len(set(values)) > 1


def _notes(facts: list[Facts], studied: list[Studied]) -> list[str]:
    """Return what is missing on the page and why, and what cannot be compared."""
    notes = []
    for run, found in zip(facts, studied, strict=True):
        if run.unreadable:
            notes.append(f"{run.name}: {run.unreadable}")
        notes += [f"{run.name}: {text}" for text in found.missing]
        if not run.lines:
            notes.append(f"{run.name}: nothing has been logged yet")
    keys = {found.key for found in studied}
    if len(keys) > 1:
        notes.append(
            "these runs are not all of one text, split and alphabet: losses per character are "
            "comparable only between runs of the same split"
        )
    return notes


def _thinned(facts: list[Facts]) -> str:
    """Describe how long curves were made short; "" where all lines are drawn."""
    counts = [sum(line["split"] == "train" for line in run.lines) for run in facts]
    longest = max(counts, default=0)
    if longest <= MOST_POINTS:
        return ""
    return (
        f"Curves of more than {MOST_POINTS:,} lines (here up to {longest:,}) are drawn as "
        f"{MOST_POINTS:,} points: each is the mean of consecutive lines, and the band around it "
        "reaches from their lowest to their highest value, so that no extreme is lost."
    )


def _passage(found: Studied) -> dict[str, Any]:
    return {
        "characters": [
            {"text": show_character(one.text), "level": _level(one.loss)} for one in found.passage
        ],
        "step": found.step,
        "where": found.where,
        "missing": "; ".join(found.missing) or "left out (--quick)",
    }


def _level(loss: float) -> int | None:
    """Return the place of the colour of a loss; None for a character without one."""
    return None if math.isnan(loss) else sum(loss >= end for end in LEVELS)


def _data(facts: list[Facts], studied: list[Studied]) -> dict[str, Any]:
    """Return what the page's script reads."""
    return {
        "runs": [
            {
                "name": printable(run.name),
                "hue": place % COLOURS,
                "dashed": place >= COLOURS,
                "best": best and {"step": best["step"], "loss": best["loss"]},
                "curves": curves(run.lines),
                "text": len({one.key for one in studied[:place]} - {studied[place].key}),
            }
            for place, run in enumerate(facts)
            for best in [run.best]
        ],
        "references": _references(facts, studied),
        "levels": LEVELS,
        "passages": [
            {
                "text": [printable(show_character(one.text)) for one in found.passage],
                "size": [len(one.text) for one in found.passage],
                "loss": [_rounded(one.loss) for one in found.passage],
                "top": [
                    [[show_prediction(text), _rounded(share)] for text, share in one.predictions]
                    for one in found.passage
                ],
            }
            for found in studied
        ],
    }


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _references(facts: list[Facts], studied: list[Studied]) -> list[dict[str, Any]]:
    """Return the horizontal lines, one for each text and kind, and the runs they belong to."""
    groups: dict[str, list[int]] = {}
    for place, found in enumerate(studied):
        groups.setdefault(found.key, []).append(place)
    lines = []
    for places in groups.values():
        first = studied[places[0]]
        whose = ", ".join(facts[place].name for place in places) if len(groups) > 1 else ""
        for kind, (label, loss) in enumerate(first.lines().items()):
            lines.append(
                {
                    "kind": kind,
                    "label": label,
                    "whose": printable(whose),
                    "runs": places,
                    "loss": _rounded(loss),
                    "bits": _rounded(bits_per_character(loss)),
                }
            )
    return lines
