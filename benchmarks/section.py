"""What one device contributes to a benchmark: its rows, and what had to be left out."""

import contextlib
import dataclasses
import fnmatch
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from benchmarks import results_file
from charjax.config import Config
from charjax.errors import UserError, printable

Row = dict[str, Any]
Heap = Literal["own", "one"]
# No benchmark takes longer on one device; what is left by then is left out, and said.
LIMIT_SECONDS = 300.0
# Kept for the row that is under way when time runs short, and for the roofline's end.
_RESERVE_SECONDS = 30.0


class LeftOut(Exception):  # noqa: N818 - no error: something cannot be had here
    """A row cannot be measured here; the message is one line that says why."""


@dataclasses.dataclass
class Section:
    """The rows of one device, as they come.

    Attributes:
      device: "cpu" or "gpu".
      quick: whether sizes and repeats are only to be tried.
      only: a pattern of the rows' names, or None for all.
      path: where the section is written after each row, so that a crash loses one row; or None.
      limit: seconds that the device has in all, or has left.
      heap: what the threads of this process have, on a CPU.
      now: the clock.
    """

    device: str
    quick: bool = False
    only: str | None = None
    path: Path | None = None
    limit: float = LIMIT_SECONDS
    heap: Heap | None = None
    now: Callable[[], float] = time.monotonic
    rows: list[Row] = dataclasses.field(default_factory=list)
    left_out: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began, self._earlier = self.now(), 0.0

    def go_on(self) -> None:
        """Take over what a process before this one has written, if there was one."""
        if self.path is None or not self.path.exists():
            return
        told = json.loads(self.path.read_text(encoding="utf-8"))
        self.rows, self.left_out = told.pop("rows"), told.pop("left_out")
        self._earlier = told.pop("seconds")
        self.facts = {name: fact for name, fact in told.items() if name != "device"}

    def has_heap_for(self, config: Config) -> bool:
        """Whether a training run of this config would have such a heap as this process has."""
        if self.heap is None:
            return True
        from charjax import hardware
        from charjax.training.cpu_plan import needs_one_heap

        return (self.heap == "one") == needs_one_heap(config, hardware.cores())

    @property
    def repeats(self) -> int:
        """How often each contestant is asked."""
        return 2 if self.quick else 5

    @property
    def slice_seconds(self) -> float:
        """How long a contestant works each time it is asked."""
        return 0.05 if self.quick else 0.4

    def late(self) -> bool:
        """Whether the time of one device is about to be over."""
        return self.left() <= 0

    def left(self) -> float:
        """Seconds until it is late."""
        reserve = min(_RESERVE_SECONDS, self.limit / 3)
        return self.limit - reserve - (self.now() - self._began)

    def wants(self, name: str) -> bool:
        """Whether a row is asked for, and there is time for it; if there is none, that is said."""
        asked = self.only is None or fnmatch.fnmatchcase(name, self.only)
        if asked and self.late():
            self.leave_out(name, f"the {self.limit:.0f} s of one device were over; try --only")
            return False
        return asked

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Measure a row, or several; whatever goes wrong within is said in a line, and passed over.

        To be entered only after `wants(name)`. What does not fit in memory, or is not there, is
        left out; anything else is left out too, and makes the benchmark's exit status 1.
        """
        try:
            yield
        except LeftOut as reason:
            self.leave_out(name, str(reason))
        except UserError as error:
            self.leave_out(name, str(error))
        except Exception as error:
            why = first_line(error)
            self.leave_out(name, why, failed="not enough memory" not in why)

    def add(self, name: str, **fields: Any) -> None:
        """Keep a row."""
        print(f"{self.device}: {name}", file=sys.stderr, flush=True)
        self.rows.append({"name": name, "device": self.device, **fields})
        self.save()

    def leave_out(self, what: str, why: str, failed: bool = False) -> None:
        """Say what is not measured, and keep it."""
        self.left_out.append({"device": self.device, "what": what, "why": why, "failed": failed})
        self.save()

    def told(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "device": self.device,
            **self.facts,
            "seconds": round(self._earlier + self.now() - self._began, 1),
            "rows": self.rows,
            "left_out": self.left_out,
        }

    def save(self) -> None:
        """Write down what there is so far."""
        if self.path is not None:
            results_file.write(self.path, self.told())


def first_line(error: Exception) -> str:
    """What went wrong, in one line."""
    text = str(error).strip() or type(error).__name__
    line = printable(text.splitlines()[0])[:300]
    exhausted = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory", "Unable to allocate")
    if isinstance(error, MemoryError) or any(word in text for word in exhausted):
        return f"not enough memory ({line})"
    return f"{type(error).__name__}: {line}"


def check_memory(compiled: Any, available: int) -> int:
    """The bytes that a compiled program needs.

    Raises:
      LeftOut: they are more than there are; a CPU would not say so, it would be killed.
    """
    stats = compiled.memory_analysis()
    if stats is None:
        return 0
    needed = int(
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        - stats.alias_size_in_bytes
    )
    # The arguments are there already.
    if needed - stats.argument_size_in_bytes > available:
        raise LeftOut(
            f"not enough memory ({needed / 2**30:.1f} GiB needed, {available / 2**30:.1f} GiB free)"
        )
    return needed
