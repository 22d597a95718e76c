"""Row 11: steps that are not finite. Row 13: best and latest checkpoint, for any metric.

Every run is a process of its own; the losses, gradients and scores that it shall meet are put into
it before its first line (hooks.py).
"""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from charjax.run.checkpoint import Checkpoints
from tests.commands import tiny
from tests.faults.crafting import newest, read_record
from tests.faults.histories import Lab, story
from tests.faults.processes import Process

TEXT = "the cat sat on a mat and then ran off\n" * 40
FAMILIES = ("bigram", "mlp", "gru", "transformer")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


def train(lab: Lab, hook: Sequence[object], text: Path, kind: str, *settings: object) -> Process:
    words = [f"data.path={text}", *tiny(kind), "checkpoint.keep=99"]
    return lab.forks.run("train", *words, *settings, hook=hook)


def metrics(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def leaves(workdir: Path, step: int) -> dict[str, Any]:
    """Return the SHA-256 of the state of a step without its counters."""
    held = read_record(workdir / "checkpoints" / str(step))["leaves"]
    return {name: leaf for name, leaf in held.items() if not name.startswith("counters")}


CASES = [
    (kind, where, value, pieces)
    for kind in FAMILIES
    for where in ("loss", "gradients")
    for value in (math.nan, math.inf, -math.inf)
    for pieces in (1, 2)
]


def test_the_step_is_skipped_and_everything_but_the_counters_stays(
    lab: Lab, text: Path, tmp_path: Path, faults: Any
):
    row = faults(11, "NaN or Inf in the loss or the gradients: skipped", few=1, full=len(CASES))
    for number, (kind, where, value, pieces) in enumerate(row.over(CASES)):
        workdir, bad = tmp_path / str(number), (1, 4, 5)
        with row.case((kind, where, value, pieces)):
            hook = ("poison_steps", where, value, bad)
            options = ["checkpoint.every=1", "eval.every=1", "train.log_every=1", "train.steps=7"]
            pieces_word = f"optim.accumulate_steps={pieces}"
            done = train(lab, hook, text, kind, *options, pieces_word, "--workdir", workdir)
            assert done.status == 0, done.err
            summary_json = json.loads((workdir / "summary.json").read_text())
            assert summary_json["skipped"] == len(bad)
            lines = {(line["step"], line["split"]): line for line in metrics(workdir)}
            for step in range(2, 8):
                same = leaves(workdir, step - 1) == leaves(workdir, step)
                assert same == (step in bad), step
            for step in range(1, 8):
                skipped = lines[step, "train"].get("skipped", 0)
                assert skipped == (step in bad), step
            # Nothing was better after a skipped step, so none was saved as the best.
            records = {s: read_record(workdir / "checkpoints" / str(s)) for s in range(1, 8)}
            assert not any(records[step]["best"] for step in bad if step > 1)
            story(workdir)


@pytest.mark.slow
def test_after_the_bound_the_run_stops_and_its_counter_survives(
    lab: Lab, text: Path, tmp_path: Path, faults: Any
):
    cases = [
        (k, w, v) for k in FAMILIES for w in ("loss", "gradients") for v in (math.nan, math.inf)
    ]
    row = faults(11, "after the bound the run stops, resumed or not", few=1, full=len(cases))
    for number, (kind, where, value) in enumerate(row.over(cases)):
        workdir = tmp_path / str(number)
        with row.case((kind, where, value)):
            hook = ("poison_steps", where, value, list(range(6, 1000)))
            options = ["train.max_skipped=8", "eval.every=1", "checkpoint.every=1"]
            # Five good steps and three bad ones, a stop, two more, a stop; the bound is at 13.
            done = train(lab, hook, text, kind, *options, "train.steps=8", "--workdir", workdir)
            assert done.status == 0, done.err
            for goal, status, at in ((10, 0, 10), (500, 1, 13), (600, 1, 13)):
                words = ["--workdir", workdir, "--resume", f"train.steps={goal}"]
                done = lab.forks.run("train", *words, hook=hook)
                assert done.status == status, (done.out, done.err)
                if status:
                    assert f"error: stopped at step {at}: 8 steps in a row" in done.err
                step = newest(workdir)
                assert step.name == str(at)
            assert leaves(workdir, 5) == leaves(workdir, 13)
            assert not any(
                read_record(workdir / "checkpoints" / str(step))["best"] for step in range(6, 14)
            )
            story(workdir)
            done = lab.forks.run("sample", workdir, "--max-new-tokens", 5, "--json")
            assert done.status == 0, done.err


def draw_scores(chance: random.Random, steps: int) -> dict[int, float]:
    """Draw losses by step: falling, rising, constant, erratic, not finite, or a mixture."""
    shape = chance.choice(["falling", "rising", "level", "wild", "broken", "never finite"])
    odd = [math.nan, math.inf, -math.inf]
    draw = {
        "falling": lambda step: 9 - step / steps,
        "rising": lambda step: 1 + step / steps,
        "level": lambda step: 2.0,
        "wild": lambda step: chance.choice([0.0, 0.5, 1.0, 1e30, 1e-30, chance.random()]),
        "broken": lambda step: chance.choice([*odd, chance.random()]),
        "never finite": lambda step: chance.choice(odd),
    }[shape]
    return {step: draw(step) for step in range(1, steps + 1)}


def best_of(scores: dict[int, float], evaluated: list[int]) -> int | None:
    """Return the first step with the lowest finite loss."""
    finite = [step for step in evaluated if math.isfinite(scores[step])]
    return min(finite, key=lambda step: scores[step], default=None)


@pytest.mark.slow
def test_the_best_and_the_latest_are_kept(lab: Lab, text: Path, tmp_path: Path, faults: Any):
    row = faults(13, "best and latest, whatever the metric does", few=1, full=100)
    for number in row:
        chance = random.Random(number)
        workdir, keep = tmp_path / str(number), chance.choice([1, 2, 3])
        scores, every = draw_scores(chance, 30), chance.choice([1, 2, 3])
        stops = sorted(chance.sample(range(3, 31), 3))
        with row.case((number, stops, every, keep)):
            options = [f"eval.every={every}", f"checkpoint.every={chance.choice([1, 2, 5])}"]
            options += [f"checkpoint.keep={keep}", "train.log_every=9"]
            evaluated: list[int] = []
            for index, stop in enumerate(stops):
                where = ["--workdir", workdir, *(["--resume"] if index else [])]
                start = [] if index else [f"data.path={text}", *tiny("bigram"), *options]
                hook = ("script_scores", list(scores.items()))
                done = lab.forks.run("train", *start, f"train.steps={stop}", *where, hook=hook)
                assert done.status == 0, done.err
                last = evaluated[-1] if evaluated else 0
                evaluated += [s for s in range(last + 1, stop) if s % every == 0] + [stop]
                check_kept(workdir, keep, stop, best_of(scores, evaluated))
                story(workdir)


def check_kept(workdir: Path, keep: int, latest: int, best: int | None) -> None:
    store = Checkpoints(workdir / "checkpoints")
    steps = store.steps()
    assert steps[-1] == latest
    assert store.best_step() == best
    assert {latest, best} - {None} <= set(steps)
    assert len(steps) <= keep + 1
    for which, step in (("latest", latest), ("best", latest if best is None else best)):
        assert store.read_meta(which)["progress"]["events_done"] == step
    summary_json = json.loads((workdir / "summary.json").read_text())
    assert summary_json["best_step"] == best
