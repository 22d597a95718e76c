"""The cache of encoded texts: files of tokens in the user's cache directory, opened by np.memmap.

An entry KEY is `KEY.tokens` (the tokens alone), for documents `KEY.documents` (int64: their starts,
then their lengths), and `KEY.json`, which is written last: without it there is no entry.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from charjax import files
from charjax.cli import remark
from charjax.data.tokenizers import Tokenizer, text_size
from charjax.errors import UserError
from charjax.units import TextSize

FORMAT = 1
# Seconds between looks at another process's lock.
_POLL = 0.1
# Tokens that are read at once.
_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Entry:
    """An encoded text.

    Attributes:
      tokens: (N,) uint8, uint16 or uint32, in the file.
      documents: (2, D) int64, starts and lengths, in the file; None without documents.
      facts: JSON values that were stored with them.
      marks: (end, checksum, characters, bytes) of each written piece, cumulative but for the
        CRC-32.
    """

    tokens: np.ndarray
    documents: np.ndarray | None
    facts: dict[str, Any]
    marks: list[list[int]]

    def size(self, begin: int, end: int, tokenizer: Tokenizer) -> TextSize:
        """Return the size of tokens[begin:end]; only the ends are read."""
        ends = [mark[0] for mark in self.marks]
        first, last = np.searchsorted(ends, [begin, end], "right").tolist()
        # Whole pieces lie between the marks; the rest is counted.
        if first >= last:
            return self._counted(begin, end, tokenizer)
        low, high = self.marks[first], self.marks[last - 1]
        inner = TextSize(high[0] - low[0], high[2] - low[2], high[3] - low[3])
        before = self._counted(begin, low[0], tokenizer)
        parts = before, inner, self._counted(high[0], end, tokenizer)
        return TextSize(*(sum(column) for column in zip(*parts, strict=True)))

    def _counted(self, begin: int, end: int, tokenizer: Tokenizer) -> TextSize:
        return size_of(self.tokens[begin:end], tokenizer)


def size_of(tokens: np.ndarray, tokenizer: Tokenizer) -> TextSize:
    """Return the size of tokens, (N,); little of them is copied at once."""
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for begin in range(0, len(tokens), _COUNTED_AT_ONCE):
        piece = tokens[begin : begin + _COUNTED_AT_ONCE]
        counts += np.bincount(piece, minlength=tokenizer.vocab_size)
    return text_size(tokenizer, counts)


# numpy counts 8 bytes for each token, which have to fit in the processor's cache.
_COUNTED_AT_ONCE = 1 << 16


def cache_folder() -> Path:
    """Return the directory of encoded texts, not made yet.

    Raises:
      UserError: there is no home directory.
    """
    folder = files.user_cache()
    if folder is None:
        raise UserError(
            "CHARJAX_CACHE: not set, and no home directory for encoded texts exists; set it to a "
            "directory with room for them"
        )
    return folder / "texts"


def digest_of(tree: Any) -> str:
    """Return the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a JSON file of the cache; None if it is missing, altered or of another format."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        is_whole = tree.pop("check") == digest_of(tree) and tree["format"] == FORMAT
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return tree if is_whole else None


def write_record(path: Path, tree: dict[str, Any]) -> None:
    """Write a JSON file of the cache, with its format and digest; also where others write it."""
    tree = {"format": FORMAT, **tree}
    text = json.dumps({**tree, "check": digest_of(tree)}) + "\n"
    with files.named(path), files.replacing(path, shared=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def find_entry(key: str) -> Entry | None:
    """Open an entry; None if there is none.

    Lengths and times are compared with those that were stored. If the times differ, everything is
    read and its checksums are compared. A damaged entry is removed, with a note.
    """
    folder = cache_folder()
    record, tokens = folder / f"{key}.json", folder / f"{key}.tokens"
    if not record.exists():
        return None
    facts = read_record(record)
    if facts is not None:
        entry = _open(folder, key, facts)
        if entry is not None:
            with contextlib.suppress(OSError):
                # The time of its last use.
                os.utime(record)
            return entry
    remark(f"the encoded text {str(tokens)!r} is damaged, and is made again")
    remove_entry(key)
    return None


def _open(folder: Path, key: str, facts: dict[str, Any]) -> Entry | None:
    marks, dtype = facts["marks"], np.dtype(facts["dtype"])
    tokens = _map(folder / f"{key}.tokens", dtype, (marks[-1][0],))
    if tokens is None:
        return None
    documents = None
    if facts["documents"]:
        documents = _map(folder / f"{key}.documents", np.dtype(np.int64), (2, facts["documents"]))
        if documents is None:
            return None
    entry = Entry(tokens, documents, facts["facts"], marks)
    times = _times(folder, key)
    if times != facts["times"]:
        if not _is_intact(entry, facts["documents_checksum"]):
            return None
        with contextlib.suppress(OSError):
            write_record(folder / f"{key}.json", {**facts, "times": times})
    return entry


def _map(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray | None:
    """Map a file into memory; None unless it is as long as it must be."""
    try:
        if path.stat().st_size != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
            return None
        return np.memmap(path, dtype, "r", shape=shape)
    except OSError:
        return None


def _times(folder: Path, key: str) -> list[int]:
    paths = (folder / f"{key}.tokens", folder / f"{key}.documents")
    return [path.stat().st_mtime_ns for path in paths if path.exists()]


def _is_intact(entry: Entry, documents_checksum: int) -> bool:
    begin = 0
    for end, checksum, _, _ in entry.marks:
        if _checksum(entry.tokens[begin:end]) != checksum:
            return False
        begin = end
    return entry.documents is None or _checksum(entry.documents.ravel()) == documents_checksum


def is_intact(key: str) -> bool:
    """Read an entry and compare all checksums; return false if it is damaged."""
    entry, record = find_entry(key), read_record(cache_folder() / f"{key}.json")
    if entry is None or record is None:
        return False
    return _is_intact(entry, record["documents_checksum"])


def _checksum(array: np.ndarray) -> int:
    checksum = 0
    for begin in range(0, len(array), _AT_ONCE):
        checksum = zlib.crc32(array[begin : begin + _AT_ONCE].tobytes(), checksum)
    return checksum


def remove_entry(key: str) -> None:
    """Remove what there is of an entry; a process that has opened it keeps what it has."""
    folder = cache_folder()
    # The record first: without it there is no entry.
    for suffix in (".json", ".tokens", ".documents", ".part", ".part.json"):
        with contextlib.suppress(OSError):
            (folder / f"{key}{suffix}").unlink()


@contextlib.contextmanager
def locked(key: str, label: str) -> Iterator[None]:
    """Keep other processes from writing an entry; wait for one that does.

    Where the system has no locks, nothing is kept out; each entry still gets its name only when
    it is whole.

    Raises:
      OSError: the cache cannot be written.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{key}.lock").open("a+b", buffering=0) as file:
        if not files.try_lock(file):
            remark(f"another process is encoding {label}; waiting for it")
            while not files.try_lock(file):
                time.sleep(_POLL)
        yield
