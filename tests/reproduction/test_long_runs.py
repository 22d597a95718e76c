"""Rows of the tier cpu-long: runs with checkpoints, stopped, killed and resumed."""

import json
import os
import signal
import time

import numpy as np
import pytest

from charjax import reproduce
from charjax.reproduction import long_runs, measure, published
from charjax.reproduction.rows import Figure, Row
from tests.commands import run

TOTAL, EVERY = 40, 10
FAST = (
    *("data.split=shuffled_lines", "data.layout=lines", "model.context_length=6"),
    *(f"train.steps={TOTAL}", "train.batch_size=4", "train.sample_every=0"),
    *("train.log_every=2", f"eval.every={EVERY}", f"checkpoint.every={EVERY}"),
)
TIER = ("--tier", "cpu-long")
ONE = (*TIER, "--seeds", 1)


@pytest.fixture
def row(tmp_path, monkeypatch):
    """Return a row on lines of ten equally likely symbols, in no tier but the long one."""
    text = tmp_path / "text.txt"
    rng = np.random.default_rng(0)
    text.write_text("".join("abcdefgh \n"[i] for i in rng.integers(0, 10, 1200)))
    figure = Figure("val", 2.3, "a book", "seen", 0.5, 0.5, "because")
    words = (f"data.path={text}", *FAST)
    made = Row(
        *("long", "a bigram", "Text", "shakespeare-bigram", (figure,), words),
        **{"seeds": 3, "tier": "gpu", "shown": ("test", "train"), "long_seeds": 2},
    )
    other = Row("other", "another", "Text", "shakespeare-bigram", (figure,), words, tier="gpu")
    monkeypatch.setattr(published, "ROWS", (made, other))
    monkeypatch.setattr(reproduce, "ROWS", (made, other))
    monkeypatch.setattr(reproduce, "ORDERINGS", ())
    return made


@pytest.fixture
def reported(monkeypatch):
    """Return the steps as they are reported, and what to call at some of them, once."""
    steps, at = [], {}

    def report(progress, before, total, step):
        steps.append(before + step)
        for due in [due for due in at if before + step >= due]:
            at.pop(due)()
        progress(before + step, total)

    monkeypatch.setattr(long_runs, "_report", report)
    return steps, at


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def crash_once_saved(runs):
    """Raise an error that saves nothing, once the checkpoint of step 30 is written."""
    deadline = time.monotonic() + 60
    while not list(runs.glob("*/checkpoints/30")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    raise MemoryError


def read(directory):
    (found,) = json.loads((directory / "results.json").read_text())["rows"]
    return {key: value for key, value in found.items() if key not in ("seconds", "finished")}


def test_stopped_or_killed_and_resumed_it_has_the_result_of_one_go(row, reported, tmp_path):
    steps, at = reported
    whole = tmp_path / "whole"
    done = run("reproduce", *ONE, "--out", whole)
    assert (done.status, done.err) == (0, "")
    assert steps[-1] == TOTAL
    parts = tmp_path / "parts"
    at |= {15: stop, 35: lambda: crash_once_saved(parts / "runs")}
    steps.clear()
    stopped = run("reproduce", *ONE, "--out", parts)
    assert stopped.status == 143
    assert "finished rows and the run under way are kept" in stopped.err
    assert f"--tier cpu-long --seeds 1 --out {parts} --resume" in stopped.err
    assert json.loads((parts / "results.json").read_text())["rows"] == []
    last = steps[-1]
    steps.clear()
    with pytest.raises(MemoryError):
        run("reproduce", *ONE, "--out", parts, "--resume")
    # A signal loses no step.
    assert steps[0] > last
    steps.clear()
    assert run("reproduce", *ONE, "--out", parts, "--resume").status == 0
    # A crash loses those since the last checkpoint.
    assert 30 < steps[0] <= TOTAL
    assert read(parts) == read(whole)


@pytest.mark.slow
def test_a_row_has_the_losses_of_its_runs(row, tmp_path):
    out = tmp_path / "out"
    assert run("reproduce", *TIER, "--out", out, "--only", "l*").status == 0
    found = read(out)
    assert found["command"] == "python -m charjax.reproduce --only long --seeds 2 --tier cpu-long"
    assert len(list((out / "runs").glob("long-seed[01]-*"))) == 2
    at_once = measure.run_row(row, 2)
    for mine, theirs in zip(found["runs"], at_once["runs"], strict=True):
        assert mine["losses"] == pytest.approx(theirs["losses"], abs=1e-5)
        assert mine["best_step"] == theirs["best_step"]
        np.testing.assert_allclose(
            [point[:3] for point in mine["curve"]],
            [point[:3] for point in theirs["curve"]],
            rtol=2e-3,
        )
    page = (out / "RESULTS.md").read_text()
    (line,) = [line for line in page.splitlines() if "(`long`)" in line and "val, best" in line]
    assert line.endswith("| 2 | reproduced |")


def test_other_settings_or_versions_begin_anew(row, tmp_path, monkeypatch):
    from charjax.training.session import open_session

    session = open_session(measure.row_config(row))
    here = long_runs.run_directory(tmp_path, row, session, 0)
    assert here == long_runs.run_directory(tmp_path, row, session, 0)
    monkeypatch.setattr(long_runs, "environment", lambda session: {"cores": 3})
    assert here != long_runs.run_directory(tmp_path, row, session, 0)


def test_only_its_rows_are_run(row, tmp_path):
    refused = run("reproduce", *TIER, "--only", "other", "--out", tmp_path / "out")
    assert refused.status == 2
    assert "no row of that name is in --tier cpu-long" in refused.err
    (line,) = [x for x in run("reproduce", "--list").out.splitlines() if "cpu-long" in x]
    assert line.startswith("long")


def test_a_curve_has_the_mean_training_loss_of_each_interval():
    lines = [
        {"step": 1, "split": "train", "loss": 9.0},
        {"step": 2, "split": "train", "loss": 3.0},
        {"step": 4, "split": "train", "loss": 1.5},
        {"step": 4, "split": "val", "loss": 2.0},
        {"step": 6, "split": "train", "loss": None},
        {"step": 8, "split": "train", "loss": 1.0},
        {"step": 8, "split": "val", "loss": 1.9},
    ]
    assert long_runs.curve(lines) == ((4, 3.75, 2.0, None), (8, 1.0, 1.9, None))
