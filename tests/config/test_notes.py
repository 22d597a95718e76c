"""Notes on schedules that do not fit the run, before the first step."""

import json
from pathlib import Path

import hypothesis
import jax.numpy as jnp
import pytest
from hypothesis import strategies as st

from charjax.config import load_config, parse_config
from charjax.config.notes import learning_rate_at, schedule_notes
from charjax.training.optimizer import make_schedule
from tests.commands import run, tiny

COSINE = "optim.schedule=cosine"
STEP = "optim.schedule=step"
EXPONENTIAL = "optim.schedule=exponential"
WSD = "optim.schedule=wsd"


@pytest.mark.parametrize(
    ("words", "note_text"),
    [
        ([], None),
        ([COSINE, "optim.warmup_steps=19"], None),
        ([STEP, "optim.boundaries=[10, 19]"], None),
        ([EXPONENTIAL], None),
        ([WSD], None),
        (
            [WSD, "optim.decay_steps=15"],
            "the wsd schedule ends at step 15 (optim.decay_steps = 15): the steps to 20 train at "
            "optim.min_learning_rate = 0",
        ),
        (
            [WSD, "optim.decay_steps=22"],
            "the wsd schedule ends at step 22 (optim.decay_steps = 22), beyond train.steps = 20: "
            "the last learning rate is 0.00075",
        ),
        (
            [WSD, "optim.decay_steps=40"],
            "the wsd schedule falls from step 33 (optim.decay_fraction = 0.2 of optim.decay_steps "
            "= 40), not within train.steps = 20: the learning rate does not fall",
        ),
        ([EXPONENTIAL, "optim.boundaries=[10]", "optim.decay_steps=2"], None),
        (["model.kind=ngram"], None),
        (
            ["optim.warmup_steps=20"],
            "the warm-up (optim.warmup_steps = 20) does not end within train.steps = 20: the "
            "learning rate reaches 0.000952 of 0.001",
        ),
        (["optim.warmup_steps=1999"], "the learning rate reaches 1e-05 of 0.001"),
        (
            [COSINE, "optim.decay_steps=12"],
            "the cosine schedule ends at step 12 (optim.decay_steps = 12): steps 13 to 20 of "
            "train.steps = 20 train at optim.min_learning_rate = 0, at which no parameter moves",
        ),
        (
            [COSINE, "optim.decay_steps=19", "optim.min_learning_rate=1e-4"],
            "the cosine schedule ends at step 19 (optim.decay_steps = 19): step 20 of train.steps "
            "= 20 train at optim.min_learning_rate = 0.0001",
        ),
        ([COSINE, "optim.decay_steps=4", "optim.warmup_steps=6"], "ends at step 7"),
        (
            [COSINE, "optim.decay_steps=40"],
            "the cosine schedule ends at step 40 (optim.decay_steps = 40), beyond train.steps = "
            "20: the last learning rate is 0.000539",
        ),
        (
            [STEP, "optim.boundaries=[10, 20, 30]"],
            "optim.boundaries = 20, 30: not within train.steps = 20, so the learning rate is not "
            "multiplied there",
        ),
        ([EXPONENTIAL, "optim.boundaries=[20]"], "begins at step 20 (optim.boundaries), not"),
        ([EXPONENTIAL, "optim.staircase=true"], "first multiplies the learning rate after step 20"),
        (
            [EXPONENTIAL, "optim.decay_steps=5", "optim.min_learning_rate=1e-4"],
            "reaches optim.min_learning_rate = 0.0001 at step 5 of train.steps = 20",
        ),
    ],
)
def test_what_does_not_fit_is_said(words: list[str], note_text: str | None):
    steps = [] if "model.kind=ngram" in words else ["train.steps=20"]
    notes = schedule_notes(load_config(None, [*words, *steps]))
    assert len(notes) == (note_text is not None)
    if note_text is not None:
        assert note_text in notes[0]


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    schedule=st.sampled_from(["constant", "cosine", "wsd", "step", "exponential"]),
    warmup=st.integers(0, 12),
    decay=st.integers(1, 15),
    boundary=st.integers(1, 15),
    staircase=st.booleans(),
    low=st.sampled_from([0.0, 0.01]),
    fraction=st.sampled_from([0.1, 0.5, 1.0]),
    tail=st.sampled_from(["linear", "1-sqrt", "cosine"]),
)
def test_the_rate_is_that_of_the_run(
    schedule, warmup, decay, boundary, staircase, low, fraction, tail
):
    config = parse_config(
        {
            "optim": {
                "schedule": schedule,
                "learning_rate": 0.5,
                "warmup_steps": warmup,
                "decay_steps": decay,
                "boundaries": (boundary,),
                "factor": 0.5,
                "staircase": staircase,
                "min_learning_rate": low,
                "decay_fraction": fraction,
                "tail": tail,
            }
        }
    )
    rate = make_schedule(config.optim)
    for step in (0, warmup, decay, boundary, 11, 40):
        want = float(rate(jnp.int32(step)))
        assert learning_rate_at(config.optim, step) == pytest.approx(want, rel=1e-5, abs=1e-7)


def test_more_steps_after_a_cosine(tmp_path: Path):
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 60)
    words = [f"data.path={tmp_path / 'text.txt'}", *tiny("bigram"), COSINE]
    workdir = tmp_path / "run"
    assert run("train", *words, "train.steps=6", "--workdir", workdir).status == 0
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    for settings in ([], words):
        done = run("train", *settings, "train.steps=9", "--workdir", workdir, "--resume")
        assert done.status == 2
        assert "decay_steps follows train.steps and is 9 where it was 6" in done.err
        assert "add optim.decay_steps=6 to keep the schedule as it was" in done.err
        assert done.err.count("\n") == 1
    after = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    assert after == before
    resumed = ["train.steps=9", "optim.decay_steps=6", "--workdir", workdir, "--resume"]
    printed = run("train", *resumed, "--print-config")
    assert printed.status == 0, printed.err
    note = "note: the cosine schedule ends at step 6 (optim.decay_steps = 6): steps 7 to 9"
    assert printed.err.startswith(note)
    done = run("train", *resumed)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    said = next(i for i, line in enumerate(lines) if line.startswith(note))
    assert said < next(i for i, line in enumerate(lines) if line.startswith("compiled"))
    # Resuming once more needs no setting and repeats the note.
    again = run("train", "train.steps=11", "--workdir", workdir, "--resume")
    assert again.status == 0, again.err
    assert "note: the cosine schedule ends at step 6" in again.out


@pytest.mark.slow
def test_a_run_before_the_fall_of_its_rate_is_made_longer(tmp_path: Path):
    """Equal to a run that was as long from the start, which no other schedule allows."""
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 60)
    words = [f"data.path={tmp_path / 'text.txt'}", *tiny("bigram"), WSD, "train.log_every=1"]
    short, long = tmp_path / "short", tmp_path / "long"
    # Saved at step 5, where the rate of six steps would begin to fall.
    ends = ["optim.decay_steps=6", "train.steps=5"]
    assert run("train", *words, *ends, "--workdir", short).status == 0
    again = ["train", "--workdir", short, "--resume", "train.steps=12", "optim.decay_steps=12"]
    done = run(*again)
    assert done.status == 0, done.err
    assert run("train", *words, "train.steps=12", "--workdir", long).status == 0
    metrics = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (short, long)
    ]
    rates, losses = (
        [[x[key] for x in lines if x["split"] == "train"] for lines in metrics]
        for key in ("learning_rate", "loss")
    )
    assert rates[0] == rates[1]
    assert losses[0] == losses[1]
    # Once the rate has fallen, what has been done cannot be changed.
    refused = run(*again[:-2], "train.steps=20", "optim.decay_steps=20")
    assert refused.status == 2
    assert "optim.decay_steps follows train.steps and is 20 where it was 12" in refused.err
