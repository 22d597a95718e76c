"""The progress bar: drawn on a terminal, absent elsewhere."""

import io
import sys
import time
import types
from typing import Any

import pytest
from rich.console import Console

from charjax import progress
from charjax.progress import NotebookConsole, ProgressBar, plain_console


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


class Notebook:
    """The part of IPython.display that charjax uses; keeps what is shown, in order."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> "Notebook":
        assert raw
        assert display_id
        self.update(data, raw=raw)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(data["text/plain"])


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    notebook = Notebook()
    module: Any = types.ModuleType("IPython.display")
    module.display = notebook.display
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(progress, "_UPDATES_PER_SECOND", 1e9)
    return notebook


def test_a_notebook_has_one_line_that_changes(notebook: Notebook):
    columns = "step {task.completed}/{task.total}"
    with ProgressBar(NotebookConsole(), "work", columns, total=4) as bar:
        bar.update(completed=1)
        bar.update(completed=4, description="rest")
    first, second, third, last = notebook.shown
    assert first.split()[0] == "work"
    assert first.endswith("step 0/4")
    assert second.endswith("step 1/4")
    assert third.startswith("rest ")
    assert "━" in third
    assert last == ""
    assert not [text for text in notebook.shown if "\x1b" in text or "\n" in text]


def test_a_notebook_is_not_flooded(notebook: Notebook, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "_UPDATES_PER_SECOND", 1e-9)
    with ProgressBar(NotebookConsole(), "work", total=100) as bar:
        for done in range(100):
            bar.update(completed=done)
    assert len(notebook.shown) == 2


def test_a_quiet_notebook_shows_nothing(notebook: Notebook, capsys: pytest.CaptureFixture):
    out = io.StringIO()
    console = plain_console(out)
    console.print("a line")
    with ProgressBar(console, "work", total=4) as bar:
        bar.update(completed=1)
    assert out.getvalue() == "a line\n"
    assert notebook.shown == []
    assert capsys.readouterr().out == ""


def test_lines_of_a_notebook_go_to_stdout(notebook: Notebook, capsys: pytest.CaptureFixture):
    plain_console().print("[red]a line")
    assert capsys.readouterr().out == "a line\n"
