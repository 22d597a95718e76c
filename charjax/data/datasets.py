"""Datasets: a run's text in tokens and splits, and other texts in a run's alphabet."""

import dataclasses
import os
from typing import Literal, NamedTuple

import numpy as np

from charjax.config import DataConfig
from charjax.data.corpora import Corpus, load_corpus, read_file, reading_rules
from charjax.data.reading import ReadingRules
from charjax.data.splits import Split, split_text
from charjax.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from charjax.data.unseen import remove_unseen
from charjax.errors import UserError

# Stands for the SHA-256 of the text of a run that was imported without one.
NO_TEXT = ""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A text, tokenized and split.

    Attributes:
      name: the corpus's name, or the file's.
      tokenizer: its tokenizer.
      splits: train; val unless val_fraction is 0; test with shuffled_lines or interleaved.
      digest: SHA-256 of the text as it was read.
      notes: changes to the text to report to the user, one line each.
      longest_line: targets of the longest document in any split (a line's end included).
      long_line: 99th percentile of the documents' targets.
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
    """Read the text that a config names, tokenize it and split it.

    Args:
      config: the data section.
      tokenizer: another run's alphabet, for fine-tuning or evaluation; by default the text's own.
      digest: SHA-256 that the text must have, that of a run's first text; None for any text;
        NO_TEXT, which no text has, for a run that was imported without one.

    Raises:
      UserError: the text cannot be read, has changed, is too short or too long, or has characters
        that the given tokenizer does not have.
    """
    if digest == NO_TEXT:
        raise UserError(
            "data: the run was imported with an alphabet and without a text; evaluate a file "
            "(--text FILE), train a new run from it (charjax.train --init-from), or import it "
            "with its text (data.path=...)"
        )
    if digest is not None and config.path is not None and not _exists(config.path):
        raise UserError(
            f"data.path: {config.path!r} does not exist; if the run's text was moved, give its "
            "new path (data.path=FILE, with --resume or to charjax.evaluate)"
        )
    corpus = load_corpus(config if tokenizer is None else _with_kind(config, tokenizer))
    if digest not in (None, corpus.digest):
        raise UserError(
            f"data: the text has changed since the run began (SHA-256 {corpus.digest[:12]}..., "
            f"was {str(digest)[:12]}...); put the old text back, or use another text in a new run "
            "(charjax.train --init-from) or for its loss alone (charjax.evaluate --text)"
        )
    return dataset_of(config, corpus, tokenizer)


def dataset_of(config: DataConfig, corpus: Corpus, tokenizer: Tokenizer | None = None) -> Dataset:
    """Tokenize and split a text; arguments as of `load_dataset`."""
    tokenizer, splits, notes = split_text(config, corpus, tokenizer)
    lengths_D = np.concatenate([split.doc_lengths for split in splits.values()])
    # method="lower": with few lines, a single long one stays above the percentile.
    long = int(np.percentile(lengths_D, 99, method="lower"))
    notes = corpus.notes + notes
    return Dataset(corpus.name, tokenizer, splits, corpus.digest, notes, int(lengths_D.max()), long)


def _exists(path: str) -> bool:
    return os.path.exists(os.path.expanduser(path))


class OtherText(NamedTuple):
    """A text that a run was not trained on, unsplit, in the run's alphabet.

    Attributes:
      split: its tokens and documents.
      notes: changes to the text to report to the user, one line each.
      unseen: number of characters left out because the alphabet does not have them.
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
      path: the file.
      config: the run's data section.
      tokenizer: the run's tokenizer.
      field: the flag that names the file.
      unseen: "skip" first removes the characters that the alphabet does not have: none of them
        is a target, and the characters after one are predicted as if it were absent.

    Raises:
      UserError: the file cannot be read by the run's rules, is too short, or has characters that
        the alphabet does not have.
    """
    rules = run_rules(config, tokenizer)
    corpus = read_file(path, rules, field)
    notes = corpus.notes
    if rules.encoding == "latin-1":
        notes = ("the file was read as latin-1, as the run's text was", *notes)
    count = 0
    if unseen == "skip" and isinstance(tokenizer, CharTokenizer):
        corpus, count, removed = remove_unseen(corpus, tokenizer)
        if not corpus.text:
            raise UserError(
                f"{field}: none of the {count:,} characters of {path!r} is among the "
                f"{tokenizer.vocab_size} symbols of the run; give a text like the run's own"
            )
        notes += removed
    layout = "lines" if tokenizer.boundary else "stream"
    unsplit = config.model_copy(
        update={"path": path, "split": "tail", "layout": layout, "val_fraction": 0.0}
    )
    _, splits, split_notes = split_text(unsplit, corpus, tokenizer)
    return OtherText(splits["train"], notes + split_notes, count)


def run_rules(config: DataConfig, tokenizer: Tokenizer) -> ReadingRules:
    """Return the rules by which a run's text, and every later text and prompt, is read.

    Args:
      config: the run's data section.
      tokenizer: the run's tokenizer; after fine-tuning, its kind may differ from the config's.
    """
    return reading_rules(_with_kind(config, tokenizer))


def _with_kind(config: DataConfig, tokenizer: Tokenizer) -> DataConfig:
    kind = "byte" if isinstance(tokenizer, ByteTokenizer) else "char"
    return config.model_copy(update={"tokenizer": kind})
