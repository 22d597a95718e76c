"""The lines that a run prints."""

import io
import math
import re

import pytest
from rich.console import Console
from rich.table import Table

from charjax.training.display import Display, loss_warning, shown_loss
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


def display(*, terminal: bool, width: int = 80) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, color_system=None)
    return Display(console), out


def test_every_interval_and_the_last_step_have_a_line(text, tmp_path):
    done = train(text, tmp_path / "run", "train.steps=25", "train.log_every=10")
    assert re.findall(r"^step (\d+)/25  loss", done.out, re.M) == ["1", "10", "20", "25"]
    # What is only shown is not written: with more steps the interval would go on.
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert re.findall(r'"step": (\d+), "split": "train"', lines) == ["1", "10", "20"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_and_a_pipe_show_the_same_lines(terminal):
    shown, out = display(terminal=terminal)
    shown.start(0, 30)
    shown.steps(20, 1000.0, [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.5, "skipped": 3}])
    shown.steps(30, 1000.0, [{"step": 30, "loss": None, "skipped": 10}])
    shown.stop()
    bpc = 2.0 / math.log(2)
    assert f"step 10/30  loss 2.0000 ({bpc:.4f} bpc)  1,000 tokens/s\n" in out.getvalue()
    assert "step 20/30  loss 1.5000 (2.1640 bpc)  (3 steps skipped)  1,000" in out.getvalue()
    assert "step 30/30  loss not finite  (10 steps skipped)" in out.getvalue()


def test_a_table_is_whole_on_a_narrow_terminal():
    table = Table("parameter", "shape", box=None, pad_edge=False)
    table.add_row("block_0/attention/out/kernel", "128 x 128")
    shown, out = display(terminal=True, width=20)
    shown.table(table)
    assert out.getvalue().splitlines()[1] == "block_0/attention/out/kernel  128 x 128"


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


def test_skipped_steps_are_printed(text, tmp_path):
    wild = ["optim.kind=sgd", "optim.learning_rate=1e38", "optim.grad_clip=0"]
    words = [f"data.path={text}", *tiny("gru"), *wild, "train.steps=40", "--workdir"]
    done = run("train", *words, tmp_path / "run")
    skipped = re.search(r"done: steps 40, (\d+) of them skipped", done.out)
    assert skipped, done.out + done.err
    in_lines = sum(map(int, re.findall(r"\((\d+) steps? skipped\)", done.out)))
    assert in_lines == int(skipped[1]) > 0


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (None, None),
        (math.log(5), None),
        (math.log(5) + 1e-6, "above ln V"),
        (4011281210317590528.0, "4.011e+18 > 1.6094"),
        (math.inf, "not finite"),
        (math.nan, "not finite"),
    ],
)
def test_warnings_about_a_final_loss(loss, words):
    warning = loss_warning("validation", loss, 5)
    assert warning is None if words is None else words in str(warning)


def test_huge_losses_are_written_with_an_exponent():
    assert shown_loss(1766.9) == "1766.9000"
    assert shown_loss(4011281210317590528.0) == "4.011e+18"
