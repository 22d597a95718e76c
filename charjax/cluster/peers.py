"""Watch over the other processes: one that ends early, or is silent, ends all with a reason.

Without it, a process would wait for one that is gone in the next sum over devices: for ever on some
networks, until JAX aborts it with a stack trace on others.
"""

import json
import os
import sys
import threading
import time
from typing import Any, NamedTuple

import jax

from charjax import processes
from charjax.cli import complain
from charjax.errors import printable

# Seconds between two signs of life.
_PERIOD = 1.0
# A process is gone after so many periods without one; after fewer where a sum over devices failed.
# Counted, not timed: a process that was suspended has not counted meanwhile.
_MOST_SILENT, _MOST_SILENT_AFTER_FAILURE = 20, 4
# Time for the main thread to come to the end by itself, with a reason of its own.
_GRACE = 1.5
# Periods to wait for the reason of a failure.
_EXPLAINING = 20
_FOLDER = "charjax/alive"
_DONE = "done"


class Ending(NamedTuple):
    """The reason for which another process has ended.

    Attributes:
      process: its number.
      status: the exit status that this process ends with.
      reason: in one line.
    """

    process: int
    status: int
    reason: str


class Peers:
    """The other processes of a run, as a thread observes them."""

    def __init__(self) -> None:
        self.ending: Ending | None = None
        self._most_silent = _MOST_SILENT
        self._ends = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._observe, name="peers", daemon=True)

    def start(self) -> None:
        """Start to give signs of life, and to look for those of the others."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread in an orderly end of the run: this process is no longer missed."""
        self._stopped.set()
        self._thread.join()
        _publish(_DONE)

    def announce(self, status: int, reason: str) -> None:
        """Let the others know that this process ends, and why; the process has to end then.

        Where the thread ends it already, this does not return.
        """
        self._claim()
        self._stopped.set()
        try:
            _publish(json.dumps([status, reason]))
        except jax.errors.JaxRuntimeError:
            # The coordinator is gone, and so are the others.
            return

    def explain_failure(self) -> Ending | None:
        """Return the end of another process that may have made a sum over devices fail."""
        self._most_silent = _MOST_SILENT_AFTER_FAILURE
        until = time.monotonic() + _PERIOD * _EXPLAINING
        while self.ending is None and time.monotonic() < until:
            time.sleep(_PERIOD / 10)
        return self.ending

    def _claim(self) -> None:
        """Let one thread alone end the process, and print one reason."""
        if not self._ends.acquire(blocking=False):
            time.sleep(60)

    def _observe(self) -> None:
        last: dict[int, str] = {}
        silent = dict.fromkeys(set(range(processes.count())) - {processes.index()}, 0)
        turn = 0
        while not self._stopped.wait(_PERIOD):
            turn += 1
            try:
                _publish(str(turn))
                signs = _signs()
            except jax.errors.JaxRuntimeError:
                self._end(Ending(0, 1, "the coordinator, which process 0 started, is gone"))
                return
            for process in silent:
                sign = signs.get(process, "")
                if ending := _ending(process, sign):
                    self._end(ending)
                    return
                silent[process] = 0 if sign != last.get(process) else silent[process] + 1
                if sign != _DONE and silent[process] > self._most_silent:
                    seconds = round(silent[process] * _PERIOD)
                    reason = (
                        f"it has given no sign of life for {seconds} s: it was killed, is suspended"
                        ", or its machine cannot be reached; continue the run with --resume"
                    )
                    self._end(Ending(process, 1, reason))
                    return
            last = signs

    def _end(self, ending: Ending) -> None:
        """End this process for the end of another, unless its main thread does."""
        self.ending = ending
        if self._stopped.wait(_GRACE) or not self._ends.acquire(blocking=False):
            return
        complain(f"process {ending.process}: {printable(ending.reason)}")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ending.status)


def _ending(process: int, sign: str) -> Ending | None:
    """Return the announcement of an end, if it is one."""
    if not sign.startswith("["):
        return None
    status, reason = json.loads(sign)
    return Ending(process, status, reason)


def _publish(sign: str) -> None:
    processes.publish(f"{_FOLDER}/{processes.index():06}", sign)


def _signs() -> dict[int, str]:
    """Return the latest sign of each process that has given one."""
    found: dict[str, Any] = processes.published(_FOLDER)
    return {int(name.rpartition("/")[2]): sign for name, sign in found.items()}
