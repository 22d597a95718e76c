"""A text of files in blocks of bytes, each of which is decoded alone."""

from collections.abc import Iterator
from typing import NamedTuple

from charjax.data.compressed import raw_chunks
from charjax.data.reading import BYTE_ORDER_MARK, FORM_BYTES, ReadingRules, check_file
from charjax.data.text_files import Source

# Bytes of a block. Small enough for a list of short lines, whose tables are the larger part.
BLOCK_BYTES = 1 << 22


class Block(NamedTuple):
    """A part of a file that ends where a character and a line end are whole.

    Attributes:
      file: index of the file.
      offset: its first byte in the file, unpacked.
      raw: its bytes; of joined files, the newline that the file's end lacks is one of them.
      form: of the first block, the file's first FORM_BYTES; else empty.
      newline_added: the last byte is such a newline.
    """

    file: int
    offset: int
    raw: bytes
    form: bytes = b""
    newline_added: bool = False


def read_blocks(
    source: Source, rules: ReadingRules, field: str, first: tuple[int, int] = (0, 0)
) -> Iterator[Block]:
    """Yield the blocks of a text, from a file and an offset on; otherwise as `file_blocks`."""
    for index in range(first[0], len(source.files)):
        start = first[1] if index == first[0] else 0
        yield from file_blocks(source, index, rules, field, start)


def file_blocks(
    source: Source, index: int, rules: ReadingRules, field: str, offset: int = 0
) -> Iterator[Block]:
    """Yield the blocks of one file of a text; of an empty file, none.

    Args:
      source: the files.
      index: of the file.
      rules: how it is decoded.
      field: the setting or flag that names the text.
      offset: where a block begins.

    Raises:
      UserError: the file cannot be read, or unpacked.
    """
    path = source.files[index].path
    check_file(path, field)
    chunks = raw_chunks(path, field, offset)
    # A block that begins at the end of a file is the newline that it lacks.
    pending, last, size = bytearray(), b"" if offset else b"\n", BLOCK_BYTES
    at_end = added = False
    while True:
        while not at_end and len(pending) < max(size, FORM_BYTES):
            chunk = next(chunks, b"")
            pending += chunk
            if not chunk:
                at_end, added = True, source.joined and (bytes(pending[-1:]) or last) != b"\n"
                pending += b"\n" * added
        if not pending:
            return
        cut = len(pending)
        if not at_end or cut > size:
            cut = size - _held_back(bytes(pending[:size][-_LONGEST_CHARACTER:]), rules)
        if cut <= 0:
            size += _LONGEST_CHARACTER
            continue
        raw, form = bytes(pending[:cut]), b"" if offset else bytes(pending[:FORM_BYTES])
        del pending[:cut]
        yield Block(index, offset, raw, form, added and at_end and not pending)
        offset, last, size = offset + cut, raw[-1:], BLOCK_BYTES


# Bytes of UTF-8.
_LONGEST_CHARACTER = 4


def _held_back(tail: bytes, rules: ReadingRules) -> int:
    """Return how many of the last bytes belong to the next block."""
    held = _unfinished(tail[-3:]) if rules.encoding == "utf-8" else 0
    rest = tail[: len(tail) - held]
    return held + (rules.to_lf and rest[-1:] == b"\r")


def _unfinished(tail: bytes) -> int:
    """Return the length of the UTF-8 character that is cut off at the end, or 0."""
    for length in range(1, len(tail) + 1):
        byte = tail[-length]
        if byte & 0xC0 != 0x80:
            needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return length if length < needed else 0
    return 0


def decode_block(block: Block, rules: ReadingRules) -> str | bytes:
    """Decode a block.

    Raises:
      UnicodeDecodeError: it is not in the encoding.
    """
    # To find one byte is several times as fast as to find two.
    has_returns = rules.to_lf and b"\r" in block.raw
    if rules.encoding is None:
        return block.raw.replace(b"\r\n", b"\n") if has_returns else block.raw
    text = block.raw.decode(rules.encoding)
    if rules.drop_mark and not block.offset:
        text = text.removeprefix(BYTE_ORDER_MARK)
    return text.replace("\r\n", "\n") if has_returns else text
