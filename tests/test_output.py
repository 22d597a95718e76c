"""The lines printed by a run."""

import re

import pytest

from tests.commands import run, tiny

TEXT = "the cat sat on the mat, and the dog ran off with it\n" * 60


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


def train(text, workdir, *words: str):
    small = ["model.kind=bigram", "train.batch_size=4", "eval.every=0", f"data.path={text}"]
    return run("train", *small, *words, "--workdir", workdir)


def test_every_interval_and_the_last_step_have_a_line(text, tmp_path):
    done = train(text, tmp_path / "run", "train.steps=25", "train.log_every=10")
    assert re.findall(r"^step (\d+)/25  loss", done.out, re.M) == ["1", "10", "20", "25"]
    # What is only shown is not written: with more steps the interval would go on.
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert re.findall(r'"step": (\d+), "split": "train"', lines) == ["1", "10", "20"]


def test_a_loss_above_that_of_a_uniform_guess_is_said(text, tmp_path):
    done = train(text, tmp_path / "run", "train.steps=20", "optim.learning_rate=1000")
    assert done.status == 0
    warnings = [line for line in done.out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "above ln V" in warnings[0]


def test_a_trained_run_has_no_warning(text, tmp_path):
    done = train(text, tmp_path / "run", "train.steps=100", "optim.learning_rate=0.1")
    assert "warning" not in done.out


def test_a_validation_loss_that_is_not_finite_is_a_failure(tmp_path):
    # The held-out part has a pair of symbols that the training part never shows.
    path = tmp_path / "text.txt"
    path.write_text("ab" * 90 + "ba" * 5 + "bb" * 5)
    words = [f"data.path={path}", "model.kind=ngram", "model.order=2", "model.alpha=0"]
    words += ["model.smoothing=additive", "--workdir", tmp_path / "run"]
    done = run("train", *words)
    if "model.alpha" in done.err:
        pytest.skip("an additive count of 0 is refused")
    assert done.status == 1
    assert "warning: the validation loss is not finite" in done.out
    assert "best" not in done.out


@pytest.mark.slow
def test_skipped_steps_are_printed(text, tmp_path):
    wild = ["optim.kind=sgd", "optim.learning_rate=1e38", "optim.grad_clip=0"]
    words = [f"data.path={text}", *tiny("gru"), *wild, "train.steps=40", "--workdir"]
    done = run("train", *words, tmp_path / "run")
    skipped = re.search(r"done: steps 40, (\d+) of them skipped", done.out)
    assert skipped, done.out + done.err
    in_lines = sum(map(int, re.findall(r"\((\d+) steps? skipped\)", done.out)))
    assert in_lines == int(skipped[1]) > 0
