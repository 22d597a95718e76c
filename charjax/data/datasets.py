"""Datasets: a run's text in tokens and splits, and other texts in a run's alphabet."""

import dataclasses
import hashlib
from typing import Literal, NamedTuple

import numpy as np

from charjax.config import DataConfig
from charjax.data.corpora import load_corpus, load_validation, reading_rules
from charjax.data.reading import ReadingRules
from charjax.data.splits import Split, SplitText
from charjax.data.streamed_splits import leave_out_unseen, split_corpus
from charjax.data.streaming import StreamedText
from charjax.data.subwords import BpeTokenizer
from charjax.data.text_files import TextFile
from charjax.data.texts import Corpus, exists, read_file
from charjax.data.tokenizers import CharTokenizer, Tokenizer
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
      digest: SHA-256 of the text as it was read, its validation text included.
      notes: changes to the text to report to the user, one line each.
      longest_line: targets of the longest document in any split (a line's end included).
      long_line: 99th percentile of the documents' targets.
      files: the user's files that the text consists of.
    """

    name: str
    tokenizer: Tokenizer
    splits: dict[str, Split]
    digest: str
    notes: tuple[str, ...]
    longest_line: int
    long_line: int
    files: tuple[TextFile, ...] = ()


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
    for key, source in (("path", config.path), ("val_path", config.val_path)):
        if digest is not None and source is not None and not exists(source):
            raise UserError(
                f"data.{key}: {_shown(source)} does not exist; if the run's text was moved, give "
                f"its new path (data.{key}=FILE, with --resume or to charjax.evaluate)"
            )
    rules_config = config if tokenizer is None else _with_kind(config, tokenizer)
    corpus, validation = load_corpus(rules_config), load_validation(rules_config)
    now = _joint_digest(corpus, validation)
    if digest not in (None, now):
        raise UserError(
            f"data: the text has changed since the run began (SHA-256 {now[:12]}..., "
            f"was {str(digest)[:12]}...); put the old text back, or use another text in a new run "
            "(charjax.train --init-from) or for its loss alone (charjax.evaluate --text)"
        )
    return dataset_of(config, corpus, tokenizer, validation)


def dataset_of(
    config: DataConfig,
    corpus: Corpus | StreamedText,
    tokenizer: Tokenizer | None = None,
    validation: Corpus | StreamedText | None = None,
) -> Dataset:
    """Tokenize and split a text; arguments as of `load_dataset`.

    With a validation text nothing of the other one is held out. The alphabet is that of both, as
    that of one text is of all its parts.
    """
    if validation is None:
        tokenizer, splits, notes = split_corpus(config, corpus, tokenizer)
        notes, files = corpus.notes + notes, corpus.files
    else:
        tokenizer, splits, notes = _with_validation(config, corpus, tokenizer, validation)
        notes, files = corpus.notes + validation.notes + notes, corpus.files + validation.files
    lengths_D = np.concatenate([split.doc_lengths for split in splits.values()])
    # method="lower": with few lines, a single long one stays above the percentile.
    long = int(np.percentile(lengths_D, 99, method="lower"))
    return Dataset(
        name=corpus.name,
        tokenizer=tokenizer,
        splits=splits,
        digest=_joint_digest(corpus, validation),
        notes=notes,
        longest_line=int(lengths_D.max()),
        long_line=long,
        files=files,
    )


def _with_validation(
    config: DataConfig,
    corpus: Corpus | StreamedText,
    tokenizer: Tokenizer | None,
    validation: Corpus | StreamedText,
) -> SplitText:
    whole = config.model_copy(update={"val_path": None, "val_fraction": 0.0})
    trained = split_corpus(whole, corpus, tokenizer)
    notes: tuple[str, ...] = ()
    if tokenizer is None and isinstance(trained.tokenizer, CharTokenizer):
        held_out = split_corpus(whole, validation, None).tokenizer
        assert isinstance(held_out, CharTokenizer)
        if new := set(held_out.symbols) - set(trained.tokenizer.symbols):
            both = CharTokenizer.from_text(
                trained.tokenizer.symbols + held_out.symbols, boundary=held_out.boundary
            )
            trained = split_corpus(whole, corpus, both)
            shown = ", ".join(map(repr, sorted(new)[:8])) + (", ..." if len(new) > 8 else "")
            notes = (
                f"{len(new):,} symbols occur in data.val_path alone, and the model is never "
                f"trained on them: {shown}",
            )
    held = split_corpus(whole, validation, trained.tokenizer)
    val = dataclasses.replace(held.splits["train"], name="val")
    notes = (*trained.notes, *(f"data.val_path: {note}" for note in held.notes), *notes)
    return SplitText(trained.tokenizer, {"train": trained.splits["train"], "val": val}, notes)


def _joint_digest(corpus: Corpus | StreamedText, validation: Corpus | StreamedText | None) -> str:
    """Return the digest of a text, or of it and its validation text."""
    if validation is None:
        return corpus.digest
    return hashlib.sha256(f"{corpus.digest} {validation.digest}".encode()).hexdigest()


def _shown(source: str | tuple[str, ...]) -> str:
    """Return a path, or the first of a list that does not exist, as messages show it."""
    paths = (source,) if isinstance(source, str) else source
    return repr(next(path for path in paths if not exists(path)))


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
    corpus = read_file(path, rules, field, whole=isinstance(tokenizer, BpeTokenizer))
    notes = corpus.notes
    if rules.encoding == "latin-1":
        notes = ("the file was read as latin-1, as the run's text was", *notes)
    count = 0
    if unseen == "skip" and isinstance(tokenizer, CharTokenizer):
        corpus, count, removed = _remove_unseen(corpus, tokenizer)
        if not corpus.length:
            raise UserError(
                f"{field}: none of the {count:,} characters of {path!r} is among the "
                f"{tokenizer.vocab_size} symbols of the run; give a text like the run's own"
            )
        notes += removed
    layout = "lines" if tokenizer.boundary else "stream"
    unsplit = config.model_copy(
        update={
            "path": path,
            "val_path": None,
            "split": "tail",
            "layout": layout,
            "val_fraction": 0.0,
        }
    )
    _, splits, split_notes = split_corpus(unsplit, corpus, tokenizer)
    return OtherText(splits["train"], notes + split_notes, count)


def _remove_unseen(
    corpus: Corpus | StreamedText, tokenizer: CharTokenizer
) -> tuple[Corpus | StreamedText, int, tuple[str, ...]]:
    if isinstance(corpus, StreamedText):
        return leave_out_unseen(corpus, tokenizer)
    return remove_unseen(corpus, tokenizer)


def run_rules(config: DataConfig, tokenizer: Tokenizer) -> ReadingRules:
    """Return the rules by which a run's text, and every later text and prompt, is read.

    Args:
      config: the run's data section.
      tokenizer: the run's tokenizer; after fine-tuning, its kind may differ from the config's.
    """
    return reading_rules(_with_kind(config, tokenizer))


def _with_kind(config: DataConfig, tokenizer: Tokenizer) -> DataConfig:
    kind = str(tokenizer.to_json()["kind"])
    return config.model_copy(update={"tokenizer": kind})
