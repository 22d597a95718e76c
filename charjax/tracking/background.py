"""Trackers in threads of their own: training neither waits for them nor fails with them."""

import atexit
import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from charjax.errors import one_line
from charjax.tracking.tracker import Line, Texts, Tracker

# Lines that may wait for a tracker: W&B takes about 1,000 per second.
_LONGEST_QUEUE = 100_000
# Seconds without progress after which the end of a run no longer waits for a tracker.
_PATIENCE = 60.0


class Tracking:
    """The trackers of a run; without any, nothing happens.

    Attributes:
      report: called, in the thread of the caller, with a line for the user.
    """

    def __init__(self, trackers: dict[str, Tracker], report: Callable[[str], None]):
        """Take the trackers by the setting that asks for them."""
        self.report = report
        self._workers = [_Worker(name, tracker) for name, tracker in trackers.items()]
        self._summary: dict[str, Any] = {}

    @property
    def has_trackers(self) -> bool:
        """Return whether there are any."""
        return bool(self._workers)

    def start(self, lines: list[Line], samples: list[Texts]) -> None:
        """Open the trackers with what the run has written so far."""
        for worker in self._workers:
            worker.start(lines, samples)

    def write(self, lines: list[Line]) -> None:
        """Pass lines of metrics.jsonl on; returns at once."""
        lines = list(lines)
        for worker in self._workers:
            worker.put("write", len(lines), lines)
        self._show()

    def sample(self, step: int, texts: list[str]) -> None:
        """Pass the samples of a step on; returns at once."""
        for worker in self._workers:
            worker.put("sample", 1, step, texts)
        self._show()

    def summarize(self, summary: dict[str, Any]) -> None:
        """Set the fields of summary.json, written by `close`."""
        self._summary = summary

    def close(self, status: int) -> None:
        """Wait until everything is written, or a tracker has made no progress for a minute.

        Args:
          status: the exit status of the run.
        """
        for worker in self._workers:
            worker.close(status, self._summary)
        self._show()

    def _show(self) -> None:
        for worker in self._workers:
            while worker.messages:
                self.report(worker.messages.pop(0))


def leave_at_exit(status: int) -> None:
    """End the process at its exit without the exit hooks of a tracker that hangs.

    Hooks that were registered earlier, and would wait for it once more, are called later.
    """

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)

    atexit.register(leave)


class _Worker:
    """A tracker, and the thread that calls it.

    Attributes:
      messages: lines for the user, of the thread.
    """

    def __init__(self, name: str, tracker: Tracker):
        self.messages: list[str] = []
        self._name, self._tracker = name, tracker
        self._calls: queue.SimpleQueue[tuple[str, int, tuple[Any, ...]]] = queue.SimpleQueue()
        # Each is changed by one thread alone.
        self._given = self._done = 0
        self._has_failed = False
        self._thread: threading.Thread | None = None

    def start(self, *written: Any) -> None:
        self._calls.put(("open", 0, written))
        self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._thread.start()

    def put(self, method: str, count: int, *arguments: Any) -> None:
        if self._thread is None or self._has_failed:
            return
        self._given += count
        if self._given - self._done > _LONGEST_QUEUE:
            self._fail(f"{_LONGEST_QUEUE:,} lines are waiting for it")
            return
        self._calls.put((method, count, arguments))

    def close(self, status: int, summary: dict[str, Any]) -> None:
        if self._thread is None:
            return
        self._calls.put(("close", 0, (status, summary)))
        done, since = self._done, time.monotonic()
        while self._thread.is_alive() and time.monotonic() - since < _PATIENCE:
            self._thread.join(0.1)
            if self._done != done:
                done, since = self._done, time.monotonic()
        if self._thread.is_alive():
            if not self._has_failed:
                self._fail(f"it has not answered for {_PATIENCE:.0f} s")
            leave_at_exit(status)

    def _work(self) -> None:
        while True:
            method, count, arguments = self._calls.get()
            if not self._has_failed or method == "close":
                self._call(method, arguments)
            self._done += count
            if method == "close":
                return

    def _call(self, method: str, arguments: tuple[Any, ...]) -> None:
        try:
            result = getattr(self._tracker, method)(*arguments)
        # Libraries of others, networks and disks: whatever fails there, the training goes on.
        except Exception as error:
            if not self._has_failed:
                self._fail(one_line(error))
            return
        if result and not self._has_failed:
            self.messages.append(result)

    def _fail(self, reason: str) -> None:
        self._has_failed = True
        to = self._name.removeprefix("log.")
        self.messages.append(
            f"warning: {self._name} has failed ({reason}); the run goes on without it, and "
            f"`charjax log RUN --to {to}` writes it later"
        )
