"""Datasets: a text as tokens, cut into splits of documents.

Letters: N tokens of a split, D documents.
"""

import dataclasses
import random
from typing import Any

import numpy as np

from charjax.config import DataConfig
from charjax.data.corpora import Corpus, load_corpus
from charjax.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from charjax.errors import UserError

# The lectures shuffle the names with Python's random.seed(42).
_SHUFFLE_SEED = 42
# Positions in a text are int32 on the device, with room for a window past the end.
_MOST_TOKENS = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a text, as documents that each predict their own targets.

    Document d has n = doc_lengths[d] targets: its inputs are tokens[s : s + n] and its targets
    tokens[s + 1 : s + n + 1], with s = doc_starts[d]. Lines share the boundaries between them:
    `0 e m m a 0 o l i v i a 0` is two documents, of 5 and 7 targets.

    Attributes:
      tokens: (N,) uint8 or uint16.
      doc_starts: (D,) int64.
      doc_lengths: (D,) int64, each at least 1.
      name: train, val or test.
    """

    tokens: np.ndarray
    doc_starts: np.ndarray
    doc_lengths: np.ndarray
    name: str = "train"

    @property
    def num_targets(self) -> int:
        """Characters that are predicted."""
        return int(self.doc_lengths.sum())


def target_counts(split: Split, vocab_size: int) -> np.ndarray:
    """How often each symbol is a target: (V,) int64."""
    # +1 where a document's targets begin, -1 behind their end; the running sum counts them.
    edges = np.zeros(len(split.tokens) + 1, np.int64)
    np.add.at(edges, split.doc_starts + 1, 1)
    np.add.at(edges, split.doc_starts + split.doc_lengths + 1, -1)
    times = np.cumsum(edges[:-1])
    return np.bincount(split.tokens, times, vocab_size).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A text, tokenized and split.

    Attributes:
      name: of the corpus, or the file's.
      tokenizer: between its characters and its tokens.
      splits: train; val unless val_fraction is 0; test where the way of cutting gives one.
      digest: SHA-256 of the text as it was read.
      notes: what was done to the text that the user should know of, one line each.
      longest_line: targets of the longest document in any split (a line's end included).
    """

    name: str
    tokenizer: Tokenizer
    splits: dict[str, Split]
    digest: str
    notes: tuple[str, ...]
    longest_line: int


def load_dataset(
    config: DataConfig, tokenizer: Tokenizer | None = None, digest: str | None = None
) -> Dataset:
    """Read the text that a config names, and cut it.

    Args:
      config: the data section.
      tokenizer: another run's alphabet, for fine-tuning or evaluation; by default the text's own.
      digest: SHA-256 of the text that a run began with, if it must be that one.

    Raises:
      UserError: the text cannot be had, has changed, is too short or too long, or has characters
        that the given tokenizer does not know.
    """
    if tokenizer is not None:
        kind = "byte" if isinstance(tokenizer, ByteTokenizer) else "char"
        config = config.model_copy(update={"tokenizer": kind})
    corpus = load_corpus(config)
    if digest not in (None, corpus.digest):
        raise UserError(
            f"data: the text has changed since the run began (SHA-256 {corpus.digest[:12]}..., "
            f"then {str(digest)[:12]}...); put the old text back, or start a new run with "
            "--init-from"
        )
    if len(corpus.text) > _MOST_TOKENS:
        raise UserError(
            f"{_field(config)}: the text has {len(corpus.text):,} characters, and at most "
            f"{_MOST_TOKENS:,} are allowed; give a part of it"
        )
    cut = _cut_lines if config.documents == "lines" else _cut_text
    tokenizer, splits, notes = cut(config, corpus, tokenizer)
    longest = max(int(split.doc_lengths.max()) for split in splits.values())
    return Dataset(corpus.name, tokenizer, splits, corpus.digest, corpus.notes + notes, longest)


_Cut = tuple[Tokenizer, dict[str, Split], tuple[str, ...]]


def _cut_lines(config: DataConfig, corpus: Corpus, tokenizer: Tokenizer | None) -> _Cut:
    """Each line a document; tail: in the file's order; shuffled_lines: train, val and test."""
    text: Any = corpus.text
    newline: Any = "\n" if isinstance(text, str) else b"\n"
    every = text.removesuffix(newline).split(newline)
    lines = [line for line in every if line.strip()]
    dropped = len(every) - len(lines)
    notes = (f"{dropped:,} blank lines were dropped",) if dropped else ()
    if not lines:
        raise UserError(f"{_field(config)}: every line of the text is blank; give one item a line")
    tokenizer = _tokenizer(_documents(lines, newline), tokenizer, boundary=True)
    fraction, count = config.val_fraction, len(lines)
    if config.split == "shuffled_lines":
        random.Random(_SHUFFLE_SEED).shuffle(lines)
        cuts = [int((1 - 2 * fraction) * count), int((1 - fraction) * count), count]
    else:
        cuts = [int((1 - fraction) * count), count]
    if not fraction:
        cuts = [count]
    splits = {}
    for name, begin, end in zip(("train", "val", "test"), [0, *cuts], cuts, strict=False):
        if begin == end:
            raise UserError(
                f"data.val_fraction: {fraction} of {count:,} lines leaves none for {name}; give "
                "more lines or another fraction, or 0 to hold nothing out"
            )
        tokens = _encode(config, tokenizer, _documents(lines[begin:end], newline))
        bounds = np.flatnonzero(tokens == 0)
        splits[name] = Split(tokens, bounds[:-1], np.diff(bounds), name)
    return tokenizer, splits, notes


def _documents(lines: list[Any], newline: Any) -> Any:
    """One text with a newline before, between and after its lines."""
    return newline + newline.join(lines) + newline


def _cut_text(config: DataConfig, corpus: Corpus, tokenizer: Tokenizer | None) -> _Cut:
    """The text as one document (tail, or nothing held out), or folded into rows (interleaved)."""
    tokenizer = _tokenizer(corpus.text, tokenizer, boundary=False)
    tokens = _encode(config, tokenizer, corpus.text)
    if not config.val_fraction:
        return tokenizer, {"train": _one_document(config, tokens, "train")}, ()
    if config.split == "interleaved":
        return tokenizer, *_interleave(config, tokens)
    # nanoGPT's cut: the train part is the first int(0.9 * N) characters.
    cut = int((1 - config.val_fraction) * len(tokens))
    parts = {"train": tokens[:cut], "val": tokens[cut:]}
    return (
        tokenizer,
        {name: _one_document(config, part, name) for name, part in parts.items()},
        (),
    )


def _one_document(config: DataConfig, tokens: np.ndarray, name: str) -> Split:
    if len(tokens) < 2:
        raise UserError(
            f"{_field(config)}: the text is too short: with data.val_fraction = "
            f"{config.val_fraction} its {name} part has {len(tokens)} characters, and at least 2 "
            "are needed; give a longer text or another fraction"
        )
    return Split(tokens, np.zeros(1, np.int64), np.array([len(tokens) - 1]), name)


def _interleave(config: DataConfig, tokens: np.ndarray) -> tuple[dict[str, Split], tuple[str, ...]]:
    """The split of char-rnn's loader (Karpathy et al. 2015).

    The text is trimmed to whole chunks and folded into rows of equal length; the rows' columns
    are cut into train, val and test, chunk by chunk. So every row is a document of each split,
    and its last target is the character that follows in the text (for the last row of a text
    that needed no trimming, the text's first, as in that loader).
    """
    rows, chunk, fraction = config.rows, config.chunk, config.val_fraction
    chunks = len(tokens) // (rows * chunk)
    width = chunks * chunk
    cuts = [int((1 - 2 * fraction) * chunks), int(fraction * chunks)]
    if 0 in cuts:
        raise UserError(
            f"data.split: interleaved given, but {len(tokens):,} characters make {chunks} chunks "
            f"of {rows} x {chunk}, too few to hold out {fraction} twice; give a longer text, or "
            "lower data.rows or data.chunk"
        )
    used = rows * width
    following = tokens[used] if len(tokens) > used else tokens[0]
    folded = tokens[:used].reshape(rows, width)
    after = np.append(folded[1:, 0], following)[:, None]
    folded = np.concatenate([folded, after], axis=1)
    ends = [cuts[0] * chunk, sum(cuts) * chunk, width]
    splits = {}
    for name, begin, end in zip(("train", "val", "test"), [0, *ends], ends, strict=False):
        length = end - begin
        starts = np.arange(rows) * (length + 1)
        part = folded[:, begin : end + 1].ravel()
        splits[name] = Split(part, starts, np.full(rows, length), name)
    left = len(tokens) - used
    notes = (f"the last {left:,} characters, no whole chunk of each row, are left out",)
    return splits, notes if left else ()


def _tokenizer(text: str | bytes, given: Tokenizer | None, *, boundary: bool) -> Tokenizer:
    """The text's own tokenizer, or the given one, with the meaning that this text has for 0."""
    if given is None:
        if isinstance(text, bytes):
            return ByteTokenizer(boundary)
        return CharTokenizer.from_text(text, boundary=boundary)
    if boundary and given.decode([0]) != "\n":
        raise UserError(
            "data.layout: the text is a list of lines, but the other run's alphabet has no newline "
            "as its token 0; use data.layout=stream, or train on lines from the start"
        )
    if isinstance(given, ByteTokenizer):
        return given
    return dataclasses.replace(given, boundary=boundary)


def _encode(config: DataConfig, tokenizer: Tokenizer, text: str | bytes) -> np.ndarray:
    try:
        return tokenizer.encode(text)  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(f"{_field(config)}: {error}") from None


def _field(config: DataConfig) -> str:
    """The key that chose the text."""
    return "data.name" if config.path is None else "data.path"
