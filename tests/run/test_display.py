"""Display of a run, on a terminal and in a pipe."""

import io
import math
import time

import pytest
from rich.console import Console
from rich.table import Table

from charjax.run.display import Display, loss_warning, shown_loss

LN2 = 0.6931471805599453


def make(terminal: bool = False, width: int = 100) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, color_system=None)
    return Display(console), out


def shown(display: Display, out: io.StringIO) -> str:
    """Return the printed text without the bar."""
    display.stop()
    return out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("loss", [0.0, 1.4697, 3.2958368660043291])
def test_losses_are_shown_in_nats_and_in_bits(terminal: bool, loss: float):
    display, out = make(terminal)
    display.start(0, 20)
    display.steps(5, 12_345.6, [{"step": 5, "epoch": 0.25, "loss": loss, "bpc": loss / LN2}])
    display.evaluated(10, loss, True, loss / LN2)
    text = shown(display, out)
    both = f"{loss:.4f} ({loss / LN2:.4f} bpc)"
    assert f"loss {both}  12,346 tokens/s" in text
    assert f"step 10/20  val {both}" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_the_best_so_far_is_named(terminal: bool):
    display, out = make(terminal)
    display.start(0, 20)
    display.evaluated(10, 2.0, True, 2.885)
    display.evaluated(20, 3.0, False, 4.328)
    lines = [line for line in shown(display, out).splitlines() if " val " in line]
    assert ["best" in line for line in lines] == [True, False]


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_said_to_be_so(loss: float | None):
    display, out = make()
    display.start(0, 20)
    display.steps(5, 1.0, [{"step": 5, "epoch": 0.25, "loss": loss, "bpc": None}])
    display.evaluated(10, math.nan if loss is None else loss, False, math.nan)
    text = shown(display, out)
    assert text.count("not finite") == 2
    assert "bpc" not in text


def test_a_resumed_run_goes_on_at_its_step():
    display, out = make(terminal=True)
    display.start(13, 20)
    assert "step 13/20" in shown(display, out)


@pytest.mark.parametrize("terminal", [False, True])
def test_text_is_printed_as_it_stands(terminal: bool):
    display, out = make(terminal, width=40)
    display.start(0, 20)
    display.say("[bold]no markup[/bold] :smile: " + "x" * 60)
    display.say("a\x1b[2Jb\x07c")
    text = shown(display, out)
    assert "[bold]no markup[/bold] :smile: " + "x" * 60 in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text


def test_the_bar_names_what_is_being_done_meanwhile():
    display, out = make(terminal=True)
    display.start(0, 20)
    with display.doing("evaluating"):
        wait_for("evaluating", out)
    length = len(out.getvalue())
    wait_for("training", out, length)
    display.stop()


def wait_for(text: str, out: io.StringIO, begin: int = 0) -> None:
    """Wait until the bar, which is drawn ten times per second, shows a text."""
    deadline = time.monotonic() + 20
    while text not in out.getvalue()[begin:]:
        assert time.monotonic() < deadline, out.getvalue()
        time.sleep(0.01)


def test_a_pipe_gets_lines_and_nothing_else():
    display, out = make()
    display.start(0, 20)
    with display.doing("evaluating"):
        display.evaluated(10, 1.0, False, 1.4427)
    text = shown(display, out)
    assert text == f"step 10/20  val 1.0000 ({1 / LN2:.4f} bpc)\n"


def test_the_bar_is_taken_away_once_and_for_all():
    display, out = make(terminal=True)
    display.start(0, 20)
    display.stop()
    length = len(out.getvalue())
    display.stop()
    display.say("done")
    assert out.getvalue()[length:].strip() == "done"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_and_a_pipe_show_the_same_lines(terminal):
    display, out = make(terminal)
    display.start(0, 30)
    lines = [
        {"step": 10, "epoch": 0.5, "loss": 2.0, "bpc": 2.0 / LN2},
        {"step": 20, "epoch": 1.0, "loss": 1.5, "bpc": 1.5 / LN2, "skipped": 3},
    ]
    display.steps(20, 1000.0, lines)
    lines = [{"step": 30, "epoch": 1.5, "loss": None, "bpc": None, "skipped": 10}]
    display.steps(30, 1000.0, lines)
    display.stop()
    bpc = 2.0 / math.log(2)
    assert (
        f"step 10/30  loss 2.0000 ({bpc:.4f} bpc)  1,000 tokens/s  epoch 0.50\n" in out.getvalue()
    )
    assert "step 20/30  loss 1.5000 (2.1640 bpc)  (3 steps skipped)  1,000" in out.getvalue()
    assert "step 30/30  loss not finite  (10 steps skipped)" in out.getvalue()


def test_a_table_is_whole_on_a_narrow_terminal():
    table = Table("parameter", "shape", box=None, pad_edge=False)
    table.add_row("block_0/attention/out/kernel", "128 x 128")
    display, out = make(terminal=True, width=20)
    display.table(table)
    assert out.getvalue().splitlines()[1] == "block_0/attention/out/kernel  128 x 128"


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
