"""One writer for each run directory."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from charjax.errors import UserError
from charjax.files import cannot_write

# How often, and how many seconds apart, to look who holds a lock.
_HOLDER_TRIES = 20
_HOLDER_SECONDS = 0.05


class Lock:
    """One writer a directory; the kernel lets go when the process ends, however it ends."""

    def __init__(self, directory: Path):
        self._path = directory / ".lock"
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
          UserError: another process holds it, which is named; or nothing can be written there.
        """
        try:
            # Unbuffered: what a full disk refuses would be tried again when the file is closed.
            self._file = self._path.open("a+b", buffering=0)
            if _take(self._file):
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
        """Let go of it."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _take(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[bytes]) -> str:
    """The process that holds a lock.

    It writes its number after it has the lock, so for a moment an earlier one's may stand there.
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
        return True  # somebody else's
    except (ProcessLookupError, OverflowError):
        return False
    return True
