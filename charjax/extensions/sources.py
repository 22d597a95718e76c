"""The files that the user has named: the only ones that are executed."""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from charjax.errors import UserError, printable
from charjax.extensions.references import VERSION_DIGITS

_LARGEST = 10_000_000


@dataclasses.dataclass(frozen=True)
class Source:
    """A file as it was read when it was named.

    Attributes:
      path: as the user wrote it.
      data: its bytes.
    """

    path: str
    data: bytes

    @property
    def file(self) -> str:
        """Its name, without folders."""
        return os.path.basename(self.path)

    @property
    def digest(self) -> str:
        """SHA-256 of its bytes."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def version(self) -> str:
        """The beginning of `digest`, which references hold."""
        return self.digest[:VERSION_DIGITS]


@dataclasses.dataclass
class _Names:
    """The files named so far.

    Attributes:
      sources: by name and version; of one name the last is the one named last.
      is_command: of one command, in which two files may not have one name.
      accepts_changes: a file may have changed since a run was begun.
    """

    sources: dict[str, dict[str, Source]] = dataclasses.field(default_factory=dict)
    is_command: bool = False
    accepts_changes: bool = False


_names = _Names()


def name_file(path: str | Path) -> Source:
    """Read a file, which may be executed from now on.

    Raises:
      UserError: it is no Python file, cannot be read, or has the name of another one.
    """
    path = os.path.expanduser(path)
    source = Source(path, _read(path))
    versions = _names.sources.setdefault(source.file, {})
    if source.version in versions:
        source = versions.pop(source.version)
    elif versions and _names.is_command:
        other = next(iter(versions.values()))
        raise UserError(
            f"--code: {source.path!r} and {other.path!r} given; a run knows files of code by their "
            "name: rename one"
        )
    versions[source.version] = source
    return source


def _read(path: str) -> bytes:
    if not path.endswith(".py"):
        raise UserError(f"--code: {path!r} given; its name must end with .py")
    if not os.path.isfile(path):
        what = "is a directory" if os.path.isdir(path) else "is not a file"
        raise UserError(f"{printable(path)}: {what}; give the Python file, as in ./mine.py:NAME")
    try:
        if os.path.getsize(path) > _LARGEST:
            raise UserError(f"{printable(path)}: over {_LARGEST:,} bytes; give a Python file")
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be read: {error.strerror}") from None


def named_source(file: str, version: str | None = None) -> Source | None:
    """Return the file named last of this name, and of this version if one is given."""
    versions = _names.sources.get(file, {})
    if version is not None:
        return versions.get(version)
    return next(reversed(versions.values()), None)


def named_sources() -> list[Source]:
    """Return all files named so far."""
    return [source for versions in _names.sources.values() for source in versions.values()]


def accepts_changes() -> bool:
    """Return True if a file may have changed since a run was begun."""
    return _names.accepts_changes


@contextlib.contextmanager
def separate_names() -> Iterator[None]:
    """Know no file but those named within: for a command, which may run in a longer process."""
    global _names
    before, _names = _names, _Names(is_command=True)
    try:
        yield
    finally:
        _names = before


@contextlib.contextmanager
def accepting_changes(accepts: bool = True) -> Iterator[None]:
    """Accept within that a file has changed since a run was begun."""
    names = _names
    before, names.accepts_changes = names.accepts_changes, accepts or names.accepts_changes
    try:
        yield
    finally:
        names.accepts_changes = before


def accept_changes() -> None:
    """Accept for the rest of a command that a file has changed since a run was begun."""
    _names.accepts_changes = True
