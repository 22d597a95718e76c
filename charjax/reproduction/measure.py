"""The measurement of a row: its config, trained with several seeds, and a verdict per figure."""

import dataclasses
import datetime
import time
from collections.abc import Callable
from typing import Any

from charjax.config import Config, load_config
from charjax.hardware import machine_facts
from charjax.reproduction.checks import FAILURES, is_within
from charjax.reproduction.rows import Figure, Ordering, Row
from charjax.statistics import mean_interval
from charjax.training.seeds import Outcome, Quantity, Replicas
from charjax.training.session import Session, open_session
from charjax.training.state import parameter_count, state_shapes
from charjax.training.validation import score_split

Result = dict[str, Any]


def row_config(row: Row) -> Config:
    """Return the configuration of a row, its overrides applied."""
    return load_config(row.config, list(row.overrides))


def run_row(
    row: Row,
    seeds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    poll: Callable[[], None] = lambda: None,
) -> Result:
    """Measure a row.

    Args:
      row: what to run.
      seeds: how many; 0, 1, ... are used. Counts have no seed, and are made once.
      progress: called with steps done and steps in all, over all seeds.
      poll: called often; may raise to stop.

    Returns:
      Its entry of results.json: see `result_of`.
    """
    session = open_session(row_config(row))
    began = time.perf_counter()
    if session.model.fitted:
        outcomes, at_once = [_counted(session, wanted(row), poll)], 1
    else:
        plan = Replicas.plan(session, tuple(range(seeds)))
        total, done = session.config.train.steps * seeds, 0

        def add_steps(steps: int) -> None:
            nonlocal done
            done += steps * min(plan.at_once, seeds)
            progress(min(done, total), total)

        groups = plan.train(wanted(row), add_steps, poll)
        outcomes, at_once = [outcome for group in groups for outcome in group], plan.at_once
    seconds = time.perf_counter() - began
    return result_of(row, outcomes, session, at_once, seconds)


def wanted(row: Row) -> frozenset[Quantity]:
    """Return the losses that a row's figures and its table need."""
    return frozenset([figure.quantity for figure in row.figures] + list(row.shown))


def _counted(
    session: Session, quantities: frozenset[Quantity], poll: Callable[[], None]
) -> Outcome:
    """Fit a family that counts: once, without a seed."""
    variables = session.model.fit(session.dataset.splits["train"])
    losses: dict[str, float] = {}
    for name in sorted(quantities):
        losses[name] = score_split(session, session.dataset.splits[name], variables, poll).loss
    return Outcome(0, losses, (), 1, 0, False)


def result_of(
    row: Row, outcomes: list[Outcome], session: Session, at_once: int, seconds: float
) -> Result:
    """Return a result as plain data: what was run, the losses of every seed, and the verdicts."""
    config = session.config
    diverged = any(outcome.diverged for outcome in outcomes)
    return {
        "name": row.name,
        "title": row.title,
        "text": row.text,
        "config": row.config,
        "overrides": list(row.overrides),
        "command": f"python -m charjax.reproduce --only {row.name} --seeds {len(outcomes)}",
        "config_digest": config.digest(),
        "params": None if session.model.fitted else _parameters(session),
        "steps": 1 if session.model.fitted else config.train.steps,
        "figures": [judge(figure, outcomes, diverged) for figure in row.figures],
        "shown": {name: summary([o.losses[name] for o in outcomes]) for name in row.shown},
        "runs": [_run(outcome) for outcome in outcomes],
        "at_once": at_once,
        "seconds": round(seconds, 1),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": machine_facts(),
    }


def _parameters(session: Session) -> int:
    return parameter_count(state_shapes(session.model, session.config).params)


def _run(outcome: Outcome) -> dict[str, Any]:
    tree = dataclasses.asdict(outcome)
    tree["curve"] = [list(point) for point in outcome.curve]
    return tree


def summary(values: list[float]) -> dict[str, Any]:
    """Return mean, standard deviation and Student's 95 % interval of the mean (None for one)."""
    found = mean_interval(values)
    ends = None if found.low is None else [found.low, found.high]
    return {"n": found.n, "mean": found.mean, "std": found.std, "ci95": ends}


def judge(figure: Figure, outcomes: list[Outcome], diverged: bool) -> dict[str, Any]:
    """Return a figure, what was measured, and the verdict.

    "reproduced": the mean of the seeds lies within the tolerance; "better": below it, where that
    is allowed; "reached" and "missed" are the verdicts on a target.
    """
    measured = summary([outcome.losses[figure.quantity] for outcome in outcomes])
    return {
        **dataclasses.asdict(figure),
        "measured": measured,
        "verdict": "diverged" if diverged else _verdict(figure, measured["mean"]),
    }


def _verdict(figure: Figure, mean: float) -> str:
    if figure.value is None:
        return "no published figure"
    met = is_within(mean, figure.value, figure.above, figure.below)
    if figure.mark == "target":
        return "reached" if met else "missed"
    if not met:
        return "out of tolerance"
    return "better" if figure.below is None and mean < figure.value else "reproduced"


def compare(ordering: Ordering, results: dict[str, Result]) -> dict[str, Any]:
    """Judge an ordering of two rows by the differences of their first figures, seed by seed.

    Seed k has the same batches in both rows, so the differences are paired; the ordering holds if
    Student's 95 % interval of their mean lies above 0.
    """
    worse, better = (
        {run["seed"]: run["losses"][result["figures"][0]["quantity"]] for run in result["runs"]}
        for result in (results[ordering.worse], results[ordering.better])
    )
    both = sorted(worse.keys() & better.keys())
    difference = summary([worse[seed] - better[seed] for seed in both])
    if difference["ci95"] is None:
        verdict = "needs two seeds"
    else:
        verdict = "holds" if difference["ci95"][0] > 0 else "does not hold"
    return {**dataclasses.asdict(ordering), "difference": difference, "verdict": verdict}


def failures(results: list[Result], orderings: list[dict[str, Any]]) -> list[str]:
    """Return the names of the rows and orderings that make the exit status 1."""
    rows = [r["name"] for r in results if any(f["verdict"] in FAILURES for f in r["figures"])]
    pairs = [f"{o['worse']} > {o['better']}" for o in orderings if o["verdict"] in FAILURES]
    return rows + pairs
