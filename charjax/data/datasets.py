"""Datasets: a text as tokens, cut into splits of documents.

Letters: N tokens of a split, D documents.
"""

import collections
import dataclasses
import itertools
import os
import random
from typing import Any, Literal, NamedTuple

import numpy as np

from charjax.config import DataConfig
from charjax.data.corpora import Corpus, load_corpus, read_file, reading_rules
from charjax.data.reading import ReadingRules
from charjax.data.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    UnknownCharacterError,
)
from charjax.errors import UserError

# The lectures shuffle the names with Python's random.seed(42).
_SHUFFLE_SEED = 42


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
      long_line: the 99th percentile of the documents' targets.
    """

    name: str
    tokenizer: Tokenizer
    splits: dict[str, Split]
    digest: str
    notes: tuple[str, ...]
    longest_line: int
    long_line: int


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
    if digest is not None and config.path is not None and not _exists(config.path):
        raise UserError(
            f"data.path: {config.path!r} does not exist; if the run's text was moved, give its "
            "place now (data.path=FILE, with --resume or to charjax.evaluate): it is known by its "
            "SHA-256"
        )
    corpus = load_corpus(config if tokenizer is None else _with_kind(config, tokenizer))
    if digest not in (None, corpus.digest):
        raise UserError(
            f"data: the text has changed since the run began (SHA-256 {corpus.digest[:12]}..., "
            f"then {str(digest)[:12]}...); put the old text back, or start a new run with "
            "--init-from"
        )
    tokenizer, splits, notes = _cut(config, corpus, tokenizer)
    lengths_D = np.concatenate([split.doc_lengths for split in splits.values()])
    # "lower": one long line among a few is above it.
    long = int(np.percentile(lengths_D, 99, method="lower"))
    notes = corpus.notes + notes
    return Dataset(corpus.name, tokenizer, splits, corpus.digest, notes, int(lengths_D.max()), long)


def _exists(path: str) -> bool:
    return os.path.exists(os.path.expanduser(path))


class OtherText(NamedTuple):
    """A text that a run was not trained on, whole, in its alphabet.

    Attributes:
      split: its tokens and documents.
      notes: what was done to the text, one line each.
      unseen: characters left out because the alphabet does not have them.
    """

    split: Split
    notes: tuple[str, ...]
    unseen: int


def load_other_text(
    path: str,
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    field: str,
    unseen: Literal["error", "skip"] = "error",
) -> OtherText:
    """Read a file as the text of a run was read, and lay it out in the same documents.

    Args:
      path: of the file.
      config: the run's.
      tokenizer: the run's.
      field: the flag that names the file.
      unseen: "skip" removes the characters that the alphabet does not have before anything else:
        none of them is a target, and what follows one is predicted as if it were not there.

    Raises:
      UserError: the file cannot be read by the run's rules, is too short, or has characters that
        the alphabet does not have.
    """
    rules = run_rules(config, tokenizer)
    corpus = read_file(path, rules, field)
    notes = corpus.notes
    if rules.encoding == "latin-1":
        notes = ("the file was read as latin-1, as the run's own text was", *notes)
    count = 0
    if unseen == "skip" and isinstance(tokenizer, CharTokenizer):
        corpus, count, removed = _remove_unseen(corpus, tokenizer)
        if not corpus.text:
            raise UserError(
                f"{field}: none of the {count:,} characters of {path!r} is among the "
                f"{tokenizer.vocab_size} symbols that the run knows; give a text like the run's own"
            )
        notes += removed
    layout = "lines" if tokenizer.boundary else "stream"
    whole = config.model_copy(
        update={"path": path, "split": "tail", "layout": layout, "val_fraction": 0.0}
    )
    _, splits, cutting = _cut(whole, corpus, tokenizer)
    return OtherText(splits["train"], notes + cutting, count)


def run_rules(config: DataConfig, tokenizer: Tokenizer) -> ReadingRules:
    """How every later text and prompt of a run is read: as its own text was.

    Args:
      config: the run's.
      tokenizer: the run's; a fine-tuned one's may be of another kind than its config says.
    """
    return reading_rules(_with_kind(config, tokenizer))


def _with_kind(config: DataConfig, tokenizer: Tokenizer) -> DataConfig:
    kind = "byte" if isinstance(tokenizer, ByteTokenizer) else "char"
    return config.model_copy(update={"tokenizer": kind})


def _remove_unseen(corpus: Corpus, tokenizer: CharTokenizer) -> tuple[Corpus, int, tuple[str, ...]]:
    """The text without the characters that an alphabet does not have, their number, and a note."""
    text = corpus.text
    assert isinstance(text, str)
    count = len(_unknown_places(text, tokenizer))
    if not count:
        return corpus, 0, ()
    kinds = sorted(set(text) - set(tokenizer.symbols))
    shown = ", ".join(f"{kind!r}" for kind in kinds[:_SHOWN_KINDS])
    more = ", ..." if len(kinds) > _SHOWN_KINDS else ""
    note = (
        f"{count:,} of {len(text):,} characters are not among the {tokenizer.vocab_size} symbols "
        f"that the run knows ({shown}{more}) and were left out: they are no targets, and what "
        "follows them is predicted as if they were not there"
    )
    if count > _MANY_UNSEEN * len(text):
        note += f"; at {count / len(text):.1%} that raises the loss of what is left"
    kept = text.translate(dict.fromkeys(map(ord, kinds)))
    return dataclasses.replace(corpus, text=kept), count, (note,)


_SHOWN_KINDS = 8
_MANY_UNSEEN = 0.01


_Cut = tuple[Tokenizer, dict[str, Split], tuple[str, ...]]


def _cut(config: DataConfig, corpus: Corpus, tokenizer: Tokenizer | None) -> _Cut:
    """The tokenizer, the splits and notes."""
    cut = _cut_lines if config.documents == "lines" else _cut_text
    return cut(config, corpus, tokenizer)


def _cut_lines(config: DataConfig, corpus: Corpus, tokenizer: Tokenizer | None) -> _Cut:
    """Each line a document; tail: in the file's order; shuffled_lines: train, val and test."""
    text: Any = corpus.text
    newline: Any = "\n" if isinstance(text, str) else b"\n"
    every = text.removesuffix(newline).split(newline)
    lines = [line for line in every if line.strip()]
    dropped = len(every) - len(lines)
    notes: tuple[str, ...] = (f"{dropped:,} blank lines were dropped",) if dropped else ()
    if not lines:
        raise UserError(f"{corpus.field}: every line of the text is blank; give one item a line")
    tokenizer = _tokenizer(_documents(lines, newline), tokenizer, boundary=True)
    fraction, count = config.val_fraction, len(lines)
    # A line keeps its hash; in the file's order, which is that of memory, it is had in no time.
    collections.deque(map(hash, lines), maxlen=0)
    if count == 1 and fraction:
        raise UserError(f"{corpus.field}: {_explain_one_line(config, lines[0])}")
    if config.split == "shuffled_lines":
        random.Random(_SHUFFLE_SEED).shuffle(lines)
        cuts = [int((1 - 2 * fraction) * count), int((1 - fraction) * count), count]
    else:
        cuts = [int((1 - fraction) * count), count]
    if not fraction:
        cuts = [count]
    notes += _repeated_lines(lines, cuts)
    splits = {}
    for name, begin, end in zip(("train", "val", "test"), [0, *cuts], cuts, strict=False):
        if begin == end:
            raise UserError(
                f"data.val_fraction: {fraction} of {count:,} lines leaves none for {name}; give "
                "more lines or another fraction, or 0 to hold nothing out"
            )
        tokens = _encode(corpus, tokenizer, _documents(lines[begin:end], newline))
        bounds = np.flatnonzero(tokens == 0)
        splits[name] = Split(tokens, bounds[:-1], np.diff(bounds), name)
    return tokenizer, splits, notes


def _explain_one_line(config: DataConfig, line: str | bytes) -> str:
    remedy = "data.layout=stream" if config.layout == "lines" else "data.split=tail"
    carriage_return: Any = "\r" if isinstance(line, str) else b"\r"
    if carriage_return in line:
        remedy += ", or make its line ends LF (tr '\\r' '\\n' < OLD > NEW)"
    return (
        f"the text is one line, of {len(line):,} characters, where each line is a document of its "
        f"own; use {remedy}"
    )


def _repeated_lines(lines: list[Any], cuts: list[int]) -> tuple[str, ...]:
    """A note of the held-out lines that stand in the train part too, if there are any."""
    train = itertools.islice(lines, cuts[0])
    # The set is of the smaller part.
    repeated = set(lines[cuts[0] :]).intersection(train)
    counts = []
    for name, begin, end in zip(("val", "test"), cuts, cuts[1:], strict=False):
        number = sum(line in repeated for line in lines[begin:end])
        if number:
            counts.append(f"{number:,} of {end - begin:,} {name} lines")
    return (f"{' and '.join(counts)} also stand in the train part",) if counts else ()


def _documents(lines: list[Any], newline: Any) -> Any:
    """One text with a newline before, between and after its lines."""
    return newline + newline.join(lines) + newline


def _cut_text(config: DataConfig, corpus: Corpus, tokenizer: Tokenizer | None) -> _Cut:
    """The text as one document (tail, or nothing held out), or folded into rows (interleaved)."""
    tokenizer = _tokenizer(corpus.text, tokenizer, boundary=False)
    tokens = _encode(corpus, tokenizer, corpus.text)
    if not config.val_fraction:
        return tokenizer, {"train": _one_document(config, corpus, tokens, "train")}, ()
    if config.split == "interleaved":
        return tokenizer, *_interleave(config, tokens)
    # nanoGPT's cut: the train part is the first int(0.9 * N) characters.
    cut = int((1 - config.val_fraction) * len(tokens))
    parts = {"train": tokens[:cut], "val": tokens[cut:]}
    return (
        tokenizer,
        {name: _one_document(config, corpus, part, name) for name, part in parts.items()},
        (),
    )


def _one_document(config: DataConfig, corpus: Corpus, tokens: np.ndarray, name: str) -> Split:
    if len(tokens) < 2:
        part, remedy = "it", "give a longer text"
        if config.val_fraction:
            part = f"with data.val_fraction = {config.val_fraction} its {name} part"
            remedy += " or another fraction"
        raise UserError(
            f"{corpus.field}: the text is too short: {part} has {len(tokens)} characters, and at "
            f"least 2 are needed; {remedy}"
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


def _encode(corpus: Corpus, tokenizer: Tokenizer, text: str | bytes) -> np.ndarray:
    """The tokens of a part of a corpus."""
    try:
        return tokenizer.encode(text)  # type: ignore[arg-type]
    except UnknownCharacterError:
        assert isinstance(tokenizer, CharTokenizer)
        raise UserError(f"{corpus.field}: {_explain_unknown(corpus, tokenizer)}") from None


def _explain_unknown(corpus: Corpus, tokenizer: CharTokenizer) -> str:
    """Where the text has characters that the alphabet does not have."""
    text = corpus.text
    assert isinstance(text, str)
    explained = tokenizer.explain_unknown(text, _unknown_places(text, tokenizer))
    if corpus.field == "--text":
        explained += "; or leave such characters out by --unseen skip"
    return explained


def _unknown_places(text: str, tokenizer: CharTokenizer) -> np.ndarray:
    """The places (K,) of unknown characters; those of blank lines count only in a stream."""
    places_K = tokenizer.find_unknown(text)
    kinds = set(text) - set(tokenizer.symbols)
    if tokenizer.boundary and any(kind.isspace() for kind in kinds):
        dropped_K = np.array([_is_in_blank_line(text, place) for place in places_K.tolist()])
        places_K = places_K[~dropped_K]
    return places_K


def _is_in_blank_line(text: str, place: int) -> bool:
    end = text.find("\n", place)
    line = text[text.rfind("\n", 0, place) + 1 : None if end < 0 else end]
    return not line.strip()
