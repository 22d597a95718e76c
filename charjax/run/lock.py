"""One writer for each run directory.

The lock is flock's. Where Python has none (Windows without WSL), nothing keeps a second writer out,
and that is noted: a file that stands for a lock would outlive a killed process, and its run could
not be resumed.
"""

import functools
import os
import time
from pathlib import Path
from typing import IO

from charjax.cli import remark
from charjax.errors import UserError
from charjax.files import cannot_write, has_locks, try_lock

# Tries to find the process that holds a lock, and seconds between them.
_HOLDER_TRIES = 20
_HOLDER_SECONDS = 0.05


class Lock:
    """A lock on a directory for one writer; the kernel releases it when the process ends.

    Where the system has no locks, `acquire` always succeeds, with a note.
    """

    def __init__(self, directory: Path):
        self._path = directory / ".lock"
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
          UserError: another process holds it, which is named; or nothing can be written there.
        """
        if not has_locks():
            _note_no_locks()
        try:
            # Unbuffered: closing a buffered file would try again what a full disk refused.
            self._file = self._path.open("a+b", buffering=0)
            if try_lock(self._file):
                self._file.truncate(0)
                self._file.write(str(os.getpid()).encode())
                return
            holder = _holder(self._file)
        except OSError as error:
            self.release()
            raise cannot_write(self._path.parent, error.strerror) from None
        self.release()
        raise UserError(
            f"workdir: {str(self._path.parent)!r} is being written by process {holder}; wait "
            "for it, stop it, or give another --workdir"
        )

    def release(self) -> None:
        """Release the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None


def is_held(directory: Path) -> bool:
    """Return whether a process has the lock of a directory; nothing is written there.

    False where the system has no locks.
    """
    try:
        with (directory / ".lock").open("rb") as file:
            return not try_lock(file)
    except OSError:
        return False


@functools.cache
def _note_no_locks() -> None:
    remark("this system has no file locks: let only one process at a time write a run's directory")


def _holder(file: IO[bytes]) -> str:
    """Return the number of the process that holds a lock, or "unknown".

    It writes its number after it has the lock, so for a moment the file may hold an earlier one's.
    """
    for _ in range(_HOLDER_TRIES):
        file.seek(0)
        number = file.read().decode("ascii", "replace").strip()
        if number.isdecimal() and _is_alive(int(number)):
            return number
        time.sleep(_HOLDER_SECONDS)
    return "unknown"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True  # another user's
    except (ProcessLookupError, OverflowError):
        return False
    return True
