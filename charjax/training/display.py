"""What the user sees while a run goes: a progress bar on a terminal, plain lines elsewhere."""

import contextlib
import math
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from charjax.errors import visible

# Where the output is no terminal, no more than one line of training loss in this many seconds.
_PLAIN_SECONDS = 2.0


class Display:
    """Shows the steps from `start` to `stop`; free text can be printed at any time."""

    def __init__(self, console: Console):
        self.console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last = -math.inf
        self._total = 0

    def start(self, step: int, total: int) -> None:
        """Begin at a step, with the bar where there is a terminal."""
        self._total = total
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("step {task.completed}/{task.total}  {task.fields[told]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task("training", total=total, completed=step, told="")
            self._bar.start()

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def step(self, step: int, loss: float | None, rate: float) -> None:
        """Tell the loss (nats) and the speed (targets a second) at a step."""
        told = f"loss {_nats(loss)}  {rate:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, told=told)
        elif time.monotonic() - self._last > _PLAIN_SECONDS:
            self._last = time.monotonic()
            self.say(f"step {step}/{self._total}  {told}")

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        """Tell a validation loss."""
        self.say(f"step {step}/{self._total}  val {_nats(loss)}{'  (best so far)' if best else ''}")

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Name on the bar what is being done meanwhile."""
        if self._bar is not None:
            self._bar.update(self._task, description=what)
        yield
        if self._bar is not None:
            self._bar.update(self._task, description="training")

    def say(self, text: str) -> None:
        """Print a line as it stands: no markup, control characters made visible."""
        self.console.print(
            visible(text), markup=False, emoji=False, highlight=False, soft_wrap=True
        )


def _nats(loss: float | None) -> str:
    if loss is None or not math.isfinite(loss):
        return "not finite"
    return f"{loss:.4f} ({loss / math.log(2):.4f} bpc)"
