"""Texts as they were read: one file, or several and whole folders joined to one text."""

import dataclasses
import hashlib
import os
from typing import Any

from charjax.data.compressed import packing_of, read_unpacked
from charjax.data.reading import (
    MOST_BYTES,
    ReadingRules,
    cannot_read,
    check_file,
    decode_file,
    read_bytes,
)
from charjax.data.streaming import StreamedText, is_long, open_streamed
from charjax.data.text_files import (
    FileFacts,
    Source,
    SourceFile,
    TextFile,
    all_empty,
    describe_files,
    find_source,
    in_folder_error,
)
from charjax.errors import UserError


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

    @property
    def length(self) -> int:
        """Number of characters (or bytes)."""
        return len(self.text)


def read_text(
    source: str | tuple[str, ...], rules: ReadingRules, field: str, *, whole: bool = False
) -> Corpus | StreamedText:
    """Read a file, a folder of files, or a list of either.

    The files of a list keep their order, those of a folder are sorted by path. Each is unpacked if
    it is compressed, and decoded alone, and a newline is added to one that does not end with it.
    Empty files add nothing.

    Args:
      source: its path, or several.
      rules: how each file is read.
      field: the setting or flag that names it.
      whole: read it into memory, however long it is.

    Raises:
      UserError: a file is missing, cannot be read or is no text by these rules; a folder has no
        files; all files are empty.
    """
    found = find_source(source, field)
    if not whole and is_long(found, field):
        return open_streamed(found, rules, field)
    return _read_joined(found, rules, field) if found.joined else _read_file(found, rules, field)


def read_file(
    name: str, rules: ReadingRules, field: str, *, whole: bool = False
) -> Corpus | StreamedText:
    """Read one text file of the user's; arguments and errors are those of `read_text`."""
    file = SourceFile(name, in_folder=False)
    source = Source(file.path.name, name, (file,), joined=False)
    if not whole and is_long(source, field):
        return open_streamed(source, rules, field)
    return _read_file(source, rules, field)


def _read_file(source: Source, rules: ReadingRules, field: str) -> Corpus:
    (file,) = source.files
    raw = _read_raw(file, field)
    text, notes = decode_file(raw, rules, file.name, field)
    digest = hashlib.sha256(raw).hexdigest()
    return Corpus(source.name, text, digest, notes, field, (TextFile(file.name, len(raw), digest),))


def _read_raw(file: SourceFile, field: str) -> bytes:
    check_file(file.path, field)
    try:
        packing = packing_of(file.path)
    except OSError as error:
        raise cannot_read(file.path, field, error) from None
    return read_unpacked(file.path, field) if packing else read_bytes(file.path, field)


def _read_joined(source: Source, rules: ReadingRules, field: str) -> Corpus:
    _check_total(source, field)
    read = [_read_one(file, rules, field) for file in source.files]
    pieces = [piece for piece in read if piece.text]
    if not pieces:
        raise all_empty(source, field)
    texts: list[Any] = [piece.text for piece in pieces]
    joined = texts[0][:0].join(texts)
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece.raw)
    facts = [piece.facts for piece in read]
    files = tuple(each.file for each in facts)
    notes = describe_files(facts, field)
    return Corpus(source.name, joined, digest.hexdigest(), notes, field, files)


def exists(source: str | tuple[str, ...]) -> bool:
    """Return true if every path of a text exists."""
    paths = (source,) if isinstance(source, str) else source
    return all(os.path.exists(os.path.expanduser(path)) for path in paths)


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A file of several: its text and bytes end with a newline, or are empty."""

    text: str | bytes
    raw: bytes
    facts: FileFacts


def _check_total(source: Source, field: str) -> None:
    paths = [file.path for file in source.files]
    sizes = [os.path.getsize(path) for path in paths if os.path.isfile(path)]
    if sum(sizes) + len(sizes) > MOST_BYTES:
        raise UserError(
            f"{field}: {len(sizes):,} files of {sum(sizes):,} bytes in all given, and at most "
            f"{MOST_BYTES:,} are read into memory (texts of data.tokenizer=char or byte are not); "
            "give fewer"
        )


def _read_one(file: SourceFile, rules: ReadingRules, field: str) -> _Piece:
    raw = _read_raw(file, field)
    facts = TextFile(file.name, len(raw), hashlib.sha256(raw).hexdigest())
    if not raw:
        return _Piece(raw, raw, FileFacts(facts, (), newline_added=False))
    added = not raw.endswith(b"\n")
    raw += b"\n" * added
    try:
        text, notes = decode_file(raw, rules, file.name, field)
    except UserError as error:
        if not file.in_folder:
            raise
        raise in_folder_error(error) from None
    return _Piece(text, raw, FileFacts(facts, notes, added))
