"""Commands in process groups: they have a time limit, and nothing they started outlives them."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_POLL_SECONDS = 1.0
# Called while a command runs; the command is ended once it returns true.
Watch = Callable[[], bool | None]


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """SIGTERM came while a command ran; the command has been ended.

    Attributes:
      status: exit status of a process that is ended by this signal.
    """

    status = 128 + signal.SIGTERM


def run(
    command: Sequence[str],
    seconds: float,
    *,
    environment: Mapping[str, str],
    log: IO[bytes] | None = None,
    cwd: Path | None = None,
    patience: float = 0.0,
    watch: Watch | None = None,
    every: float = _POLL_SECONDS,
) -> int | None:
    """Run a command, and end it and everything that it has started.

    Args:
      command: its words.
      seconds: after which it is stopped.
      environment: its variables.
      log: where its output goes; None: where this process's goes.
      cwd: its directory.
      patience: seconds from SIGTERM to SIGKILL, for a command that saves what it has; 0: it is
        killed at once.
      watch: called while it runs; the command is ended once it returns true.
      every: seconds between two calls of `watch`.

    Returns:
      Its exit status; None if it was stopped.

    Raises:
      Stopped: SIGTERM came.
    """
    with _stopped_by_sigterm():
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=None if log is None else subprocess.STDOUT,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
        try:
            return _wait(process, seconds, watch, every)
        finally:
            _end(process, patience)


def _wait(
    process: subprocess.Popen[bytes], seconds: float, watch: Watch | None, every: float
) -> int | None:
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(max(0.0, min(left, every if watch else left)))
        if left <= 0:
            return None
        if watch and watch():
            return None


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    """End a process, its group, and the groups that its descendants have made."""
    # Once it has ended, its children are those of another process.
    groups = {process.pid, *_groups_below(process.pid)}
    if process.poll() is None and patience:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    for group in groups | set(_groups_below(process.pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    process.wait()


def _groups_below(ancestor: int) -> list[int]:
    """Return the process groups of a process's descendants, where /proc lists them."""
    children: dict[int, list[tuple[int, int]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            # The name, in brackets, may hold anything.
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append((int(path.parent.name), int(fields[2])))
    found, waiting = [], [ancestor]
    while waiting:
        for child, group in children.get(waiting.pop(), ()):
            found.append(group)
            waiting.append(child)
    return found


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        # A second one must not keep the command from being ended.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
