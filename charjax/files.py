"""Writing files whole or not at all, even if the disk is full; locks; directories of flags."""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from charjax.errors import UserError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


def append(path: Path, text: str, *, create: bool = True) -> None:
    """Add a text to the end of a file.

    Args:
      path: the file.
      text: what is added.
      create: whether to create a missing file; otherwise that is an error.

    Raises:
      OSError: it cannot be written, and the file is named; nothing was added.
    """
    # Unbuffered: closing a buffered file would try again to write what a full disk refused.
    with named(path), path.open("ab" if create else "r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        rest = memoryview(text.encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(size)
            raise


def replace(path: Path, data: bytes | str) -> None:
    """Write a file, in the place of an older one if there is one, in one move.

    Raises:
      OSError: it cannot be written, and the file is named; the older one is untouched.
    """
    with named(path), replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, moved into place when the body ends.

    The body writes a file there, or makes a directory. If it raises, whatever it wrote is removed,
    and what stood at `path` is untouched.

    Args:
      path: a file; or a directory that does not exist yet, or is empty.
      shared: whether other processes may write `path` at the same time. The temporary name is then
        unique; otherwise it is fixed, so that a later write overwrites what a killed one left.

    Raises:
      OSError: it cannot be moved into place.
    """
    name = f".{path.name}.{secrets.token_hex(8)}.tmp" if shared else f"{path.name}.tmp"
    temporary = path.with_name(name)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
        raise


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Add the file's name to an OSError without one: writing raises such, opening does not."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def make_directory(directory: Path, flag: str) -> None:
    """Make the directory that a flag names, or raise a UserError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_make(directory, flag, error.strerror) from None


def check_directory(directory: Path, flag: str) -> None:
    """Raise a UserError unless a directory can be made or, if it exists, written."""
    try:
        parents = (directory, *directory.absolute().parents)
        existing = next(path for path in parents if path.exists())
        is_directory = existing.is_dir()
    except OSError as error:
        raise _cannot_make(directory, flag, error.strerror) from None
    if not is_directory:
        reason = errno.EEXIST if existing == directory else errno.ENOTDIR
        raise _cannot_make(directory, flag, os.strerror(reason))
    if not os.access(existing, os.W_OK | os.X_OK):
        if existing == directory:
            raise cannot_write(directory, os.strerror(errno.EACCES))
        raise _cannot_make(directory, flag, os.strerror(errno.EACCES))


def _cannot_make(directory: Path, flag: str, reason: str | None) -> UserError:
    return UserError(f"{flag}: {str(directory)!r} cannot be made: {reason}; give another one")


def cannot_write(directory: Path, reason: str | None) -> UserError:
    """Return the error of a run directory that cannot be written."""
    return UserError(
        f"workdir: {str(directory)!r} cannot be written: {reason}; give another --workdir"
    )


def has_locks() -> bool:
    """Return whether the system has the locks of `try_lock`."""
    return fcntl is not None


def try_lock(file: IO[bytes]) -> bool:
    """Take the lock of a file, held until it is closed; return false if another process has it.

    Where the system has no locks, it is always taken.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Replace a JSON file in one move."""
    replace(path, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def user_cache() -> Path | None:
    """Return the user's cache directory, not made yet; None where there is no home directory.

    It is $CHARJAX_CACHE, or `charjax` in the cache directory of the XDG specification.
    """
    if value := os.environ.get("CHARJAX_CACHE"):
        return Path(os.path.abspath(os.path.expanduser(value)))
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path there is to be ignored.
    if not os.path.isabs(cache):
        cache = os.path.expanduser("~/.cache")
    return Path(cache) / "charjax" if os.path.isabs(cache) else None
