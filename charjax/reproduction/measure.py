"""Running one row: its config, over several seeds, and the verdict on each of its figures."""

import dataclasses
import datetime
import time
from collections.abc import Callable
from typing import Any

from charjax.config import Config, load_config
from charjax.hardware import machine_facts
from charjax.reproduction.rows import Figure, Ordering, Row
from charjax.statistics import mean_interval
from charjax.training.seeds import Outcome, Quantity, Replicas
from charjax.training.session import Session, open_session, score_split
from charjax.training.state import parameter_count, state_shapes

Result = dict[str, Any]


def row_config(row: Row) -> Config:
    """The configuration of a row, its overrides applied."""
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
      seeds: how many; 0, 1, ... are used. Counting has none, and runs once.
      progress: told steps done and steps in all, over all seeds.
      poll: called often; may raise to stop.

    Returns:
      What results.json holds of it: see `result_of`.
    """
    session = open_session(row_config(row))
    began = time.perf_counter()
    if session.model.fitted:
        outcomes, at_once = [_counted(session, wanted(row), poll)], 1
    else:
        plan = Replicas.plan(session, tuple(range(seeds)))
        total, done = session.config.train.steps * seeds, 0

        def told(steps: int) -> None:
            nonlocal done
            done += steps * min(plan.at_once, seeds)
            progress(min(done, total), total)

        groups = plan.train(wanted(row), told, poll)
        outcomes, at_once = [outcome for group in groups for outcome in group], plan.at_once
    seconds = time.perf_counter() - began
    return result_of(row, outcomes, session, at_once, seconds)


def wanted(row: Row) -> frozenset[Quantity]:
    """The losses that a row's figures and its report are about."""
    return frozenset([figure.quantity for figure in row.figures] + list(row.shown))


def _counted(
    session: Session, quantities: frozenset[Quantity], poll: Callable[[], None]
) -> Outcome:
    """A family that counts: one fit, no seed."""
    variables = session.model.fit(session.dataset.splits["train"])
    losses: dict[str, float] = {}
    for name in sorted(quantities):
        losses[name] = score_split(session, session.dataset.splits[name], variables, poll).loss
    return Outcome(0, losses, (), 1, 0, False)


def result_of(
    row: Row, outcomes: list[Outcome], session: Session, at_once: int, seconds: float
) -> Result:
    """A row's result as plain data: what was run, every seed's losses, and the verdicts."""
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
    """Mean, standard deviation and Student's 95 % interval of the mean (null for one value)."""
    found = mean_interval(values)
    ends = None if found.low is None else [found.low, found.high]
    return {"n": found.n, "mean": found.mean, "std": found.std, "ci95": ends}


def judge(figure: Figure, outcomes: list[Outcome], diverged: bool) -> dict[str, Any]:
    """A figure, what was measured, and the verdict.

    "reproduced": the mean of the seeds lies within the tolerance; "better": below it, where that
    is allowed; "reached" and "missed" are said of a target.
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
    difference = mean - figure.value
    above = difference > figure.above
    if figure.mark == "target":
        return "missed" if above else "reached"
    if above or (figure.below is not None and difference < -figure.below):
        return "out of tolerance"
    return "better" if figure.below is None and difference < 0 else "reproduced"


def compare(order: Ordering, results: dict[str, Result]) -> dict[str, Any]:
    """An order of two rows, by the differences of their first figures, seed by seed.

    Seed k has the same batches in both rows, so the differences are paired; the order holds if
    Student's 95 % interval of their mean lies above 0.
    """
    worse, better = (
        {run["seed"]: run["losses"][result["figures"][0]["quantity"]] for run in result["runs"]}
        for result in (results[order.worse], results[order.better])
    )
    both = sorted(worse.keys() & better.keys())
    told = summary([worse[seed] - better[seed] for seed in both])
    if told["ci95"] is None:
        verdict = "needs two seeds"
    else:
        verdict = "holds" if told["ci95"][0] > 0 else "does not hold"
    return {**dataclasses.asdict(order), "difference": told, "verdict": verdict}


FAILURES = ("out of tolerance", "missed", "diverged", "does not hold")


def failures(results: list[Result], orders: list[dict[str, Any]]) -> list[str]:
    """The names of the rows and orders that make the exit status 1."""
    rows = [r["name"] for r in results if any(f["verdict"] in FAILURES for f in r["figures"])]
    pairs = [f"{o['worse']} > {o['better']}" for o in orders if o["verdict"] in FAILURES]
    return rows + pairs
