"""Texts that are not read into memory: found, scanned, and encoded into the cache.

A text above STREAM_BYTES, or $CHARJAX_STREAM_BYTES, is read once for its facts, and once for its
tokens. The facts are kept with the sizes and times of its files, the tokens with its digest: a text
that has neither changed is not read again.
"""

import contextlib
import dataclasses
import functools
import os
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import DownloadColumn, TransferSpeedColumn

from charjax.data import blocks
from charjax.data.blocks import Block, decode_block, read_blocks
from charjax.data.cache_limits import check_disk
from charjax.data.cache_writing import Documents, Writer, make_entry
from charjax.data.compressed import packing_of, raw_chunks
from charjax.data.reading import ReadingRules, cannot_read, check_file
from charjax.data.scanning import TextFacts, scan
from charjax.data.text_files import Source, TextFile
from charjax.data.token_cache import Entry, cache_folder, digest_of, read_record, write_record
from charjax.data.tokenizers import ByteTokenizer, CharTokenizer
from charjax.errors import UserError
from charjax.progress import ProgressBar

STREAM_BYTES = 32_000_000
# A file that was written so short a time before it was read may be written again without a sign.
_RACY_NANOSECONDS = 1_000_000_000
# Bytes read between two looks at the free space of the disk.
_CHECK_DISK_EVERY = 1 << 28


@dataclasses.dataclass(frozen=True)
class StreamedText:
    """A text that is not in memory; otherwise as `charjax.data.texts.Corpus`.

    Attributes:
      name: the file's name.
      digest: SHA-256 of its bytes.
      notes: changes to the text to report to the user, one line each.
      field: the setting or flag that named it.
      files: the user's files that it consists of.
      facts: of the scan.
      source: where it is.
      rules: how it is decoded.
      left_out: characters that are left out of it.
    """

    name: str
    digest: str
    notes: tuple[str, ...]
    field: str
    files: tuple[TextFile, ...]
    facts: TextFacts
    source: Source
    rules: ReadingRules
    left_out: str = ""

    @functools.cached_property
    def tokenizer(self) -> CharTokenizer | ByteTokenizer:
        """The text's own tokenizer, as of one document."""
        if self.rules.encoding is None:
            return ByteTokenizer()
        return CharTokenizer.from_symbols("".join(self.counts))

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Number of occurrences of each symbol, without those left out."""
        pairs = zip(self.facts.symbols, self.facts.counts, strict=True)
        return {symbol: count for symbol, count in pairs if symbol not in self.left_out}

    @property
    def length(self) -> int:
        """Number of characters (or bytes), without those left out."""
        return sum(self.counts.values())

    def pieces(self, first: int = 0) -> Iterator[Any]:
        """Yield the text block by block, from a block's number on.

        Raises:
          UserError: it is not the text that was scanned.
        """
        expected = self.facts.blocks
        if first >= len(expected):
            return
        missing = str.maketrans(dict.fromkeys(self.left_out))
        start = expected[first].file, expected[first].offset
        found = read_blocks(self.source, self.rules, self.field, start)
        count = first
        for count, block in enumerate(found, first + 1):
            self._compare(count - 1, block)
            text = decode_block(block, self.rules)
            yield text.translate(missing) if isinstance(text, str) and self.left_out else text
        if count != len(expected):
            _forget(self.source, self.rules, self.field)
            raise _changed(self.source, expected[count].file, self.field)

    def _compare(self, number: int, block: Block) -> None:
        expected = self.facts.blocks
        found = block.file, block.offset, zlib.crc32(block.raw)
        if number >= len(expected) or found != expected[number][:3]:
            _forget(self.source, self.rules, self.field)
            raise _changed(self.source, block.file, self.field)


def stream_bytes() -> int:
    """Return the size of a text above which it is streamed.

    Raises:
      UserError: $CHARJAX_STREAM_BYTES is no number.
    """
    value = os.environ.get("CHARJAX_STREAM_BYTES")
    if not value:
        return STREAM_BYTES
    if not value.isdecimal():
        raise UserError(
            f"CHARJAX_STREAM_BYTES: {value!r} given; must be a number of bytes, 0 or more, from "
            "which on texts are streamed"
        )
    return int(value)


def is_long(source: Source, field: str) -> bool:
    """Return true if a text is to be streamed; of compressed files no more than needed is unpacked.

    Raises:
      UserError: a file is missing or cannot be read.
    """
    limit, total, packed = stream_bytes(), 0, []
    for file in source.files:
        check_file(file.path, field)
        try:
            if packing_of(file.path):
                packed.append(file.path)
            else:
                total += file.path.stat().st_size
        except OSError as error:
            raise cannot_read(file.path, field, error) from None
    if total > limit:
        return True
    for path in packed:
        for chunk in raw_chunks(path, field):
            total += len(chunk)
            if total > limit:
                return True
    return False


def open_streamed(source: Source, rules: ReadingRules, field: str) -> StreamedText:
    """Return a text that is not read into memory; its facts are kept for the next time.

    Raises:
      UserError: it cannot be read, is no text by these rules, or changes while it is read.
    """
    facts = _known_facts(source, rules, field) or _scan(source, rules, field)
    return StreamedText(
        source.name, facts.digest, facts.notes, field, facts.files, facts, source, rules
    )


def _scan(source: Source, rules: ReadingRules, field: str) -> TextFacts:
    started, before = time.time_ns(), _states(source, field)
    packed = any(packing_of(file.path) for file in source.files)
    total = None if packed else sum(state[0] for state in before)
    read = 0
    with _bar(f"reading {source.name}", total) as bar:

        def advance(count: int) -> None:
            nonlocal read
            if read // _CHECK_DISK_EVERY != (read + count) // _CHECK_DISK_EVERY:
                # A small file may unpack to more than any disk holds.
                check_disk(read // (_LONGEST_CHARACTER if rules.encoding else 1), field)
            read += count
            bar.update(completed=read)

        facts = scan(source, rules, field, advance)
    for index, (old, new) in enumerate(zip(before, _states(source, field), strict=True)):
        if old != new:
            raise _changed(source, index, field)
    tree = {"states": before, "scanned": started, "facts": facts.to_json()}
    try:
        path = cache_folder() / "sources" / f"{_source_key(source, rules, field)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, tree)
    except OSError as error:
        raise UserError(
            f"{field}: {source.name!r} is to be encoded into {str(cache_folder())!r}, which cannot "
            f"be written ({error.strerror or error}); set CHARJAX_CACHE to another directory"
        ) from None
    return facts


# Bytes of a character in UTF-8, at most.
_LONGEST_CHARACTER = 4


def _known_facts(source: Source, rules: ReadingRules, field: str) -> TextFacts | None:
    path = cache_folder() / "sources" / f"{_source_key(source, rules, field)}.json"
    record = read_record(path)
    if record is None or record["states"] != _states(source, field):
        return None
    newest = max(max(state[1:]) for state in record["states"])
    if newest > record["scanned"] - _RACY_NANOSECONDS:
        return None
    return TextFacts.from_json(record["facts"])


def _forget(source: Source, rules: ReadingRules, field: str) -> None:
    path = cache_folder() / "sources" / f"{_source_key(source, rules, field)}.json"
    with contextlib.suppress(OSError):
        path.unlink()


def _source_key(source: Source, rules: ReadingRules, field: str) -> str:
    paths = [[file.name, os.path.abspath(file.path)] for file in source.files]
    return digest_of([paths, source.joined, dataclasses.astuple(rules), field, blocks.BLOCK_BYTES])


def _states(source: Source, field: str) -> list[list[int]]:
    """Return size and times of each file."""
    states = []
    for file in source.files:
        check_file(file.path, field)
        try:
            found = file.path.stat()
        except OSError as error:
            raise cannot_read(file.path, field, error) from None
        states.append([found.st_size, found.st_mtime_ns, found.st_ctime_ns])
    return states


def _changed(source: Source, index: int, field: str) -> UserError:
    return UserError(
        f"{field}: {source.files[index].name!r} changed while it was read; start again when "
        "nothing writes it any more"
    )


def encode_streamed(text: StreamedText, tokenizer: CharTokenizer | ByteTokenizer) -> Entry:
    """Return the tokens of a whole text, in its order; they are written if they are not there.

    Args:
      text: the text.
      tokenizer: without boundaries, with all symbols of the text.

    Raises:
      UserError: the text has changed, or its tokens cannot be written.
    """
    facts = text.facts
    symbols = dataclasses.astuple(text.rules), tokenizer.digest(), text.left_out
    key = digest_of(["text", facts.digest, *symbols])
    plan = digest_of([tuple(block) for block in facts.blocks])

    def build(writer: Writer) -> tuple[dict[str, Any], list[Documents]]:
        first = len(writer.marks)
        done = facts.blocks[first - 1].end if first else 0
        with _bar(f"encoding {text.name}", facts.length, done) as bar:
            for block, piece in zip(facts.blocks[first:], text.pieces(first), strict=True):
                writer.append(tokenizer.encode(piece))
                bar.update(completed=block.end)
        return {}, []

    itemsize = np.min_scalar_type(tokenizer.vocab_size - 1).itemsize
    needed = text.length * itemsize
    return make_entry(
        key, build, tokenizer=tokenizer, needed=needed, field=text.field, name=text.name, plan=plan
    )


def _bar(label: str, total: int | None, completed: int = 0) -> ProgressBar:
    columns = (DownloadColumn(), TransferSpeedColumn())
    return ProgressBar(Console(stderr=True), label, *columns, total=total, completed=completed)
