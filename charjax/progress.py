"""The progress bar of every command: on a terminal, or in a notebook."""

import io
import math
import time
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

# Updates of a notebook's output per second, each of which is a message to the browser.
_UPDATES_PER_SECOND = 4
_NOTEBOOK_WIDTH = 100


def plain_console(file: IO[str] | None = None) -> Console:
    """Return a console that writes to a file, stdout by default; plain text in a notebook.

    In a notebook rich displays every line as HTML of its own, and ignores the file.
    """
    if Console().is_jupyter:
        return NotebookConsole(file)
    return Console(file=file)


class NotebookConsole(Console):
    """A console of a notebook: plain lines on stdout, without escape sequences."""

    def __init__(self, file: IO[str] | None = None):
        super().__init__(file=file, force_terminal=False, force_jupyter=False, color_system=None)
        self.shows_progress = file is None


class ProgressBar:
    """A bar for one task, gone when it is done, on a terminal or in a notebook; elsewhere nothing.

    A context manager, or `start` and `stop`, which may be called twice.
    """

    def __init__(
        self,
        console: Console,
        description: str,
        *columns: str | ProgressColumn,
        total: float | None,
        completed: int = 0,
        **fields: Any,
    ):
        """Prepare the bar.

        Args:
          console: where it is drawn.
          description: stands before the bar, as plain text.
          columns: stand after it; a format string of rich's `task`, or a column of rich's.
          total: the whole of the work; None: not known yet.
          completed: the part of it that is done.
          fields: initial values of `task.fields`.
        """
        self._progress: Progress | None = None
        self._line: _NotebookLine | None = None
        in_notebook = isinstance(console, NotebookConsole) and console.shows_progress
        if console.is_terminal or in_notebook:
            after = (TextColumn(each) if isinstance(each, str) else each for each in columns)
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                *after,
                console=console,
                transient=True,
            )
            self._task = self._progress.add_task(
                description,
                total=total,
                completed=completed,  # type: ignore[arg-type]
                **fields,
            )
        if in_notebook:
            self._line = _NotebookLine()

    def start(self) -> None:
        """Draw the bar, several times per second until `stop`."""
        if self._line is not None and self._progress is not None:
            self._line.show(self._progress)
        elif self._progress is not None:
            self._progress.start()

    def stop(self) -> None:
        """Remove the bar."""
        if self._line is not None:
            self._line.clear()
        elif self._progress is not None:
            self._progress.stop()
        self._line = self._progress = None

    def update(self, **changes: Any) -> None:
        """Change `completed`, `total`, `description`, `advance`, or any field."""
        if self._progress is not None:
            self._progress.update(self._task, **changes)
        if self._line is not None and self._progress is not None:
            self._line.show(self._progress)

    def __enter__(self) -> "ProgressBar":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _NotebookLine:
    """One line of text in a notebook's output, written again in the same place."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = -math.inf

    def show(self, progress: Progress) -> None:
        """Show a bar that has not been started, unless it was shown a moment ago."""
        from IPython.display import display

        now = time.monotonic()
        if now - self._shown < 1 / _UPDATES_PER_SECOND:
            return
        self._shown = now
        text = {"text/plain": _as_text(progress)}
        if self._handle is None:
            self._handle = display(text, raw=True, display_id=True)
        else:
            self._handle.update(text, raw=True)

    def clear(self) -> None:
        """Leave an empty line in its place."""
        if self._handle is not None:
            self._handle.update({"text/plain": ""}, raw=True)


def _as_text(progress: Progress) -> str:
    console = Console(
        file=io.StringIO(), width=_NOTEBOOK_WIDTH, force_jupyter=False, color_system=None
    )
    with console.capture() as capture:
        console.print(progress.get_renderable())
    return capture.get().rstrip()
