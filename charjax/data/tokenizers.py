"""Tokenizers: characters, bytes or subwords to token ids and back.

A tokenizer of lines has `boundary=True`: its token 0 is the newline, which begins and ends every
line.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from charjax.data.subwords import BpeTokenizer
from charjax.errors import UserError
from charjax.units import TextSize

# Characters or bytes encoded at once, so that numpy's intermediate arrays stay in the cache.
_CHUNK = 1 << 17
_UNKNOWN = -1
_MOST_SYMBOLS = 1 << 16


class UnknownCharacterError(UserError):
    """A text has a character that is not in the alphabet."""


class Unknown(NamedTuple):
    """The first character of a text that an alphabet does not have.

    Attributes:
      symbol: the character.
      line: where it is, from 1.
      column: where it is, from 1.
      found: how often the text has it.
      in_all: how many unknown characters the text has.
    """

    symbol: str
    line: int
    column: int
    found: int
    in_all: int


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
    """Tokenizer with one token per Unicode character.

    Attributes:
      symbols: the alphabet; token i is symbols[i].
      boundary: token 0 is the newline, which begins and ends every line.
    """

    symbols: str
    boundary: bool = False

    def __post_init__(self) -> None:
        if self.boundary and not self.symbols.startswith("\n"):
            raise ValueError("with boundary=True the first symbol must be the newline")

    @classmethod
    def from_text(cls, text: str, *, boundary: bool = False) -> "CharTokenizer":
        """Return the tokenizer of a text's sorted alphabet, with `boundary` the newline first.

        Raises:
          UserError: more symbols than uint16 can number.
        """
        present = np.zeros(sys.maxunicode + 1, bool)
        for codes in code_points(text):
            present[codes] = True
        return cls.from_symbols("".join(map(chr, np.flatnonzero(present))), boundary=boundary)

    @classmethod
    def from_symbols(cls, symbols: str, *, boundary: bool = False) -> "CharTokenizer":
        """Return the tokenizer of a sorted alphabet; otherwise as `from_text`."""
        if boundary:
            symbols = "\n" + symbols.replace("\n", "")
        if len(symbols) > _MOST_SYMBOLS:
            raise UserError(
                f"data.tokenizer: the text has {len(symbols):,} different characters, and at most "
                f"{_MOST_SYMBOLS:,} are allowed; use data.tokenizer=byte"
            )
        return cls(symbols, boundary)

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.symbols)

    @property
    def unit(self) -> str:
        """Name of a token in reports."""
        return "character"

    def encode(self, text: str) -> np.ndarray:
        """Encode a text of N characters as tokens (N,): uint8, or uint16 above 256 symbols.

        Raises:
          UnknownCharacterError: a character is not in the alphabet.
        """
        table = self._table()
        tokens = np.empty(len(text), np.uint8 if self.vocab_size <= 256 else np.uint16)
        for begin, codes in zip(range(0, len(text), _CHUNK), code_points(text), strict=True):
            ids: np.ndarray = np.take(table, codes)
            if ids.min() == _UNKNOWN:
                raise UnknownCharacterError(self.explain_unknown(text, self.find_unknown(text)))
            tokens[begin : begin + len(ids)] = ids
        return tokens

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode tokens."""
        return "".join([self.symbols[index] for index in np.asarray(ids, np.int64).tolist()])

    def to_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Return the bytes of tokens, in UTF-8."""
        return self.decode(ids).encode("utf-8", "surrogatepass")

    def byte_counts(self) -> np.ndarray:
        """Return the number of bytes of each token, (V,) int64."""
        lengths = [len(symbol.encode("utf-8", "surrogatepass")) for symbol in self.symbols]
        return np.array(lengths, np.int64)

    def character_counts(self) -> np.ndarray:
        """Return the number of characters of each token, (V,) int64: 1."""
        return np.ones(self.vocab_size, np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return the tokenizer as JSON values, read by `tokenizer_from_json`."""
        return {"kind": "char", "symbols": self.symbols, "boundary": self.boundary}

    def digest(self) -> str:
        """Return the SHA-256 of to_json()."""
        return _digest(self.to_json())

    def find_unknown(self, text: str) -> np.ndarray:
        """Return the positions (K,) int64 of the characters that are not in the alphabet."""
        table = self._table()
        found = [
            begin + np.flatnonzero(np.take(table, codes) == _UNKNOWN)
            for begin, codes in zip(range(0, len(text), _CHUNK), code_points(text), strict=True)
        ]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def explain_unknown(self, text: str, positions_K: np.ndarray) -> str:
        """Describe the first unknown character of a text, its position, and their number."""
        first = int(positions_K[0])
        symbol, line = text[first], text.count("\n", 0, first) + 1
        column = first - text.rfind("\n", 0, first)
        unknown = Unknown(symbol, line, column, text.count(symbol), len(positions_K))
        return self.describe_unknown(unknown)

    def describe_unknown(self, unknown: "Unknown") -> str:
        """Describe an unknown character, its position, and the number of them."""
        symbol, line, column, found, in_all = unknown
        times = "once" if found == 1 else f"{found:,} times"
        others = "" if found == in_all else f"; {in_all:,} unknown in all"
        known = repr(self.symbols[:100])[1:-1] + ("..." if self.vocab_size > 100 else "")
        return (
            f"the character {symbol!r} (U+{ord(symbol):04X}) at line {line:,}, column {column:,} "
            f"(found {times}{others}) is not one of the "
            f"{self.vocab_size} symbols of this model; leave it out, and use only: {known}"
        )

    def _table(self) -> np.ndarray:
        """Return the token of every code point."""
        table = np.full(sys.maxunicode + 1, _UNKNOWN, np.int32)
        table[[ord(symbol) for symbol in self.symbols]] = np.arange(self.vocab_size)
        return table


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """Tokenizer with one token per byte of UTF-8.

    Attributes:
      boundary: token 0 is the newline, which begins and ends every line; bytes 0 and 10 are
        exchanged, every other token is its byte.
    """

    boundary: bool = False

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return 256

    @property
    def unit(self) -> str:
        """Name of a token in reports."""
        return "byte"

    def encode(self, text: str | bytes) -> np.ndarray:
        """Encode a text of N bytes as tokens (N,) uint8.

        Surrogate escapes, bytes of a command line that are not UTF-8, become those bytes again.
        """
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        return np.frombuffer(raw.translate(_SWAP) if self.boundary else raw, np.uint8)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.to_bytes(ids).decode("utf-8", "replace")

    def to_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Return the bytes of tokens."""
        raw = np.asarray(ids, np.uint8).tobytes()
        return raw.translate(_SWAP) if self.boundary else raw

    def byte_counts(self) -> np.ndarray:
        """Return the number of bytes of each token, (V,) int64: 1."""
        return np.ones(256, np.int64)

    def character_counts(self) -> np.ndarray:
        """Return the number of characters that begin in each token, (V,) int64.

        The bytes that go on with a character are 10xxxxxx.
        """
        return (np.arange(256) & 0xC0 != 0x80).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return the tokenizer as JSON values, read by `tokenizer_from_json`."""
        return {"kind": "byte", "boundary": self.boundary}

    def digest(self) -> str:
        """Return the SHA-256 of to_json()."""
        return _digest(self.to_json())


_SWAP = bytes.maketrans(b"\0\n", b"\n\0")

Tokenizer = CharTokenizer | ByteTokenizer | BpeTokenizer


def tokenizer_from_json(tree: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer of a `to_json` tree.

    Raises:
      ValueError: its kind is neither char, byte nor bpe.
    """
    if tree["kind"] == "char":
        return CharTokenizer(tree["symbols"], tree["boundary"])
    if tree["kind"] == "byte":
        return ByteTokenizer(tree["boundary"])
    if tree["kind"] == "bpe":
        return BpeTokenizer(str(tree["json"]), bool(tree["boundary"]))
    raise ValueError(f"tokenizer kind {tree['kind']!r}; allowed: char, byte, bpe")


def text_size(tokenizer: Tokenizer, counts_V: np.ndarray) -> TextSize:
    """Return the size of a text in which each token occurs so often, (V,) int64.

    It is exact for every part of a text, however it is cut: a character counts where its first byte
    is.
    """
    return TextSize(
        int(counts_V.sum()),
        int(counts_V @ tokenizer.character_counts()),
        int(counts_V @ tokenizer.byte_counts()),
    )


def code_points(text: str) -> Iterator[np.ndarray]:
    """Yield the code points of a text, _CHUNK at a time, in one byte each if that suffices."""
    for begin in range(0, len(text), _CHUNK):
        piece = text[begin : begin + _CHUNK]
        try:
            yield np.frombuffer(piece.encode("latin-1"), np.uint8)
        except UnicodeEncodeError:
            yield np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), np.uint32)


def _digest(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
