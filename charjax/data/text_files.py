"""The files of a text: a list and its folders, what a run records of them, and notes on them."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from charjax.errors import UserError

# A note names no more files than these.
_SHOWN_FILES = 3


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A file of a text, as a run records it.

    Attributes:
      name: its path, as it was given or found.
      size: in bytes, unpacked.
      digest: SHA-256 of its bytes, unpacked.
    """

    name: str
    size: int
    digest: str


class FileFacts(NamedTuple):
    """A file that was read.

    Attributes:
      file: its name, size and digest.
      notes: changes to its text, one line each.
      newline_added: it did not end with a newline, and got one.
    """

    file: TextFile
    notes: tuple[str, ...]
    newline_added: bool


class SourceFile(NamedTuple):
    """A file to be read.

    Attributes:
      name: its path, as it was given or found.
      in_folder: a folder that was given holds it.
    """

    name: str
    in_folder: bool

    @property
    def path(self) -> Path:
        """Its path, with the home directory in the place of ~."""
        return Path(os.path.expanduser(self.name))


class Source(NamedTuple):
    """The files of a text, in their order.

    Attributes:
      name: of the text: its file's, or its first entry's and the number of the others.
      first: the first entry, as it was given.
      files: the files.
      joined: a folder or a list was given: files are joined, and each ends with a newline.
    """

    name: str
    first: str
    files: tuple[SourceFile, ...]
    joined: bool


def find_source(source: str | tuple[str, ...], field: str) -> Source:
    """Return the files of a path, or of several.

    The files of a list keep their order, those of a folder are sorted by path.

    Args:
      source: a path, or several.
      field: the setting or flag that names it.

    Raises:
      UserError: a folder has no files, or cannot be read.
    """
    if isinstance(source, str) and not os.path.isdir(os.path.expanduser(source)):
        file = SourceFile(source, in_folder=False)
        return Source(file.path.name, source, (file,), joined=False)
    entries = [source] if isinstance(source, str) else list(source)
    files = tuple(found for entry in entries for found in _files_of(entry, field))
    name = Path(os.path.abspath(os.path.expanduser(entries[0]))).name
    name += f" and {len(entries) - 1} more" if len(entries) > 1 else ""
    return Source(name, entries[0], files, joined=True)


def _files_of(entry: str, field: str) -> list[SourceFile]:
    """Return the files of one entry of a list."""
    path = os.path.expanduser(entry)
    if not os.path.isdir(path):
        return [SourceFile(entry, in_folder=False)]
    found = sorted(_walk(path, field), key=lambda file: Path(file).parts)
    if not found:
        raise UserError(
            f"{field}: the folder {entry!r} holds no files (hidden ones are left out); give one "
            "with text files in it"
        )
    return [SourceFile(file, in_folder=True) for file in found]


def _walk(folder: str, field: str) -> Iterator[str]:
    """Yield the files below a folder; nothing hidden, and no folder that is a link."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{field}: the folder {error.filename!r} cannot be read ({error.strerror}); give one "
            "that you may read"
        )

    for inside, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(inside, name) for name in files if not name.startswith("."))


def all_empty(source: Source, field: str) -> UserError:
    """Return the error of files without any text."""
    return UserError(
        f"{field}: all {len(source.files):,} files of {source.first!r} are empty; give files with "
        "text"
    )


def in_folder_error(error: UserError) -> UserError:
    """Return the error of a file that a folder holds."""
    return UserError(
        f"{error}; or move it out of the folder, of which every file that is not hidden is read"
    )


def describe_files(read: Sequence[FileFacts], field: str) -> tuple[str, ...]:
    """Note which files were joined; of the notes on single files, return the first of each kind."""
    total = sum(each.file.size for each in read)
    names = [each.file.name for each in read[:_SHOWN_FILES]]
    shown = ", ".join(names) + (", ..." if len(read) > _SHOWN_FILES else "")
    notes = [f"{field} is {len(read):,} files joined, {total:,} bytes: {shown}"]
    if empty := sum(not each.file.size for each in read):
        notes.append(f"{empty:,} of these files are empty")
    if added := sum(each.newline_added for each in read):
        notes.append(f"{added:,} of these files did not end with a newline; one was added to each")
    changed = [(each.file.name, each.notes) for each in read if each.notes]
    for name, lines in changed[:_SHOWN_FILES]:
        notes += [f"{name}: {line}" for line in lines]
    if len(changed) > _SHOWN_FILES:
        notes.append(f"likewise in {len(changed) - _SHOWN_FILES:,} more files")
    return tuple(notes)
