"""Lines of texts that are not read into memory, put in the order of their split."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from charjax.config import DataConfig
from charjax.data.cache_writing import Documents, Writer, make_entry
from charjax.data.line_table import Lines, count_repeated, find_lines, gather_lines, line_order
from charjax.data.split_rules import (
    all_blank,
    dropped_note,
    line_cuts,
    no_lines_left,
    one_line,
    repeated_note,
)
from charjax.data.splits import Split, SplitText, adopt_tokenizer
from charjax.data.streaming import StreamedText, encode_streamed
from charjax.data.token_cache import Entry, digest_of, find_entry
from charjax.data.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    Unknown,
    tokenizer_from_json,
)
from charjax.data.unseen import with_remedy
from charjax.errors import UserError

_NAMES = ("train", "val", "test")
_UNKNOWN = -1


def split_lines(config: DataConfig, text: StreamedText, other: Tokenizer | None) -> SplitText:
    """Split the lines of a text, each a document; arguments and errors as of `split_text`."""
    adopted = None if other is None else adopt_tokenizer(other, boundary=True)
    settings = [config.split, config.val_fraction, config.strip_lines]
    origin = [text.digest, dataclasses.astuple(text.rules), text.left_out]
    key = digest_of(["lines", *origin, *settings, adopted and adopted.digest()])
    entry = find_entry(key) or _make(key, config, text, adopted)
    tokenizer = tokenizer_from_json(entry.facts["tokenizer"])
    splits, begin, first = {}, 0, 0
    assert entry.documents is not None
    for name, (count, end) in zip(_NAMES, entry.facts["parts"], strict=False):
        starts, lengths = entry.documents[:, first : first + count]
        # The first token is no target.
        size = entry.size(begin + 1, end, tokenizer)
        splits[name] = Split(entry.tokens[begin:end], starts, lengths, name, size)
        begin, first = end, first + count
    return SplitText(tokenizer, splits, tuple(entry.facts["notes"]))


def _make(key: str, config: DataConfig, text: StreamedText, adopted: Tokenizer | None) -> Entry:
    plain = text.tokenizer
    tokens = encode_streamed(text, plain).tokens
    lines = _find(text, tokens, strip=config.strip_lines)
    count = len(lines.starts)
    if not count:
        raise all_blank(text.field)
    if count == 1 and config.val_fraction:
        line = tokens[lines.starts[0] : lines.ends[0]]
        returns = bool(np.isin(line, _ids(plain, "\r")).any())
        raise one_line(config, text.field, len(line), returns=returns)
    if adopted is None:
        adopted = _own_tokenizer(text, tokens, lines, strip=config.strip_lines)
    cuts = line_cuts(config, count)
    length = int(lines.ends.sum(dtype=np.int64) - lines.starts.sum(dtype=np.int64))
    itemsize = np.min_scalar_type(adopted.vocab_size - 1).itemsize
    arrangement = _Arrangement(config, text, adopted, tokens, lines)
    # It releases them.
    del tokens, lines
    return make_entry(
        key,
        arrangement,
        tokenizer=adopted,
        needed=(length + count + len(cuts)) * itemsize + _DOCUMENT_BYTES * count,
        field=text.field,
        name=text.name,
    )


# Start and length of a line, as they are stored.
_DOCUMENT_BYTES = 16


class _Arrangement:
    """Writes the lines of a text in the order of their split, once.

    What is no longer needed is released on the way: the tables are the larger part of a list of
    short lines.
    """

    def __init__(
        self,
        config: DataConfig,
        text: StreamedText,
        tokenizer: Tokenizer,
        tokens: np.ndarray,
        lines: Lines,
    ):
        self._config, self._text, self._tokenizer = config, text, tokenizer
        self._tokens, self._lines = tokens, lines
        self._cuts = line_cuts(config, len(lines.starts))
        self._notes = dropped_note(lines.dropped)

    def __call__(self, writer: Writer) -> tuple[dict[str, Any], list[Documents]]:
        """Write all parts; return the entry's facts, and the documents of each part."""
        ends, documents = self._write(writer)
        del self._tokens, self._lines
        views = [writer.view()[a:b] for a, b in itertools.pairwise([0, *ends])]
        notes = [*self._notes, *repeated_note(count_repeated(views), self._cuts)]
        parts = [[len(part.lengths), end] for part, end in zip(documents, ends, strict=True)]
        return {"tokenizer": self._tokenizer.to_json(), "parts": parts, "notes": notes}, documents

    def _write(self, writer: Writer) -> tuple[list[int], list[Documents]]:
        config, lines, cuts = self._config, self._lines, self._cuts
        table = _translation(self._text.tokenizer, self._tokenizer)
        order = line_order(cuts[-1], shuffled=config.split == "shuffled_lines")
        ends, documents = [], []
        for name, begin, end in zip(_NAMES, [0, *cuts], cuts, strict=False):
            if begin == end:
                raise no_lines_left(config.val_fraction, cuts[-1], name)
            which = order[begin:end]
            writer.append(np.zeros(1, np.int32))
            for piece in gather_lines(self._tokens, lines, which):
                # The newline, -1, is the last of the table.
                found = table[piece]
                if found.min() == _UNKNOWN:
                    raise _unknown_error(self._text, self._tokenizer, self._tokens)
                writer.append(found)
            lengths = lines.ends[which]
            lengths -= lines.starts[which]
            lengths += 1
            ends.append(writer.written)
            documents.append(Documents(lengths, shared=True))
        return ends, documents


def _find(text: StreamedText, tokens: np.ndarray, *, strip: bool) -> Lines:
    newline = _ids(text.tokenizer, "\n")
    return find_lines(tokens, newline[0] if newline else None, _spaces(text), strip=strip)


def _ids(tokenizer: CharTokenizer | ByteTokenizer, symbol: str) -> list[int]:
    """Return the token of a symbol, or none."""
    if isinstance(tokenizer, ByteTokenizer):
        return [ord(symbol)]
    at = tokenizer.symbols.find(symbol)
    return [] if at < 0 else [at]


def _spaces(text: StreamedText) -> np.ndarray:
    """Return true for the tokens that Python's strip() leaves out, (V,)."""
    if isinstance(text.tokenizer, ByteTokenizer):
        return np.array([not bytes([byte]).strip() for byte in range(256)])
    return np.array([symbol.isspace() for symbol in text.tokenizer.symbols])


def _own_tokenizer(
    text: StreamedText, tokens: np.ndarray, lines: Lines, *, strip: bool
) -> CharTokenizer | ByteTokenizer:
    """Return the tokenizer of the lines, without what occurs only where it was left out."""
    plain = text.tokenizer
    if isinstance(plain, ByteTokenizer):
        return ByteTokenizer(boundary=True)
    symbols = plain.symbols
    if lines.dropped or strip:
        counts = np.zeros(len(symbols) + 1, np.int64)
        order = line_order(len(lines.starts), shuffled=False)
        for piece in gather_lines(tokens, lines, order):
            counts += np.bincount(piece + 1, minlength=len(counts))
        symbols = "".join(symbols[index] for index in np.flatnonzero(counts[1:]).tolist())
    return CharTokenizer.from_symbols(symbols, boundary=True)


def _translation(plain: CharTokenizer | ByteTokenizer, tokenizer: Tokenizer) -> np.ndarray:
    """Return the token of each symbol of the text, and 0 at the end: (V + 1,) int32."""
    if isinstance(tokenizer, CharTokenizer):
        assert isinstance(plain, CharTokenizer)
        ids = {symbol: index for index, symbol in enumerate(tokenizer.symbols)}
        found = [ids.get(symbol, _UNKNOWN) for symbol in plain.symbols]
        return np.array([*found, 0], np.int32)
    return np.append(tokenizer.encode(bytes(range(256))), 0).astype(np.int32)  # type: ignore[arg-type]


def _unknown_error(text: StreamedText, tokenizer: Tokenizer, tokens: np.ndarray) -> UserError:
    assert isinstance(tokenizer, CharTokenizer)
    unknown = _first_unknown(text, tokenizer, tokens)
    explanation = with_remedy(tokenizer.describe_unknown(unknown), text.field)
    return UserError(f"{text.field}: {explanation}")


def _first_unknown(text: StreamedText, tokenizer: CharTokenizer, tokens: np.ndarray) -> Unknown:
    """Return facts of the first unknown character that is not in a blank line."""
    plain = text.tokenizer
    assert isinstance(plain, CharTokenizer)
    first, in_all = None, 0
    for start, positions in _unknown_positions(text, tokenizer, tokens):
        in_all += len(positions)
        if first is None and len(positions):
            first = start, int(positions[0])
    assert first is not None
    start, position = first
    symbol = plain.symbols[int(tokens[position])]
    newline = _ids(plain, "\n")
    before = sum(
        int(np.isin(tokens[a : min(a + _AT_ONCE, start)], newline).sum())
        for a in range(0, start, _AT_ONCE)
    )
    found = text.counts[symbol]
    return Unknown(symbol, before + 1, position - start + 1, found, in_all)


_AT_ONCE = 1 << 20


def _unknown_positions(
    text: StreamedText, tokenizer: CharTokenizer, tokens: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the start of each line that is not blank, with its unknown characters' positions."""
    table = _translation(text.tokenizer, tokenizer)
    lines = _find(text, tokens, strip=False)
    for begin, end in zip(lines.starts.tolist(), lines.ends.tolist(), strict=True):
        yield begin, begin + np.flatnonzero(table[tokens[begin:end]] == _UNKNOWN)


def count_unseen(text: StreamedText, tokenizer: CharTokenizer) -> int:
    """Count the characters that an alphabet of lines does not have, but in blank lines."""
    tokens = encode_streamed(text, text.tokenizer).tokens
    return sum(len(positions) for _, positions in _unknown_positions(text, tokenizer, tokens))
