"""The output of a run: plain lines, and a progress bar below them on a terminal."""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import TimeRemainingColumn
from rich.table import Table

from charjax.errors import visible
from charjax.progress import ProgressBar

# A larger loss is written with an exponent.
_LARGEST_PLAIN = 1e6
# Columns: wider than any table.
_WIDEST = 10_000


class Display:
    """Lines about a run, and from `start` to `stop` a progress bar where there is a terminal.

    The lines are the same on a terminal and in a pipe.
    """

    def __init__(self, console: Console):
        self.console = console
        self._bar: ProgressBar | None = None
        self._total = 0

    def start(self, step: int, total: int) -> None:
        """Start the progress bar at a step."""
        self._total = total
        self._bar = ProgressBar(
            self.console,
            "training",
            "step {task.completed}/{task.total}  {task.fields[status]}",
            TimeRemainingColumn(),
            total=total,
            completed=step,
            status="",
        )
        self._bar.start()

    def stop(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def steps(self, step: int, rate: float, lines: Sequence[dict[str, Any]]) -> None:
        """Print a line for each training interval, and advance the bar.

        Args:
          step: steps done.
          rate: targets per second.
          lines: for each interval `step`, its last step; `epoch`, the epochs that it comes to;
            `loss` and `bpc`, the mean in nats per token and in bits per character, or None if all
            steps were skipped; and `skipped`, the number of them, if any were.
        """
        shown = [
            f"step {line['step']}/{self._total}  loss {_nats(line['loss'], line['bpc'])}"
            f"{_skipped(line)}  {rate:,.0f} tokens/s  epoch {line['epoch']:.2f}"
            for line in lines
        ]
        if shown:
            # In one call: a chunk of a small model has hundreds of intervals.
            self.say("\n".join(shown))
        if self._bar is not None:
            status = f"{rate:,.0f} tokens/s"
            if lines:
                status = f"loss {_nats(lines[-1]['loss'], lines[-1]['bpc'])}  {status}"
            self._bar.update(completed=step, status=status)

    def evaluated(self, step: int, loss: float, best: bool, bpc: float) -> None:
        """Print a validation loss, in nats per token and bits per character."""
        mark = "  (best so far)" if best else ""
        self.say(f"step {step}/{self._total}  val {_nats(loss, bpc)}{mark}")

    @contextlib.contextmanager
    def doing(self, activity: str) -> Iterator[None]:
        """Show an activity on the bar while the block lasts."""
        if self._bar is not None:
            self._bar.update(description=activity)
        yield
        if self._bar is not None:
            self._bar.update(description="training")

    def table(self, table: Table) -> None:
        """Print a table as plain text, without folding it to the width of the terminal."""
        wide = Console(file=io.StringIO(), width=_WIDEST, force_jupyter=False, color_system=None)
        with wide.capture() as capture:
            wide.print(table)
        self.say("\n".join(line.rstrip() for line in capture.get().splitlines()))

    def say(self, text: str) -> None:
        """Print text literally: without markup, control characters escaped."""
        self.console.print(
            visible(text), markup=False, emoji=False, highlight=False, soft_wrap=True
        )


def loss_warning(split: str, loss: float | None, vocab_size: int) -> str | None:
    """Return a warning if a final loss (nats per token) is worse than a uniform guess."""
    if loss is None:
        return None
    remedy = "lower optim.learning_rate, or train longer"
    if not math.isfinite(loss):
        return (
            f"the {split} loss is not finite: the run has diverged, or gives a symbol probability "
            f"0; {remedy}"
        )
    if loss > (uniform := math.log(vocab_size)):
        return (
            f"the {split} loss ended above ln V ({shown_loss(loss)} > {uniform:.4f}), worse than a "
            f"uniform guess over the {vocab_size:,} symbols; {remedy}"
        )
    return None


def shown_loss(loss: float) -> str:
    """Format a loss with four decimals, or with an exponent where it is huge."""
    if not math.isfinite(loss):
        return "not finite"
    return f"{loss:.4f}" if abs(loss) < _LARGEST_PLAIN else f"{loss:.3e}"


def _nats(loss: float | None, bpc: float | None) -> str:
    """Format a loss in nats per token and in bits per character."""
    if loss is None or not math.isfinite(loss):
        return "not finite"
    in_bits = "" if bpc is None or not math.isfinite(bpc) else f" ({shown_loss(bpc)} bpc)"
    return f"{shown_loss(loss)}{in_bits}"


def _skipped(line: dict[str, Any]) -> str:
    count = line.get("skipped", 0)
    return f"  ({count} steps skipped)" if count > 1 else "  (1 step skipped)" if count else ""
