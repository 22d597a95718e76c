"""Rows that take minutes to hours: each seed is a run with checkpoints, which is resumed.

A run is the one that `charjax train CONFIG [setting ...] train.seed=K` makes, in a directory of its
own, and stays there. A signal saves its state; after a crash it goes on from its last checkpoint.
"""

import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from charjax.config import load_config
from charjax.reproduction.measure import Result, result_of, wanted
from charjax.reproduction.rows import LONG, Row
from charjax.run.display import Display
from charjax.run.load import find_run, load_run
from charjax.run.metrics import MetricsFile
from charjax.run.notes import environment
from charjax.run.recorder import Recorder
from charjax.signals import Signals
from charjax.training.seeds import Outcome, Point, Quantity
from charjax.training.session import Session, open_session
from charjax.training.validation import score_split

# Losses that a run measures at its end, or that its best checkpoint gives; by the exact protocol.
MEASURED: frozenset[Quantity] = frozenset(("val", "test", "train"))


def run_row(
    row: Row,
    seeds: int,
    directory: Path,
    signals: Signals,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """Measure a row by one run after the other, or what is missing of them.

    Args:
      row: what to run; its losses are among `MEASURED`.
      seeds: how many; 0, 1, ... are used.
      directory: of the runs.
      signals: entered; the first signal saves the run.
      progress: called with steps done and steps in all, over all seeds.

    Returns:
      Its entry of results.json: see `measure.result_of`. Its time is that of the runs, with that
      before they were resumed.

    Raises:
      Interrupted: a signal came; the state is saved.
    """
    outcomes, seconds = [], 0.0
    for seed in range(seeds):
        config = load_config(row.config, [*row.overrides, f"train.seed={seed}"])
        session, steps = open_session(config), config.train.steps
        report = functools.partial(_report, progress, seed * steps, seeds * steps)
        place = run_directory(directory, row, session, seed)
        outcome, used = _run(session, place, wanted(row), signals, _Progress(report))
        outcomes.append(outcome)
        seconds += used
    result = result_of(row, outcomes, session, 1, seconds)
    return result | {"command": f"{result['command']} --tier {LONG}"}


def _report(progress: Callable[[int, int], None], before: int, total: int, step: int) -> None:
    progress(before + step, total)


def run_directory(directory: Path, row: Row, session: Session, seed: int) -> Path:
    """Return the directory of a seed's run: another one for other settings, machines or versions.

    So a run is only gone on with where its bits are those of an uninterrupted one.
    """
    facts = [session.config.digest(), environment(session)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return directory / f"{row.name}-seed{seed}-{digest[:8]}"


def _run(
    session: Session,
    directory: Path,
    wanted: frozenset[Quantity],
    signals: Signals,
    display: Display,
) -> tuple[Outcome, float]:
    """Train a seed's run to its end, from wherever it is; return its outcome and its seconds."""
    resume = (directory / "config.toml").is_file()
    began = time.perf_counter()
    recorder = Recorder.open(directory, session, display, signals, resume=resume)
    status = 1
    try:
        status = recorder.train()
    finally:
        recorder.close(status)
    signals.poll()
    path = directory / "summary.json"
    if path.exists():
        summary = json.loads(path.read_text(encoding="utf-8"))
        losses = {"val": summary["best_val_loss"], "test": summary["test_loss"]}
    else:
        summary = {"best_step": None, "skipped": session.config.train.max_skipped}
        losses = {}
    for name in sorted(wanted - losses.keys()):
        losses[name] = _best_loss(session, directory, name, signals)
    outcome = Outcome(
        seed=session.config.train.seed,
        losses={name: losses[name] for name in sorted(wanted)},
        curve=curve(MetricsFile(directory / "metrics.jsonl").read()),
        best_step=summary["best_step"] or session.config.train.steps,
        skipped=summary["skipped"],
        # Only then there is no summary.
        diverged=not path.exists(),
    )
    return outcome, summary.get("seconds", time.perf_counter() - began)


def _best_loss(session: Session, directory: Path, name: str, signals: Signals) -> float:
    """Return the exact loss of a run's best checkpoint on a split."""
    run = load_run(find_run(directory, "best"))
    split = session.dataset.splits[name]
    return score_split(session, split, run.variables, signals.poll).loss


def curve(lines: list[dict[str, Any]]) -> tuple[Point, ...]:
    """Return the losses at each evaluation from the lines of metrics.jsonl.

    The training loss is the mean over the steps since the previous evaluation, as far as their
    lines were complete by then.
    """
    points, seen, steps, total = [], 0, 0, 0.0
    for line in lines:
        if line["split"] == "train" and line["loss"] is not None:
            steps += line["step"] - seen
            total += line["loss"] * (line["step"] - seen)
        if line["split"] == "train":
            seen = line["step"]
        elif line["split"] == "val":
            points.append(Point(line["step"], total / steps if steps else 0.0, line["loss"], None))
            steps, total = 0, 0.0
    return tuple(points)


class _Progress(Display):
    """Shows nothing of a run; the steps are reported."""

    def __init__(self, report: Callable[[int], None]):
        super().__init__(Console(quiet=True, force_terminal=False))
        self._report = report

    def steps(self, step: int, rate: float, lines: Sequence[dict[str, Any]]) -> None:
        self._report(step)
