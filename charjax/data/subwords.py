"""Subword tokens: byte-level BPE, by Hugging Face's `tokenizers` (extra `bpe`).

Byte-level BPE: Radford et al. 2019 (GPT-2), after Sennrich et al. 2016 (arXiv 1508.07909).
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from charjax.data.byte_level import UnsupportedError, token_bytes
from charjax.errors import UserError

# Characters encoded at once: the library needs about 100 bytes for each token.
_PIECE = 1 << 16
_PIECES_AT_ONCE = 32
_LINES_AT_ONCE = 1 << 13
# A pair that occurs once in a text is no reason for a token.
_LEAST_COUNT = 2
_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class BpeTokenizer:
    """Tokenizer with one token for each of a byte-level vocabulary's strings of bytes.

    A text is encoded as the library encodes it, but for special tokens such as `<|endoftext|>`:
    their characters in a text are characters. A long text is encoded in pieces that end after a
    letter and before white space, where the patterns of GPT-2 and its successors end a word too.

    Attributes:
      json: the tokenizer.json.
      boundary: token 0 is the newline, which begins and ends every line; its number and 0 are
        exchanged, every other token has the number of the file. Lines are encoded one by one.
    """

    json: str
    boundary: bool = False

    @property
    def vocab_size(self) -> int:
        """Number of tokens, with numbers that the file leaves out."""
        return len(self._table)

    @property
    def unit(self) -> str:
        """Name of a token in reports."""
        return "token"

    def encode(self, text: str) -> np.ndarray:
        """Encode a text as tokens (N,): uint8, uint16 above 256 tokens, uint32 above 65,536.

        Raises:
          UserError: the tokens would not give the text back, or the library is not installed.
        """
        # Of a file of another form, this names the reason; the library's is about its own.
        dtype = np.min_scalar_type(self.vocab_size - 1)
        library = self._library
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the text has U+{ord(text[error.start]):04X} at character {error.start + 1:,}, "
                "which is no character of Unicode; leave it out"
            ) from None
        parts: list[np.ndarray] = []
        newline = np.zeros(1, dtype)
        pieces = iter(text.split("\n")) if self.boundary else cut_text(text)
        at_once = _LINES_AT_ONCE if self.boundary else _PIECES_AT_ONCE
        while batch := list(itertools.islice(pieces, at_once)):
            for found in library.encode_batch_fast(batch, add_special_tokens=False):
                parts.append(self._exchange(np.asarray(found.ids, np.int64)).astype(dtype))
                if self.boundary:
                    parts.append(newline)
        # A newline stands between lines, not after the last.
        tokens = np.concatenate(parts[: len(parts) - self.boundary] or [newline[:0]])
        if self.to_bytes(tokens) != raw:
            raise UserError(self._explain_loss(raw, self.to_bytes(tokens)))
        return tokens

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.to_bytes(ids).decode("utf-8", "replace")

    def to_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Return the bytes of tokens."""
        table = self._table
        return b"".join([table[index] for index in np.asarray(ids, np.int64).tolist()])

    def byte_counts(self) -> np.ndarray:
        """Return the number of bytes of each token, (V,) int64."""
        return np.array([len(token) for token in self._table], np.int64)

    def character_counts(self) -> np.ndarray:
        """Return the number of characters that begin in each token, (V,) int64."""
        return np.array([_beginnings(token) for token in self._table], np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return the tokenizer as JSON values, read by `tokenizer_from_json`."""
        return {"kind": "bpe", "json": self.json, "boundary": self.boundary}

    def digest(self) -> str:
        """Return the SHA-256 of to_json()."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def _table(self) -> tuple[bytes, ...]:
        table = list(token_bytes(self.json))
        if self.boundary:
            newline = self._newline
            table[0], table[newline] = table[newline], table[0]
        return tuple(table)

    @functools.cached_property
    def _newline(self) -> int:
        """Return the file's number of the newline."""
        try:
            return token_bytes(self.json).index(b"\n")
        except ValueError:
            raise UnsupportedError("it has no token for the newline, which ends a line") from None

    def _exchange(self, ids: np.ndarray) -> np.ndarray:
        if not self.boundary:
            return ids
        return np.where(ids == 0, self._newline, np.where(ids == self._newline, 0, ids))

    @functools.cached_property
    def _library(self) -> Any:
        """Return the library's tokenizer."""
        library = tokenizers_library()
        try:
            found = library.Tokenizer.from_str(self.json)
        # The library raises no narrower type.
        except Exception as error:
            raise UnsupportedError(f"the library cannot read it: {error}") from None
        found.no_truncation()
        found.no_padding()
        found.encode_special_tokens = True
        return found

    def _explain_loss(self, raw: bytes, back: bytes) -> str:
        at = next(
            (i for i, (a, b) in enumerate(zip(raw, back, strict=False)) if a != b),
            min(len(raw), len(back)),
        )
        # From the beginning of a character on.
        while at and raw[at : at + 1] and raw[at] & 0xC0 == 0x80:
            at -= 1
        was, became = (part[at:].decode("utf-8", "replace")[:_SHOWN] for part in (raw, back))
        return (
            f"data.tokenizer: its tokens do not give the text back: {was!r} becomes {became!r} (a "
            "normalizer, or a byte that has no token); use a tokenizer.json that keeps every byte, "
            "or data.tokenizer=bpe"
        )


def train_bpe(text: str, vocab_size: int, *, boundary: bool) -> BpeTokenizer:
    """Train a tokenizer on a text, with GPT-2's pattern of words and all 256 bytes as tokens.

    The same text gives the same tokenizer. A short text may give fewer tokens than asked for.

    Args:
      text: of the training split.
      vocab_size: tokens, at least 256.
      boundary: the text's documents are lines.
    """
    library = tokenizers_library()
    byte_level = library.pre_tokenizers.ByteLevel
    trained = library.Tokenizer(library.models.BPE())
    trained.pre_tokenizer = byte_level(add_prefix_space=False)
    trained.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=_LEAST_COUNT,
        show_progress=False,
        initial_alphabet=byte_level.alphabet(),
    )
    pieces = (line for line in text.split("\n")) if boundary else cut_text(text)
    trained.train_from_iterator(pieces, trainer)
    return BpeTokenizer(trained.to_str(), boundary)


def read_tokenizer(name: str, *, boundary: bool) -> BpeTokenizer:
    """Read a tokenizer.json.

    Raises:
      UserError: it is missing, cannot be read, or is not of GPT-2's byte-level form.
    """
    path = Path(name).expanduser()
    try:
        tokenizer = BpeTokenizer(path.read_bytes().decode(), boundary)
        tokenizer.encode("")
        return tokenizer
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"data.tokenizer: {name!r} cannot be read ({reason}); give a tokenizer.json"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"data.tokenizer: {name!r} is not UTF-8; give a tokenizer.json") from None
    except UnsupportedError as error:
        raise UserError(
            f"data.tokenizer: {name!r} is not supported: {error}; give a tokenizer.json of GPT-2's "
            "byte-level form, or train one (data.tokenizer=bpe)"
        ) from None


def tokenizers_library() -> ModuleType:
    """Return the `tokenizers` package, with the parts that are used.

    Raises:
      UserError: it is not installed.
    """
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise UserError(
            "data.tokenizer: bpe needs Hugging Face's tokenizers, which is not installed; pip "
            'install "charjax[bpe]"'
        ) from None
    return tokenizers


def cut_text(text: str) -> Iterator[str]:
    """Yield a text in pieces, each ended after a letter and before white space.

    Without such a place, a piece goes on to the end of the text.
    """
    begin = 0
    while begin < len(text):
        found = _CUT.search(text, begin + _PIECE)
        end = found.start() + 1 if found else len(text)
        yield text[begin:end]
        begin = end


# A letter that is no digit or underscore, and the white space after it.
_CUT = re.compile(r"[^\W\d_](?=\s)")


def _beginnings(token: bytes) -> int:
    """Count the bytes that begin a character: all but 10xxxxxx."""
    return sum(byte & 0xC0 != 0x80 for byte in token)
