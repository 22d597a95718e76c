"""Files that are written whole or not at all: a disk may be full in the middle of a line."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charjax.errors import UserError


def append(path: Path, text: str, *, begin: bool = True) -> None:
    """Add a text to the end of a file; one that is not there is begun only with `begin`.

    Raises:
      OSError: it cannot be written, and the file is named; nothing was added.
    """
    # Unbuffered: a buffer would be written once more when the file is closed.
    with named(path), path.open("ab" if begin else "r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        left = memoryview(text.encode())
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(size)
            raise


def replace(path: Path, data: bytes | str) -> None:
    """Put a file in its place, or in that of an older one, in one move.

    Raises:
      OSError: it cannot be written, and the file is named; the older one is as it was.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with named(path):
        try:
            temporary.write_bytes(data.encode() if isinstance(data, str) else data)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Name the file in an error of writing, which knows none, unlike one of opening."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def make_directory(directory: Path, flag: str) -> None:
    """Make a directory that a flag names, or raise a UserError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_make(directory, flag, error.strerror) from None


def check_directory(directory: Path, flag: str) -> None:
    """Raise the UserError of `make_directory`, or of one that cannot be written; make nothing."""
    try:
        there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        is_directory = there.is_dir()
    except OSError as error:
        raise _cannot_make(directory, flag, error.strerror) from None
    if not is_directory:
        reason = errno.EEXIST if there == directory else errno.ENOTDIR
        raise _cannot_make(directory, flag, os.strerror(reason))
    if not os.access(there, os.W_OK | os.X_OK):
        if there == directory:
            raise cannot_write(directory, os.strerror(errno.EACCES))
        raise _cannot_make(directory, flag, os.strerror(errno.EACCES))


def _cannot_make(directory: Path, flag: str, reason: str | None) -> UserError:
    return UserError(f"{flag}: {str(directory)!r} cannot be made: {reason}; give another one")


def cannot_write(directory: Path, reason: str | None) -> UserError:
    """Return the error of a run directory that cannot be written."""
    return UserError(
        f"workdir: {str(directory)!r} cannot be written: {reason}; give another --workdir"
    )


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Replace a JSON file in one move."""
    replace(path, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def user_cache() -> Path | None:
    """The user's cache directory, not made yet; None where there is no home directory."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path there is to be ignored.
    if not os.path.isabs(given):
        given = os.path.expanduser("~/.cache")
    return Path(given) / "charjax" if os.path.isabs(given) else None
