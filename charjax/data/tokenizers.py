"""Tokenizers: a text as small integers and back.

A tokenizer whose texts are lists of lines has `boundary=True`: its token 0 *is* the newline, which
begins and ends every line.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from charjax.errors import UserError

# Characters or bytes handled at once, so that what numpy needs on the way stays in the cache.
_CHUNK = 1 << 17
_UNKNOWN = -1
_MOST_SYMBOLS = 1 << 16


class UnknownCharacterError(UserError):
    """A text has a character that is not in the alphabet."""


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
    """One token a Unicode character.

    Attributes:
      symbols: the alphabet; token i stands for symbols[i].
      boundary: token 0 is the newline, which begins and ends every line.
    """

    symbols: str
    boundary: bool = False

    def __post_init__(self) -> None:
        if self.boundary and not self.symbols.startswith("\n"):
            raise ValueError("with boundary=True the first symbol must be the newline")

    @classmethod
    def from_text(cls, text: str, *, boundary: bool = False) -> "CharTokenizer":
        """The sorted alphabet of a text; with `boundary` the newline comes first.

        Raises:
          UserError: more symbols than two bytes can tell apart.
        """
        present = np.zeros(sys.maxunicode + 1, bool)
        for codes in _code_points(text):
            present[codes] = True
        symbols = "".join(map(chr, np.flatnonzero(present)))
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

    def encode(self, text: str) -> np.ndarray:
        """The tokens (N,) of a text of N characters: uint8, or uint16 past 256 symbols.

        Raises:
          UnknownCharacterError: a character is not in the alphabet.
        """
        table = self._table()
        tokens = np.empty(len(text), np.uint8 if self.vocab_size <= 256 else np.uint16)
        for begin, codes in zip(range(0, len(text), _CHUNK), _code_points(text), strict=True):
            ids: np.ndarray = np.take(table, codes)
            if ids.min() == _UNKNOWN:
                raise UnknownCharacterError(self.explain_unknown(text, self.find_unknown(text)))
            tokens[begin : begin + len(ids)] = ids
        return tokens

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of tokens."""
        return "".join([self.symbols[index] for index in np.asarray(ids, np.int64).tolist()])

    def to_json(self) -> dict[str, Any]:
        """As plain values; `tokenizer_from_json` reads them."""
        return {"kind": "char", "symbols": self.symbols, "boundary": self.boundary}

    def digest(self) -> str:
        """SHA-256 over to_json()."""
        return _digest(self.to_json())

    def find_unknown(self, text: str) -> np.ndarray:
        """The places (K,) int64 of the characters that are not in the alphabet."""
        table = self._table()
        found = [
            begin + np.flatnonzero(np.take(table, codes) == _UNKNOWN)
            for begin, codes in zip(range(0, len(text), _CHUNK), _code_points(text), strict=True)
        ]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def explain_unknown(self, text: str, places_K: np.ndarray) -> str:
        """The first of the unknown characters of a text, where it stands, and their number."""
        first = int(places_K[0])
        symbol, line = text[first], text.count("\n", 0, first) + 1
        column = first - text.rfind("\n", 0, first)
        found = text.count(symbol)
        times = "once" if found == 1 else f"{found:,} times"
        others = "" if found == len(places_K) else f"; {len(places_K):,} unknown in all"
        known = repr(self.symbols[:100])[1:-1] + ("..." if self.vocab_size > 100 else "")
        return (
            f"the character {symbol!r} (U+{ord(symbol):04X}) at line {line:,}, column {column:,} "
            f"(found {times}{others}) is not one of the "
            f"{self.vocab_size} symbols that this model knows; leave it out, and use only: {known}"
        )

    def _table(self) -> np.ndarray:
        """The token of every code point."""
        table = np.full(sys.maxunicode + 1, _UNKNOWN, np.int32)
        table[[ord(symbol) for symbol in self.symbols]] = np.arange(self.vocab_size)
        return table


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """One token a byte of UTF-8.

    Attributes:
      boundary: token 0 is the newline, which begins and ends every line; tokens 0 and 10 change
        places, all others are the bytes themselves.
    """

    boundary: bool = False

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return 256

    def encode(self, text: str | bytes) -> np.ndarray:
        """The tokens (N,) uint8 of a text of N bytes.

        Bytes of a command line that are not UTF-8 (surrogate escapes) come through as they were.
        """
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        return np.frombuffer(raw.translate(_SWAP) if self.boundary else raw, np.uint8)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of tokens; bytes that are not UTF-8 become U+FFFD."""
        raw = np.asarray(ids, np.uint8).tobytes()
        return (raw.translate(_SWAP) if self.boundary else raw).decode("utf-8", "replace")

    def to_json(self) -> dict[str, Any]:
        """As plain values; `tokenizer_from_json` reads them."""
        return {"kind": "byte", "boundary": self.boundary}

    def digest(self) -> str:
        """SHA-256 over to_json()."""
        return _digest(self.to_json())


_SWAP = bytes.maketrans(b"\0\n", b"\n\0")

Tokenizer = CharTokenizer | ByteTokenizer


def tokenizer_from_json(tree: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `to_json` described.

    Raises:
      ValueError: of another kind than char or byte.
    """
    if tree["kind"] == "char":
        return CharTokenizer(tree["symbols"], tree["boundary"])
    if tree["kind"] == "byte":
        return ByteTokenizer(tree["boundary"])
    raise ValueError(f"tokenizer kind {tree['kind']!r}; allowed: char, byte")


def _code_points(text: str) -> Iterator[np.ndarray]:
    """The code points of a text, _CHUNK at a time; one byte each where that is enough."""
    for begin in range(0, len(text), _CHUNK):
        piece = text[begin : begin + _CHUNK]
        try:
            yield np.frombuffer(piece.encode("latin-1"), np.uint8)
        except UnicodeEncodeError:
            yield np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), np.uint32)


def _digest(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
