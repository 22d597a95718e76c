"""Splits of a text into documents: the tail, shuffled lines, or char-rnn's interleaved chunks.

Letters: N tokens of a split, D documents, V vocabulary.
"""

import collections
import dataclasses
import itertools
import random
from typing import Any, NamedTuple

import numpy as np

from charjax.config import DataConfig
from charjax.data.split_rules import (
    SHUFFLE_SEED,
    all_blank,
    dropped_note,
    fold,
    line_cuts,
    no_lines_left,
    one_line,
    repeated_note,
    too_short,
)
from charjax.data.subwords import BpeTokenizer, read_tokenizer, train_bpe
from charjax.data.texts import Corpus
from charjax.data.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    UnknownCharacterError,
    text_size,
)
from charjax.data.unseen import explain_unseen
from charjax.errors import UserError
from charjax.units import TextSize


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a text, as documents that are predicted independently of each other.

    Document d has n = doc_lengths[d] targets: its inputs are tokens[s : s + n] and its targets
    tokens[s + 1 : s + n + 1], with s = doc_starts[d]. Lines share the boundaries between them:
    `0 e m m a 0 o l i v i a 0` is two documents, of 5 and 7 targets.

    Attributes:
      tokens: (N,) uint8, uint16 or uint32.
      doc_starts: (D,) int64.
      doc_lengths: (D,) int64, each at least 1.
      name: train, val or test.
      counted: size of the targets; None where each is one character of one byte.
    """

    tokens: np.ndarray
    doc_starts: np.ndarray
    doc_lengths: np.ndarray
    name: str = "train"
    counted: TextSize | None = None

    @property
    def num_targets(self) -> int:
        """Number of predicted tokens."""
        return int(self.doc_lengths.sum())

    @property
    def size(self) -> TextSize:
        """Tokens, characters and bytes that are predicted."""
        return self.counted or TextSize(*[self.num_targets] * 3)


def target_counts(split: Split, vocab_size: int) -> np.ndarray:
    """Count how often each symbol is a target: (V,) int64.

    The text is read in blocks: memory does not grow with it, nor with the documents.
    """
    counts_V = np.zeros(vocab_size, np.int64)
    for begin in range(0, len(split.doc_starts), _BLOCK):
        starts_D = split.doc_starts[begin : begin + _BLOCK].astype(np.int64) + 1
        ends_D = np.sort(starts_D + split.doc_lengths[begin : begin + _BLOCK])
        starts_D.sort()
        for first in range(int(starts_D[0]), int(ends_D[-1]), _BLOCK):
            # Documents of other blocks may begin within this one.
            tokens = split.tokens[first : min(first + _BLOCK, int(ends_D[-1]))]
            counts_V += _count_in(tokens, first, starts_D, ends_D, vocab_size)
    return counts_V


# Tokens, or documents, that are counted at once.
_BLOCK = 1 << 19


def _count_in(
    tokens: np.ndarray, first: int, starts_D: np.ndarray, ends_D: np.ndarray, vocab_size: int
) -> np.ndarray:
    """Count the targets of documents in the part of the text that begins at `first`.

    Args:
      tokens: the part.
      first: its place in the text.
      starts_D: first target of each document, ascending.
      ends_D: place after the last target of each, ascending.
      vocab_size: V.
    """
    cuts = (first, first + len(tokens))
    (s, s_end), (e, e_end) = (np.searchsorted(x, cuts) for x in (starts_D, ends_D))
    if s == s_end and e == e_end:
        return np.bincount(tokens, minlength=vocab_size) * (s - e)
    # +1 at a document's first target, -1 after its last: the running sum counts occurrences.
    edges = np.bincount(starts_D[s:s_end] - first, minlength=len(tokens))
    edges -= np.bincount(ends_D[e:e_end] - first, minlength=len(tokens))
    edges[0] += s - e
    return np.bincount(tokens, np.cumsum(edges, out=edges), vocab_size).astype(np.int64)


class SplitText(NamedTuple):
    """A text in tokens.

    Attributes:
      tokenizer: its tokenizer.
      splits: by name: train; val unless nothing is held out; test with shuffled or interleaved
        splits.
      notes: changes to the text to report to the user, one line each.
    """

    tokenizer: Tokenizer
    splits: dict[str, Split]
    notes: tuple[str, ...]


def split_text(config: DataConfig, corpus: Corpus, tokenizer: Tokenizer | None) -> SplitText:
    """Tokenize a text and split it.

    Args:
      config: the data section.
      corpus: the text.
      tokenizer: another run's alphabet; None for the text's own.

    Raises:
      UserError: the text is too short, or has characters that the tokenizer does not have.
    """
    by_document = _split_lines if config.documents == "lines" else _split_stream
    tokenizer, splits, notes = by_document(config, corpus, tokenizer)
    counted = {name: _with_size(split, tokenizer) for name, split in splits.items()}
    return SplitText(tokenizer, counted, notes)


def _with_size(split: Split, tokenizer: Tokenizer) -> Split:
    counts_V = target_counts(split, tokenizer.vocab_size)
    return dataclasses.replace(split, counted=text_size(tokenizer, counts_V))


def _split_lines(config: DataConfig, corpus: Corpus, tokenizer: Tokenizer | None) -> SplitText:
    """Split the lines, each a document: tail in the file's order, shuffled_lines at random."""
    text: Any = corpus.text
    newline: Any = "\n" if isinstance(text, str) else b"\n"
    all_lines = text.removesuffix(newline).split(newline)
    lines = [line.strip() if config.strip_lines else line for line in all_lines if line.strip()]
    dropped = len(all_lines) - len(lines)
    notes = dropped_note(dropped)
    if not lines:
        raise all_blank(corpus.field)
    fraction, count = config.val_fraction, len(lines)
    # Each line caches its hash, which is fastest to compute in the order of memory.
    collections.deque(map(hash, lines), maxlen=0)
    if count == 1 and fraction:
        carriage_return: Any = "\r" if isinstance(text, str) else b"\r"
        returns = carriage_return in lines[0]
        raise one_line(config, corpus.field, len(lines[0]), returns=returns)
    if config.split == "shuffled_lines":
        random.Random(SHUFFLE_SEED).shuffle(lines)
    cuts = line_cuts(config, count)
    notes += _repeated_lines(lines, cuts)
    whole, train = (_join_lines(part, newline) for part in (lines, lines[: cuts[0]]))
    tokenizer, trained = _tokenizer(config, whole, train, tokenizer, boundary=True)
    notes += trained
    splits = {}
    for name, begin, end in zip(("train", "val", "test"), [0, *cuts], cuts, strict=False):
        if begin == end:
            raise no_lines_left(fraction, count, name)
        tokens = _encode(corpus, tokenizer, _join_lines(lines[begin:end], newline))
        bounds = np.flatnonzero(tokens == 0)
        splits[name] = Split(tokens, bounds[:-1], np.diff(bounds), name)
    return SplitText(tokenizer, splits, notes)


def _repeated_lines(lines: list[Any], cuts: list[int]) -> tuple[str, ...]:
    """Note how many held-out lines also occur in the train part."""
    train = itertools.islice(lines, cuts[0])
    # The set is built of the smaller part.
    repeated = set(lines[cuts[0] :]).intersection(train)
    held_out = [
        sum(line in repeated for line in lines[begin:end])
        for begin, end in itertools.pairwise(cuts)
    ]
    return repeated_note(held_out, cuts)


def _join_lines(lines: list[Any], newline: Any) -> Any:
    """Join lines into one text with a newline before, between and after them."""
    return newline + newline.join(lines) + newline


def _split_stream(config: DataConfig, corpus: Corpus, tokenizer: Tokenizer | None) -> SplitText:
    """Split a text that is one document, by its tail or interleaved."""
    text = corpus.text
    if config.split == "interleaved" and config.val_fraction:
        if isinstance(tokenizer, BpeTokenizer) or (tokenizer is None and config.subwords):
            raise UserError(
                "data.split: interleaved given, but its rows are of equally many characters, which "
                "subword tokens are not; use data.split=tail"
            )
        tokenizer, _ = _tokenizer(config, text, text, tokenizer, boundary=False)
        return SplitText(tokenizer, *_interleave(config, _encode(corpus, tokenizer, text)))
    # As in nanoGPT, the train part is the first int(0.9 * N) characters. The text is cut before it
    # is encoded: so every tokenizer has the same parts, and no token reaches across.
    cut = int((1 - config.val_fraction) * len(text))
    parts = {"train": text[:cut], "val": text[cut:]} if config.val_fraction else {"train": text}
    tokenizer, notes = _tokenizer(config, text, parts["train"], tokenizer, boundary=False)
    splits = {
        name: _one_document(config, corpus, tokenizer, part, name) for name, part in parts.items()
    }
    return SplitText(tokenizer, splits, notes)


def _one_document(
    config: DataConfig, corpus: Corpus, tokenizer: Tokenizer, text: str | bytes, name: str
) -> Split:
    tokens = _encode(corpus, tokenizer, text)
    if len(tokens) < 2:
        unit = "tokens" if isinstance(tokenizer, BpeTokenizer) else "characters"
        raise too_short(config, corpus.field, name, f"{len(tokens)} {unit}")
    return Split(tokens, np.zeros(1, np.int64), np.array([len(tokens) - 1]), name)


def _interleave(config: DataConfig, tokens: np.ndarray) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Split a text as `fold` folds it.

    Every row is a document of each split, and its last target is the next character of the text
    (for the last row of a text that needed no trimming, the text's first character, as in
    char-rnn's loader).
    """
    rows, width, ends, notes = fold(config, len(tokens))
    used = rows * width
    following = tokens[used] if len(tokens) > used else tokens[0]
    folded = tokens[:used].reshape(rows, width)
    after = np.append(folded[1:, 0], following)[:, None]
    folded = np.concatenate([folded, after], axis=1)
    splits = {}
    for name, begin, end in zip(("train", "val", "test"), [0, *ends], ends, strict=False):
        length = end - begin
        starts = np.arange(rows) * (length + 1)
        part = folded[:, begin : end + 1].ravel()
        splits[name] = Split(part, starts, np.full(rows, length), name)
    return splits, notes


def _tokenizer(
    config: DataConfig, text: Any, train: Any, other: Tokenizer | None, *, boundary: bool
) -> tuple[Tokenizer, tuple[str, ...]]:
    """Return the text's own tokenizer, or the other run's, and notes on it.

    Args:
      config: the data section.
      text: the whole text, whose characters are the alphabet.
      train: its training part, of which subwords are learned.
      other: another run's tokenizer, or None.
      boundary: token 0 ends a line.
    """
    if other is None:
        return _own_tokenizer(config, text, train, boundary=boundary)
    return adopt_tokenizer(other, boundary=boundary), ()


def adopt_tokenizer(other: Tokenizer, *, boundary: bool) -> Tokenizer:
    """Return another run's tokenizer for a text.

    Args:
      other: the tokenizer.
      boundary: token 0 ends a line.

    Raises:
      UserError: the text is a list, and token 0 is no newline.
    """
    if boundary and other.decode([0]) != "\n":
        raise UserError(
            "data.layout: the text is a list of lines, but the other run's alphabet has no newline "
            "as its token 0; use data.layout=stream, or train on lines from the start"
        )
    if isinstance(other, CharTokenizer):
        return dataclasses.replace(other, boundary=boundary)
    return other


def _own_tokenizer(
    config: DataConfig, text: Any, train: Any, *, boundary: bool
) -> tuple[Tokenizer, tuple[str, ...]]:
    if isinstance(text, bytes):
        return ByteTokenizer(boundary), ()
    if config.tokenizer == "bpe":
        trained = train_bpe(train, config.vocab_size, boundary=boundary)
        if trained.vocab_size == config.vocab_size:
            return trained, ()
        note = (
            f"data.vocab_size: {config.vocab_size:,} given, but the training part gives only "
            f"{trained.vocab_size:,} tokens: no further pair of them occurs twice"
        )
        return trained, (note,)
    if config.subwords:
        return read_tokenizer(config.tokenizer, boundary=boundary), ()
    return CharTokenizer.from_text(text, boundary=boundary), ()


def _encode(corpus: Corpus, tokenizer: Tokenizer, text: str | bytes) -> np.ndarray:
    """Encode a part of a corpus."""
    try:
        return tokenizer.encode(text)  # type: ignore[arg-type]
    except UnknownCharacterError:
        assert isinstance(tokenizer, CharTokenizer)
        raise UserError(f"{corpus.field}: {explain_unseen(corpus, tokenizer)}") from None
