"""One pass over a text that is not read into memory: its digest, symbols, notes and blocks.

It is what a text in memory is checked for, with the same messages.
"""

import contextlib
import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from charjax.data.blocks import Block, decode_block, file_blocks
from charjax.data.lists import LIST_START, looks_like_list
from charjax.data.reading import (
    BYTE_ORDER_MARK,
    ReadingRules,
    check_form,
    empty_file,
    likely_mistakes,
    line_ends_note,
    mark_note,
    not_utf8,
    utf8_remedy,
    zero_bytes,
)
from charjax.data.text_files import (
    FileFacts,
    Source,
    SourceFile,
    TextFile,
    all_empty,
    describe_files,
    in_folder_error,
)
from charjax.data.tokenizers import code_points
from charjax.errors import UserError


class BlockFacts(NamedTuple):
    """A block as the scan found it.

    Attributes:
      file: index of its file.
      offset: its first byte there.
      checksum: CRC-32 of its bytes.
      end: characters (or bytes) of the text up to its end.
    """

    file: int
    offset: int
    checksum: int
    end: int


@dataclasses.dataclass(frozen=True)
class TextFacts:
    """Facts of a text.

    Attributes:
      digest: SHA-256, as of `charjax.data.texts.Corpus`.
      files: the files, with notes.
      notes: changes to the text to report to the user, one line each.
      symbols: its characters in their order (of bytes: all 256).
      counts: how often each symbol occurs.
      is_list: it looks like a list (`looks_like_list`).
      blocks: its blocks.
    """

    digest: str
    files: tuple[TextFile, ...]
    notes: tuple[str, ...]
    symbols: str
    counts: tuple[int, ...]
    is_list: bool
    blocks: tuple[BlockFacts, ...]

    @property
    def length(self) -> int:
        """Number of characters (or bytes)."""
        return sum(self.counts)

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {**vars(self), "files": [dataclasses.astuple(each) for each in self.files]}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "TextFacts":
        """Return the facts of a `to_json` tree."""
        return cls(
            digest=tree["digest"],
            files=tuple(TextFile(*each) for each in tree["files"]),
            notes=tuple(tree["notes"]),
            symbols=tree["symbols"],
            counts=tuple(tree["counts"]),
            is_list=tree["is_list"],
            blocks=tuple(BlockFacts(*each) for each in tree["blocks"]),
        )


def scan(
    source: Source, rules: ReadingRules, field: str, advance: Callable[[int], None]
) -> TextFacts:
    """Read a text once.

    Args:
      source: its files.
      rules: how they are decoded.
      field: the setting or flag that names them.
      advance: called with the number of bytes of each block.

    Raises:
      UserError: a file cannot be read or is no text by these rules; all files are empty.
    """
    joined, counts, start = hashlib.sha256(), np.zeros(256, np.int64), _Start()
    read: list[FileFacts] = []
    blocks: list[BlockFacts] = []
    length = 0
    for index in range(len(source.files)):
        file = _FileScan(source, index, rules, field)
        for block in file_blocks(source, index, rules, field):
            text = file.add(block)
            advance(len(block.raw))
            if source.joined:
                joined.update(block.raw)
            if text is not None:
                counts = _add(counts, _count(text))
                length += len(text)
                start.add(text)
                blocks.append(BlockFacts(index, block.offset, zlib.crc32(block.raw), length))
        read.append(file.finish())
    if not length and not source.joined:
        raise empty_file(source.files[0].name, field)
    if not length:
        raise all_empty(source, field)
    present = np.flatnonzero(counts)
    if rules.encoding is None:
        present = np.arange(256)
    return TextFacts(
        digest=joined.hexdigest() if source.joined else read[0].file.digest,
        files=tuple(each.file for each in read),
        notes=describe_files(read, field) if source.joined else read[0].notes,
        symbols="".join(map(chr, present)),
        counts=tuple(counts[present].tolist()),
        is_list=looks_like_list(start.text),
        blocks=tuple(blocks),
    )


class _Start:
    """The first LIST_START characters (or bytes) of a text."""

    def __init__(self) -> None:
        self.text: Any = ""

    def add(self, text: Any) -> None:
        if len(self.text) < LIST_START:
            so_far = self.text or text[:0]
            self.text = so_far + text[: LIST_START - len(so_far)]


def _add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Add counts by symbol; the longer array is changed."""
    short, long = sorted((a, b), key=len)
    long[: len(short)] += short
    return long


def _count(text: str | bytes) -> np.ndarray:
    """Count how often each code point or byte occurs."""
    if isinstance(text, bytes):
        return np.bincount(np.frombuffer(text, np.uint8), minlength=256)
    counts = np.zeros(256, np.int64)
    for codes in code_points(text):
        counts = _add(counts, np.bincount(codes, minlength=256))
    return counts


class _FileScan:
    """One file of a text: what is noted of it, and its first mistake.

    A zero byte anywhere is reported rather than an earlier byte that is not UTF-8, so a mistake
    ends the decoding, not the reading.
    """

    def __init__(self, source: Source, index: int, rules: ReadingRules, field: str):
        self._file = source.files[index]
        self._rules, self._field = rules, field
        self._digest, self._size, self._newlines = hashlib.sha256(), 0, 0
        self._notes: tuple[str, ...] = ()
        self._zero: tuple[int, int] | None = None
        self._zeros = 0
        self._undecoded: tuple[int, int, int] | None = None
        self._ends = self._marks = self._returns = 0
        self._dropped = self._added = self._has_newline = False

    def add(self, block: Block) -> str | bytes | None:
        """Return the text of the next block, or None after a mistake."""
        raw, rules = block.raw, self._rules
        if not block.offset:
            with _with_advice(self._file):
                self._notes = check_form(block.form, rules, self._file.name, self._field)
        in_file = raw[: len(raw) - block.newline_added]
        self._digest.update(in_file)
        self._size += len(in_file)
        self._added = block.newline_added
        text = self._decode(block)
        self._newlines += raw.count(10)
        return text

    def _decode(self, block: Block) -> str | bytes | None:
        raw, rules = block.raw, self._rules
        if rules.encoding == "utf-8" and (zero := raw.find(0)) >= 0:
            at = block.offset + zero, self._newlines + raw.count(10, 0, zero) + 1
            self._zero = self._zero or at
            self._zeros += raw.count(0)
        if self._zero or self._undecoded:
            return None
        try:
            text = decode_block(block, rules)
        except UnicodeDecodeError as error:
            line = self._newlines + raw.count(10, 0, error.start) + 1
            self._undecoded = raw[error.start], block.offset + error.start, line
            return None
        if rules.to_lf and b"\r" in raw:
            self._ends += raw.count(b"\r\n")
        if isinstance(text, str) and rules.encoding == "utf-8":
            self._note(text, block)
        return text

    def _note(self, text: str, block: Block) -> None:
        is_first = not block.offset
        marked = is_first and block.raw.startswith(BYTE_ORDER_MARK.encode())
        self._dropped |= marked and self._rules.drop_mark
        self._marks += text.count(BYTE_ORDER_MARK) - (marked and not self._rules.drop_mark)
        self._returns += text.count("\r")
        self._has_newline |= "\n" in text

    def finish(self) -> FileFacts:
        """Return the file's facts, or raise the UserError of its mistake."""
        named = f"{self._field}: {self._file.name!r}"
        with _with_advice(self._file):
            if self._zero:
                raise zero_bytes(named, self._field, *self._zero, self._zeros)
            if self._undecoded:
                raise not_utf8(named, *self._undecoded, utf8_remedy(self._field))
        notes = mark_note(dropped=self._dropped) + line_ends_note(self._ends)
        if self._rules.encoding == "utf-8":
            notes += likely_mistakes(self._marks, self._returns, has_newline=self._has_newline)
        file = TextFile(self._file.name, self._size, self._digest.hexdigest())
        return FileFacts(file, self._notes + notes, self._added)


@contextlib.contextmanager
def _with_advice(file: SourceFile) -> Iterator[None]:
    """Add to a UserError the advice on files of a folder."""
    try:
        yield
    except UserError as error:
        if not file.in_folder:
            raise
        raise in_folder_error(error) from None
