"""One writer for each run directory."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from charjax.errors import UserError
from charjax.files import cannot_write

# Tries to find the process that holds a lock, and seconds between them.
_HOLDER_TRIES = 20
_HOLDER_SECONDS = 0.05


class Lock:
    """A lock on a directory for one writer; the kernel releases it when the process ends."""

    def __init__(self, directory: Path):
        self._path = directory / ".lock"
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
          UserError: another process holds it, which is named; or nothing can be written there.
        """
        try:
            # Unbuffered: closing a buffered file would try again what a full disk refused.
            self._file = self._path.open("a+b", buffering=0)
            if _try_lock(self._file):
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
    """Return whether a process has the lock of a directory; nothing is written there."""
    try:
        with (directory / ".lock").open("rb") as file:
            return not _try_lock(file)
    except OSError:
        return False


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
