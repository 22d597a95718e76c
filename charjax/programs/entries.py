"""The files of stored programs: written whole, checked when they are read, limited in size.

Four kinds, each named by a digest. KEY.program is a compiled program. KEY.entry, by what a program
is made from, names one and holds the structure of its results; programs of several
entries may be the same. KEY.shapes holds the shapes of a state. KEY.hint names the entries that a
command with these settings used last.
"""

import contextlib
import hashlib
import os
import time
from pathlib import Path

from charjax.files import replacing

# All files together; the ones that were used longest ago are removed.
LIMIT = 1_000_000_000
_KINDS = (".program", ".entry", ".shapes", ".hint")
_MAGIC = b"charjax program 1\n"
_DIGEST_BYTES = 32
# A file that is being written is younger than this, in seconds.
_ABANDONED = 3600


class DamagedError(Exception):
    """A file is not what was written."""


def read(path: Path) -> bytes | None:
    """Return what was written to a file; None if there is none.

    Raises:
      DamagedError: it has been changed or cut, or cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedError(str(error)) from None
    start = len(_MAGIC) + _DIGEST_BYTES
    body = data[start:]
    if data[:start] != _MAGIC + hashlib.sha256(body).digest():
        raise DamagedError(f"{str(path)!r} has been changed or cut")
    with contextlib.suppress(OSError):
        # The time of its last use.
        os.utime(path)
    return body


def write(path: Path, body: bytes) -> None:
    """Write a file whole, whoever else writes it.

    Raises:
      OSError: it cannot be written.
    """
    with replacing(path, shared=True) as temporary:
        temporary.write_bytes(_MAGIC + hashlib.sha256(body).digest() + body)


def make_room(folder: Path) -> None:
    """Remove what was used longest ago beyond LIMIT, and what killed processes left."""
    now, found = time.time(), []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            facts = path.stat()
            if path.suffix in _KINDS:
                found.append((facts.st_mtime, facts.st_size, path))
            elif path.suffix == ".tmp" and now - facts.st_mtime > _ABANDONED:
                path.unlink()
    held = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if held <= LIMIT:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            held -= size
