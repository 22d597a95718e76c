"""Seconds until the training command reaches a published validation loss on Tiny Shakespeare.

    python -m benchmarks.time_to_quality [--devices cpu,gpu] [--quick] [--out FILE.json]

`python -m charjax.train CONFIG`, from its start (imports and loading included) until a validation
loss at or below the goal is in metrics.jsonl, with the protocol of the config and a compile cache
that an earlier start has filled. nanoGPT's goals: 1.4697 for its 10.65M model (README, one A100,
about 3 minutes), 1.88 for its small model on a laptop (README, about 3 minutes; here from flax's
default initialisation). On a CPU the goal of a GRU of 0.8M parameters is 1.4697, evaluated exactly
over the whole validation split; a GRU beside counts has it, too, and 1.52, about what counts of
6-grams reach alone (1.5226). A goal that is not reached in the time of one device is left out,
with the best loss.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import Benchmark, start
from benchmarks.recording import Line, Recording, record
from benchmarks.section import Section, TooLate
from charjax.performance.failures import LeftOut
from charjax.performance.show import Column, Row, spread
from charjax.performance.timing import summary


class Goal(NamedTuple):
    """A validation loss to be reached by training.

    Attributes:
      config: the configuration that is trained.
      loss: in nats per character.
      overrides: settings on top of the configuration.
      seconds: limit of one run.
      repeats: seeds.
    """

    config: str
    loss: float
    overrides: tuple[str, ...] = ()
    seconds: float = 100.0
    repeats: int = 1


# Few steps, on contiguous windows with a carried state; the schedule ends with the last step.
_SOON = (
    "runtime.dtype=bfloat16",
    "data.sampling=contiguous",
    "train.batch_size=32",
    "train.steps=1200",
    "optim.learning_rate=5e-3",
    "optim.schedule=cosine",
    "optim.warmup_steps=50",
    "optim.decay_steps=1200",
    "eval.every=100",
)
# Schedules as long as the goals need, chosen on a part of the training split.
_COUNTED = ("train.steps=30", "optim.warmup_steps=6", "eval.every=30")
_AT_ONCE = ("train.steps=8", "optim.warmup_steps=2", "eval.every=8")
GOALS = {
    "gpu": (Goal("nanogpt-char", 1.4697, repeats=3),),
    "cpu": (
        Goal("shakespeare-mixture", 1.4697, _COUNTED, repeats=3),
        Goal("shakespeare-mixture", 1.52, _AT_ONCE, repeats=3),
        Goal("shakespeare-gru", 1.4697, _SOON, seconds=200.0),
        # With GPT-2's initialisation it ends at 1.90, evaluated exactly.
        Goal("nanogpt-cpu", 1.88, ("init.scheme=default", "eval.every=100"), seconds=110.0),
    ),
}
_QUICK = (Goal("shakespeare-bigram", 2.6, ("eval.every=500",), seconds=20.0),)


def measure(section: Section) -> None:
    """Measure every goal, seed by seed."""
    for goal in _QUICK if section.quick else GOALS[section.device]:
        name = f"{goal.config} to {goal.loss}"
        if section.wants(name):
            with section.attempt(name):
                _measure(section, name, goal)


def _measure(section: Section, name: str, goal: Goal) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        # The first evaluation, whose program is then in the cache, too, is soon reached where there
        # is time for several runs.
        first = "val" if goal.repeats > 1 else "train"
        _train(section, goal, 0, cache, lambda line: line["split"] == first)
        runs: list[Recording] = []
        for seed in range(goal.repeats):
            if runs and section.late():
                break
            runs.append(_train(section, goal, seed, cache, lambda line: _reached(line, goal)))
    curves = [[line for line in run.lines if line.metrics["split"] == "val"] for run in runs]
    if not all(run.complete for run in runs):
        losses = [line.metrics["loss"] for curve in curves for line in curve]
        best = f"{min(losses):.4f}" if losses else "none measured"
        why = f"not reached in the time left; the best loss was {best}"
        raise (TooLate if section.left() < goal.seconds else LeftOut)(why)
    last: list[Line] = [run.lines[-1] for run in runs]
    section.add(
        name,
        unit="s",
        config=goal.config,
        overrides=list(goal.overrides),
        goal=goal.loss,
        losses=[line.metrics["loss"] for line in last],
        steps=[line.metrics["step"] for line in last],
        first_step_seconds=[run.lines[0].seconds for run in runs],
        curves=[
            [(line.seconds, line.metrics["step"], line.metrics["loss"]) for line in curve]
            for curve in curves
        ],
        **summary([line.seconds for line in last]),
    )


def _train(section: Section, goal: Goal, seed: int, cache: Path, until: Any) -> Recording:
    arguments = [goal.config, *goal.overrides, f"train.seed={seed}"]
    return record(section, arguments, until, cache, min(goal.seconds, section.left()))


def _reached(line: dict[str, Any], goal: Goal) -> bool:
    return line["split"] == "val" and line["loss"] is not None and line["loss"] <= goal.loss


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("seconds", spread),
    ("until the first step", lambda row: f"{min(row['first_step_seconds']):.1f} s"),
    ("steps", lambda row: ", ".join(map(str, row["steps"]))),
    ("loss", lambda row: ", ".join(f"{loss:.4f}" for loss in row["losses"])),
)


def draw(axes: Any, rows: list[Row]) -> None:
    """Draw the validation loss by the seconds since the start."""
    for row in rows:
        for seed, curve in enumerate(row["curves"]):
            label = f"{row['device']} {row['name']}" if seed == 0 else None
            axes.plot([p[0] for p in curve], [p[2] for p in curve], "o-", label=label)
        axes.axhline(row["goal"], color="black", linewidth=0.8)
    axes.set(xlabel="seconds since the command was started", ylabel="validation loss, nats")


BENCHMARK = Benchmark(
    name="time_to_quality",
    title="time to a validation loss",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
    has_roofline=False,
    environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
)

if __name__ == "__main__":
    start(BENCHMARK)
