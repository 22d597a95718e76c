"""Texts as they were read: one file, or several and whole folders joined to one text."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charjax.data.reading import MOST_BYTES, ReadingRules, decode_file, read_bytes
from charjax.errors import UserError

# A note names no more files than these.
_SHOWN_FILES = 3


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A file of a text, as a run records it.

    Attributes:
      name: its path, as it was given or found.
      size: in bytes.
      digest: SHA-256 of its bytes.
    """

    name: str
    size: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text as it was read.

    Attributes:
      name: the corpus's name, or the file's.
      text: characters; bytes for the byte tokenizer.
      digest: SHA-256 of the file's bytes (several files: of all of them, each ended by a newline,
        concatenated).
      notes: changes to the text to report to the user, one line each.
      field: the setting or flag that named it.
      files: the user's files that it consists of.
    """

    name: str
    text: str | bytes
    digest: str
    notes: tuple[str, ...] = ()
    field: str = "data.name"
    files: tuple[TextFile, ...] = ()


def read_text(source: str | tuple[str, ...], rules: ReadingRules, field: str) -> Corpus:
    """Read a file, a folder of files, or a list of either.

    The files of a list keep their order, those of a folder are sorted by path. Each is decoded
    alone, and a newline is added to one that does not end with it. Empty files add nothing.

    Args:
      source: its path, or several.
      rules: how each file is read.
      field: the setting or flag that names it.

    Raises:
      UserError: a file is missing, cannot be read or is no text by these rules; a folder has no
        files; all files are empty.
    """
    if isinstance(source, str) and not os.path.isdir(os.path.expanduser(source)):
        return read_file(source, rules, field)
    entries = [source] if isinstance(source, str) else list(source)
    paths = [found for entry in entries for found in _files_of(entry, field)]
    _check_total(paths, field)
    read = [_read_one(path, in_folder, rules, field) for path, in_folder in paths]
    pieces = [piece for piece in read if piece.text]
    if not pieces:
        raise UserError(
            f"{field}: all {len(read):,} files of {entries[0]!r} are empty; give files with text"
        )
    texts: list[Any] = [piece.text for piece in pieces]
    joined = texts[0][:0].join(texts)
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece.raw)
    name = Path(os.path.abspath(os.path.expanduser(entries[0]))).name
    name += f" and {len(entries) - 1} more" if len(entries) > 1 else ""
    files = tuple(piece.file for piece in read)
    return Corpus(name, joined, digest.hexdigest(), _notes(read, field), field, files)


def read_file(name: str, rules: ReadingRules, field: str) -> Corpus:
    """Read one text file of the user's; arguments and errors are those of `read_text`."""
    path = Path(os.path.expanduser(name))
    raw = read_bytes(path, field)
    text, notes = decode_file(raw, rules, name, field)
    digest = hashlib.sha256(raw).hexdigest()
    return Corpus(path.name, text, digest, notes, field, (TextFile(name, len(raw), digest),))


def exists(source: str | tuple[str, ...]) -> bool:
    """Return true if every path of a text exists."""
    paths = (source,) if isinstance(source, str) else source
    return all(os.path.exists(os.path.expanduser(path)) for path in paths)


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A file of several: its text and bytes end with a newline, or are empty."""

    file: TextFile
    text: str | bytes
    raw: bytes
    notes: tuple[str, ...] = ()
    newline_added: bool = False


def _files_of(entry: str, field: str) -> list[tuple[str, bool]]:
    """Return the files of one entry of a list; of each, whether a folder holds it."""
    path = os.path.expanduser(entry)
    if not os.path.isdir(path):
        return [(entry, False)]
    found = sorted(_walk(path, field), key=lambda file: Path(file).parts)
    if not found:
        raise UserError(
            f"{field}: the folder {entry!r} holds no files (hidden ones are left out); give one "
            "with text files in it"
        )
    return [(file, True) for file in found]


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


def _check_total(paths: list[tuple[str, bool]], field: str) -> None:
    sizes = [
        os.path.getsize(os.path.expanduser(path))
        for path, _ in paths
        if os.path.isfile(os.path.expanduser(path))
    ]
    if sum(sizes) + len(sizes) > MOST_BYTES:
        raise UserError(
            f"{field}: {len(sizes):,} files of {sum(sizes):,} bytes in all given, and at most "
            f"{MOST_BYTES:,} are allowed; give fewer"
        )


def _read_one(path: str, in_folder: bool, rules: ReadingRules, field: str) -> _Piece:
    raw = read_bytes(Path(os.path.expanduser(path)), field)
    file = TextFile(path, len(raw), hashlib.sha256(raw).hexdigest())
    if not raw:
        return _Piece(file, raw, raw)
    added = not raw.endswith(b"\n")
    raw += b"\n" * added
    try:
        text, notes = decode_file(raw, rules, path, field)
    except UserError as error:
        if not in_folder:
            raise
        raise UserError(
            f"{error}; or move it out of the folder, of which every file that is not hidden is read"
        ) from None
    return _Piece(file, text, raw, notes, added)


def _notes(read: list[_Piece], field: str) -> tuple[str, ...]:
    """Describe the files; of the notes on single files, return the first of each kind."""
    total = sum(piece.file.size for piece in read)
    names = [piece.file.name for piece in read[:_SHOWN_FILES]]
    shown = ", ".join(names) + (", ..." if len(read) > _SHOWN_FILES else "")
    notes = [f"{field} is {len(read):,} files joined, {total:,} bytes: {shown}"]
    if empty := sum(not piece.raw for piece in read):
        notes.append(f"{empty:,} of these files are empty")
    if added := sum(piece.newline_added for piece in read):
        notes.append(f"{added:,} of these files did not end with a newline; one was added to each")
    changed = [(piece.file.name, piece.notes) for piece in read if piece.notes]
    for name, lines in changed[:_SHOWN_FILES]:
        notes += [f"{name}: {line}" for line in lines]
    if len(changed) > _SHOWN_FILES:
        notes.append(f"likewise in {len(changed) - _SHOWN_FILES:,} more files")
    return tuple(notes)
