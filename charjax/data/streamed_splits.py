"""Splits of texts that are not read into memory: slices of their tokens in the cache.

The same splits, notes and mistakes as those of a text in memory (`charjax.data.splits`).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from charjax.config import DataConfig
from charjax.data.cache_writing import Documents, Writer, make_entry
from charjax.data.split_rules import fold, too_short
from charjax.data.splits import Split, SplitText, adopt_tokenizer, split_text
from charjax.data.streamed_lines import count_unseen, split_lines
from charjax.data.streaming import StreamedText, encode_streamed
from charjax.data.texts import Corpus
from charjax.data.token_cache import Entry, digest_of
from charjax.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, Unknown, text_size
from charjax.data.unseen import unseen_note, with_remedy
from charjax.errors import UserError
from charjax.units import TextSize

# Tokens that are copied at once.
_AT_ONCE = 1 << 20


def split_corpus(
    config: DataConfig, corpus: Corpus | StreamedText, tokenizer: Tokenizer | None
) -> SplitText:
    """Tokenize and split a text, in memory or not; arguments and errors as of `split_text`."""
    if isinstance(corpus, Corpus):
        return split_text(config, corpus, tokenizer)
    if config.documents == "lines":
        return split_lines(config, corpus, tokenizer)
    adopted = corpus.tokenizer if tokenizer is None else adopt_tokenizer(tokenizer, boundary=False)
    assert isinstance(adopted, CharTokenizer | ByteTokenizer)
    if config.split == "interleaved" and config.val_fraction:
        return _interleave(config, corpus, adopted)
    return _cut(config, corpus, adopted)


def _cut(
    config: DataConfig, text: StreamedText, tokenizer: CharTokenizer | ByteTokenizer
) -> SplitText:
    """Hold the tail out."""
    length = text.length
    cut = int((1 - config.val_fraction) * length)
    parts = {"train": (0, cut), "val": (cut, length)}
    if not config.val_fraction:
        parts = {"train": (0, length)}
    at, unknown = _first_unknown(text, tokenizer)
    for name, (begin, end) in parts.items():
        if unknown is not None and begin <= at < end:
            raise _unknown_error(text, tokenizer, unknown)
        if end - begin < 2:
            raise too_short(config, text.field, name, f"{end - begin} characters")
    entry = encode_streamed(text, tokenizer)
    splits = {
        name: Split(
            entry.tokens[begin:end],
            np.zeros(1, np.int64),
            np.array([end - begin - 1]),
            name,
            entry.size(begin + 1, end, tokenizer),
        )
        for name, (begin, end) in parts.items()
    }
    return SplitText(tokenizer, splits, ())


def _first_unknown(
    text: StreamedText, tokenizer: CharTokenizer | ByteTokenizer
) -> tuple[int, Unknown | None]:
    """Return the position of the first character that the alphabet does not have, and its facts."""
    if isinstance(tokenizer, ByteTokenizer):
        return 0, None
    missing = text.counts.keys() - set(tokenizer.symbols)
    if not missing:
        return 0, None
    begin, line, line_start = 0, 1, 0
    for piece in text.pieces():
        positions = tokenizer.find_unknown(piece)
        end = int(positions[0]) if len(positions) else len(piece)
        line += piece.count("\n", 0, end)
        if (newline := piece.rfind("\n", 0, end)) >= 0:
            line_start = begin + newline + 1
        if len(positions):
            symbol, at = piece[end], begin + end
            found, in_all = text.counts[symbol], sum(text.counts[each] for each in missing)
            return at, Unknown(symbol, line, at - line_start + 1, found, in_all)
        begin += len(piece)
    raise AssertionError("the scan counted a character that the text does not have")


def _unknown_error(text: StreamedText, tokenizer: Tokenizer, unknown: Unknown) -> UserError:
    assert isinstance(tokenizer, CharTokenizer)
    explanation = with_remedy(tokenizer.describe_unknown(unknown), text.field)
    return UserError(f"{text.field}: {explanation}")


def _interleave(
    config: DataConfig, text: StreamedText, tokenizer: CharTokenizer | ByteTokenizer
) -> SplitText:
    """Split as char-rnn does; the rows of each part are written one after the other."""
    _, unknown = _first_unknown(text, tokenizer)
    if unknown is not None:
        raise _unknown_error(text, tokenizer, unknown)
    folding = fold(config, text.length)
    rows, width, ends, notes = folding
    bounds = list(zip([0, *ends], ends, strict=False))
    settings = [rows, config.chunk, config.val_fraction]
    origin = [text.digest, dataclasses.astuple(text.rules), text.left_out, tokenizer.digest()]

    def build(writer: Writer) -> tuple[dict[str, Any], list[Documents]]:
        tokens = encode_streamed(text, tokenizer).tokens
        for begin, end in bounds:
            for row in range(rows):
                for piece in _row(tokens, row * width + begin, row * width + end + 1):
                    writer.append(piece)
        lengths = [np.full(rows, end - begin) for begin, end in bounds]
        return {}, [Documents(each, shared=False) for each in lengths]

    itemsize = np.min_scalar_type(tokenizer.vocab_size - 1).itemsize
    entry = make_entry(
        digest_of(["interleaved", *origin, *settings]),
        build,
        tokenizer=tokenizer,
        needed=rows * (width + len(ends)) * itemsize,
        field=text.field,
        name=text.name,
    )
    return SplitText(tokenizer, _rows(entry, rows, bounds, tokenizer), notes)


def _row(tokens: np.ndarray, begin: int, end: int) -> Iterator[np.ndarray]:
    """Yield tokens[begin:end]; after the last token comes the first."""
    for start in range(begin, end, _AT_ONCE):
        piece = tokens[start : min(start + _AT_ONCE, end)]
        yield np.append(piece, tokens[0]) if min(start + _AT_ONCE, end) > len(tokens) else piece


def _rows(
    entry: Entry, rows: int, bounds: list[tuple[int, int]], tokenizer: Tokenizer
) -> dict[str, Split]:
    splits, first = {}, 0
    assert entry.documents is not None
    for number, (name, (begin, end)) in enumerate(
        zip(("train", "val", "test"), bounds, strict=True)
    ):
        last = first + rows * (end - begin + 1)
        starts, lengths = entry.documents[:, number * rows : (number + 1) * rows]
        tokens = entry.tokens[first:last]
        # The first token of a document is no target.
        counts = np.bincount(tokens[starts], minlength=tokenizer.vocab_size)
        whole, not_counted = entry.size(first, last, tokenizer), text_size(tokenizer, counts)
        size = TextSize(*(a - b for a, b in zip(whole, not_counted, strict=True)))
        splits[name] = Split(tokens, starts, lengths, name, size)
        first = last
    return splits


def leave_out_unseen(
    text: StreamedText, tokenizer: CharTokenizer
) -> tuple[StreamedText, int, tuple[str, ...]]:
    """Leave out the characters that an alphabet does not have; as `unseen.remove_unseen`."""
    kinds = sorted(text.counts.keys() - set(tokenizer.symbols))
    count = sum(text.counts[kind] for kind in kinds)
    if tokenizer.boundary and any(kind.isspace() for kind in kinds):
        count = count_unseen(text, tokenizer)
    if not count:
        return text, 0, ()
    notes = unseen_note(kinds, count, text.length, tokenizer)
    return dataclasses.replace(text, left_out="".join(kinds)), count, notes
