"""Writing entries of the cache of encoded texts: whole or not at all, and again after a kill."""

import contextlib
import itertools
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charjax import files
from charjax.data.cache_limits import make_room
from charjax.data.token_cache import (
    Entry,
    cache_folder,
    find_entry,
    locked,
    read_record,
    remove_entry,
    size_of,
    write_record,
)
from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError

# Bytes written between two records from which a killed process's work is continued.
_RECORDED_EVERY = 1 << 28


class Documents(NamedTuple):
    """The documents of a part of a text.

    Attributes:
      lengths: targets of each, (D,) of any integers.
      shared: the end of each is the start of the next.
    """

    lengths: np.ndarray
    shared: bool

    def starts(self) -> np.ndarray:
        """Return the first token of each within the part, (D,) int64."""
        ends = np.cumsum(self.lengths, dtype=np.int64)
        ends -= self.lengths
        return ends if self.shared else ends + np.arange(len(ends))


# Writes the pieces that an entry lacks; returns its facts, and the documents of each part.
Build = Callable[["Writer"], tuple[dict[str, Any], list[Documents]]]


def make_entry(
    key: str,
    build: Build,
    *,
    tokenizer: Tokenizer,
    needed: int,
    field: str,
    name: str,
    plan: str = "",
) -> Entry:
    """Return an entry; write it if there is none.

    Args:
      key: of the entry.
      build: writes its tokens.
      tokenizer: of the tokens.
      needed: its bytes on the disk.
      field: the setting or flag that names the text.
      name: of the text.
      plan: names the division into pieces; what was written by the same one is continued. "":
        nothing is continued.

    Raises:
      UserError: it does not fit, cannot be written, or is `build`'s.
    """
    if (entry := find_entry(key)) is not None:
        return entry
    folder = cache_folder()
    try:
        with locked(key, name):
            # Another process may have made it in the meantime.
            if (entry := find_entry(key)) is None:
                _write(key, build, tokenizer, needed, field, plan, name)
                entry = find_entry(key)
    except OSError as error:
        raise UserError(
            f"{field}: the tokens of {name!r} cannot be written to {str(folder)!r} "
            f"({error.strerror or error}; {needed:,} bytes are needed); free some "
            "(charjax cache --clear), or set CHARJAX_CACHE to a directory with room"
        ) from None
    if entry is None:
        raise UserError(
            f"{field}: the tokens of {name!r} were removed from {str(folder)!r} as soon as they "
            "were written; raise the limit (charjax cache --limit SIZE), and start again"
        )
    return entry


def _write(
    key: str, build: Build, tokenizer: Tokenizer, needed: int, field: str, plan: str, name: str
) -> None:
    with contextlib.ExitStack() as stack:
        writer = Writer(key, tokenizer, plan)
        stack.callback(writer.close)
        try:
            make_room(key, needed - writer.written_bytes, field)
            facts, documents = build(writer)
            writer.finish({"text": name, **facts}, documents)
        # After a signal everything stays, for the next start.
        except (UserError, OSError):
            writer.close()
            remove_entry(key)
            raise


class Writer:
    """Writes the tokens of an entry in pieces.

    Attributes:
      marks: (end, checksum, characters, bytes) of each piece written, cumulative but for the
        CRC-32; those of an earlier process at first.
    """

    def __init__(self, key: str, tokenizer: Tokenizer, plan: str):
        self._folder, self._key, self._tokenizer = cache_folder(), key, tokenizer
        self._dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
        self._plan, self._recorded = plan, 0
        self.marks: list[list[int]] = self._earlier()
        self._file = self._path(".part").open("r+b" if self.marks else "wb", buffering=0)
        self._file.truncate(self.written_bytes)
        self._file.seek(self.written_bytes)
        self._recorded = self.written_bytes

    def _path(self, suffix: str) -> Path:
        return self._folder / f"{self._key}{suffix}"

    def _earlier(self) -> list[list[int]]:
        """Return the marks of pieces that a killed process has left on the disk."""
        record, part = read_record(self._path(".part.json")), self._path(".part")
        if not self._plan or record is None or record["plan"] != self._plan or not part.exists():
            return []
        marks: list[list[int]] = record["marks"]
        is_there = part.stat().st_size >= marks[-1][0] * self._dtype.itemsize
        return marks if is_there else []

    @property
    def written(self) -> int:
        """Number of tokens written."""
        return self.marks[-1][0] if self.marks else 0

    @property
    def written_bytes(self) -> int:
        """Bytes written."""
        return self.written * self._dtype.itemsize

    def append(self, tokens: np.ndarray) -> None:
        """Write a piece.

        Raises:
          OSError: the disk is full, or the file cannot be written.
        """
        data = np.ascontiguousarray(tokens, self._dtype)
        rest = memoryview(data).cast("B") if len(data) else memoryview(b"")
        checksum = zlib.crc32(rest)
        while rest:
            rest = rest[self._file.write(rest) :]
        size = size_of(data, self._tokenizer)
        _, _, characters, in_bytes = self.marks[-1] if self.marks else (0, 0, 0, 0)
        before = self.written
        self.marks.append(
            [before + size.tokens, checksum, characters + size.characters, in_bytes + size.bytes]
        )
        if self._plan and self.written_bytes - self._recorded >= _RECORDED_EVERY:
            os.fsync(self._file.fileno())
            write_record(self._path(".part.json"), {"plan": self._plan, "marks": self.marks})
            self._recorded = self.written_bytes

    def view(self) -> np.ndarray:
        """Return the tokens written, (N,), in the file."""
        return np.memmap(self._path(".part"), self._dtype, "r", shape=(self.written,))

    def finish(self, facts: dict[str, Any], documents: list[Documents]) -> None:
        """Give the entry its name; the record comes last.

        Args:
          facts: JSON values.
          documents: of each part.

        Raises:
          OSError: it cannot be written.
        """
        os.fsync(self._file.fileno())
        checksum, times, count = 0, [], sum(len(part.lengths) for part in documents)
        if documents:
            path = self._path(".documents")
            with files.named(path), files.replacing(path, shared=True) as temporary:
                checksum = _write_documents(temporary, documents)
            times.append(path.stat().st_mtime_ns)
        self._path(".part").replace(self._path(".tokens"))
        times.insert(0, self._path(".tokens").stat().st_mtime_ns)
        record = {
            "dtype": self._dtype.name,
            "marks": self.marks,
            "documents": count,
            "documents_checksum": checksum,
            "times": times,
            "facts": facts,
        }
        write_record(self._path(".json"), record)
        with contextlib.suppress(OSError):
            self._path(".part.json").unlink()

    def close(self) -> None:
        """Close the file; what is written stays."""
        self._file.close()


def _write_documents(path: Path, documents: list[Documents]) -> int:
    """Write the starts of all documents, then their lengths, in int64; return the checksum."""
    checksum = 0
    with path.open("wb") as file:
        # One after the other, so that there is one array at a time.
        rows = itertools.chain(
            (part.starts() for part in documents), (part.lengths for part in documents)
        )
        for part in rows:
            data = np.ascontiguousarray(part, np.int64).data.cast("B")
            file.write(data)
            checksum = zlib.crc32(data, checksum)
        file.flush()
        os.fsync(file.fileno())
    return checksum
