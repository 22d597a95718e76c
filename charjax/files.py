"""Files that are written whole or not at all: a disk may be full in the middle of a line."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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
