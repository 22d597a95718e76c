"""The progress bar of every command."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn


class ProgressBar:
    """A bar for one task, gone when it is done; nothing is shown unless there is a terminal.

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
        if console.is_terminal:
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

    def start(self) -> None:
        """Draw the bar, several times per second until `stop`."""
        if self._progress is not None:
            self._progress.start()

    def stop(self) -> None:
        """Remove the bar from the terminal."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def update(self, **changes: Any) -> None:
        """Change `completed`, `total`, `description`, `advance`, or any field."""
        if self._progress is not None:
            self._progress.update(self._task, **changes)

    def __enter__(self) -> "ProgressBar":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
