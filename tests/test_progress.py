"""The progress bar: drawn on a terminal, absent elsewhere."""

import io
import time

import pytest
from rich.console import Console

from charjax.progress import ProgressBar


def make(terminal: bool) -> tuple[ProgressBar, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    columns = ("{task.completed}/{task.total} pieces", "{task.fields[status]}")
    bar = ProgressBar(console, "[b]work", *columns, total=None, completed=3, status="slow")
    return bar, out


def test_a_terminal_shows_every_change():
    bar, out = make(terminal=True)
    with bar:
        wait_for("[b]work", out)
        wait_for("3/None pieces slow", out)
        bar.update(completed=4, total=8, status="fast", description="rest")
        wait_for("rest", out)
        wait_for("4/8 pieces fast", out)
        bar.update(advance=2)
        wait_for("6/8 pieces", out)


def wait_for(text: str, out: io.StringIO) -> None:
    """Wait until the bar, which is drawn ten times per second, shows a text."""
    deadline = time.monotonic() + 20
    while text not in out.getvalue():
        assert time.monotonic() < deadline, out.getvalue()
        time.sleep(0.01)


def test_nothing_is_shown_elsewhere():
    bar, out = make(terminal=False)
    with bar:
        bar.update(completed=4, total=8)
    assert out.getvalue() == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_that_is_gone_stays_away(terminal: bool):
    bar, out = make(terminal)
    bar.start()
    bar.stop()
    length = len(out.getvalue())
    bar.update(completed=4)
    bar.stop()
    assert len(out.getvalue()) == length
