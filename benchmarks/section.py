"""The part of a benchmark that one device measures: its rows, and what had to be left out."""

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
from charjax.errors import UserError
from charjax.performance.failures import LeftOut, first_line

Row = dict[str, Any]
Heap = Literal["own", "one"]
# Per device; what is not done by then is left out, and reported.
LIMIT_SECONDS = 300.0
# Reserved for the row that is under way when time runs short, and for the last peak rates.
_RESERVE_SECONDS = 30.0


class TooLate(LeftOut):
    """Only the time was too short: with more of it the row is measured."""


@dataclasses.dataclass
class Section:
    """The rows of one device.

    Attributes:
      device: "cpu" or "gpu".
      quick: whether this is a trial, with small sizes and few repeats.
      only: a pattern of the rows' names, or None for all.
      path: where the section is written after each row, so that a crash loses one row; or None.
      limit: seconds that the device has left.
      heap: malloc arenas of this process on a CPU: one per thread ("own"), or "one".
      now: the clock.
      rows: measured so far.
      left_out: `{"device", "what", "why", "failed"}` of each thing that was not measured; with
        "late" where only the time was too short.
      attempts: `{"tried", "done", "rows"}` by the name of an attempt: how often it was begun,
        whether it came to an end, and the names of its rows.
      facts: hardware, versions, peak rates.
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
    attempts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._start, self._earlier_seconds = self.now(), 0.0
        self._under_way: str | None = None

    def load(self) -> None:
        """Continue with what an earlier process has written, if there was one."""
        if self.path is None or not self.path.exists():
            return
        tree = json.loads(self.path.read_text(encoding="utf-8"))
        self.rows, self.left_out = tree.pop("rows"), tree.pop("left_out")
        self._earlier_seconds, self.attempts = tree.pop("seconds"), tree.pop("attempts")
        self.facts = {name: fact for name, fact in tree.items() if name != "device"}

    def start_anew(self, what: str, why: str) -> None:
        """Forget what was loaded, and list it as left out."""
        self.rows, self.left_out, self.attempts, self.facts = [], [], {}, {}
        self._earlier_seconds = 0.0
        self.leave_out(what, why)

    def has_heap_for(self, config: Config) -> bool:
        """Return whether a training run of this config has the kind of heap of this process."""
        if self.heap is None:
            return True
        from charjax import hardware
        from charjax.training.cpu_plan import needs_one_heap

        return (self.heap == "one") == needs_one_heap(config, hardware.cores())

    @property
    def repeats(self) -> int:
        """Number of turns of each contestant."""
        return 2 if self.quick else 5

    @property
    def slice_seconds(self) -> float:
        """Duration of a turn."""
        return 0.05 if self.quick else 0.4

    def late(self) -> bool:
        """Return whether the time of the device is nearly over."""
        return self.left() <= 0

    def left(self) -> float:
        """Return the seconds until it is late."""
        reserve = min(_RESERVE_SECONDS, self.limit / 3)
        return self.limit - reserve - (self.now() - self._start)

    def wants(self, name: str) -> bool:
        """Return whether a row is requested, not measured yet, and not too late.

        A row that is too late is listed.
        """
        matches = self.only is None or fnmatch.fnmatchcase(name, self.only)
        if not matches or self.attempts.get(name, {}).get("done"):
            return False
        if self.late():
            why = f"the {self.limit:.0f} s of one device were over; try --only, or --resume"
            self.leave_out(name, why, late=True)
            return False
        return True

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Measure rows; whatever fails is left out, reported in one line, and the next row runs.

        To be entered after `wants(name)`. What does not fit in memory, or is not available, is left
        out; any other failure also makes the benchmark's exit status 1.
        """
        outermost = self._under_way is None
        if outermost:
            self._begin(name)
        late = False
        try:
            yield
        except LeftOut as reason:
            late = isinstance(reason, TooLate)
            self.leave_out(name, str(reason), late=late)
        except UserError as reason:
            self.leave_out(name, str(reason))
        except Exception as error:
            why = first_line(error)
            self.leave_out(name, why, failed="not enough memory" not in why)
        if outermost:
            self._end(name, done=not late)

    def _begin(self, name: str) -> None:
        tried = self.attempts.get(name, {}).get("tried", 0)
        self.attempts[name] = {"tried": tried + 1, "done": False, "rows": []}
        self._under_way = name
        self.save()

    def _end(self, name: str, *, done: bool) -> None:
        if done:
            self.attempts[name]["done"] = True
        else:
            # It is not the row's fault.
            del self.attempts[name]
        self._under_way = None
        self.save()

    def add(self, name: str, **fields: Any) -> None:
        """Add a row."""
        print(f"{self.device}: {name}", file=sys.stderr, flush=True)
        self.rows.append({"name": name, "device": self.device, **fields})
        if self._under_way is not None:
            self.attempts[self._under_way]["rows"].append(name)
        self.save()

    def leave_out(self, what: str, why: str, failed: bool = False, *, late: bool = False) -> None:
        """List something that is not measured, and the reason."""
        line = {"device": self.device, "what": what, "why": why, "failed": failed}
        line |= {"late": True} if late else {}
        # A process that goes on with another's rows finds the same things missing.
        if line not in self.left_out:
            self.left_out.append(line)
        self.save()

    def as_data(self) -> dict[str, Any]:
        """Return the section as plain data."""
        return {
            "device": self.device,
            **self.facts,
            "seconds": round(self._earlier_seconds + self.now() - self._start, 1),
            "rows": self.rows,
            "left_out": self.left_out,
            "attempts": self.attempts,
        }

    def save(self) -> None:
        """Write the section as it is so far."""
        if self.path is not None:
            results_file.write(self.path, self.as_data())
