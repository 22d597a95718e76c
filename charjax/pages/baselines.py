"""Losses of counts on a run's text, with which a trained model is compared."""

import contextlib
import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charjax import files, parallel
from charjax.config import DataConfig
from charjax.data.datasets import Dataset
from charjax.data.splits import Split, target_counts
from charjax.models.ngram import NgramModel
from charjax.training.evaluation import exact_loss

FILE = "references.json"
_FORMAT = 1
_ORDER = 6
# Counting more takes over 10 s, and scoring more over a second (2 cores).
_MOST_COUNTED, _MOST_SCORED = 3_000_000, 1_000_000
# Settings of [data] that change its splits.
_SPLITTING = ("split", "val_fraction", "layout", "rows", "chunk")


class Counted(NamedTuple):
    """Losses of counts of the training split on the validation split, nats per target.

    Attributes:
      unigram: of the frequencies of single symbols, one added to each count.
      kneser_ney: of interpolated Kneser-Ney counts.
      order: of the latter: it sees order - 1 characters.
      counted: training targets counted for it.
      train: all of them.
      scored: validation targets scored.
      val: all of them.
    """

    unigram: float
    kneser_ney: float
    order: int
    counted: int
    train: int
    scored: int
    val: int


def text_key(data: DataConfig, text_digest: str, tokenizer_digest: str) -> str:
    """Return a digest that is equal for runs whose losses are of one split in one alphabet."""
    tree = data.model_dump(mode="json")
    parts = {name: tree.get(name) for name in _SPLITTING}
    parts |= {"text": text_digest, "tokenizer": tokenizer_digest}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_counted(directory: Path, key: str) -> Counted | None:
    """Return what an earlier report has measured for a run; None where it was of another text."""
    try:
        tree = json.loads((directory / FILE).read_text(encoding="utf-8"))
        if (tree["format"], tree["key"]) != (_FORMAT, key):
            return None
        counted = Counted(*(tree[name] for name in Counted._fields))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    are_numbers = all(type(value) in (int, float) and math.isfinite(value) for value in counted)
    return counted if are_numbers else None


def keep_counted(directory: Path, key: str, counted: Counted) -> None:
    """Keep it with the run for the next report, where the directory can be written."""
    tree: dict[str, Any] = {"format": _FORMAT, "key": key, **counted._asdict()}
    with contextlib.suppress(OSError):
        files.write_json(directory / FILE, tree)


def count(text: Dataset) -> Counted | None:
    """Count the training split and score the validation split; None where nothing is held out."""
    train, val = text.splits["train"], text.splits.get("val")
    if val is None:
        return None
    size = text.tokenizer.vocab_size
    part, scored = first_targets(train, _MOST_COUNTED), first_targets(val, _MOST_SCORED)
    model = NgramModel(
        vocab_size=size, dtype=jnp.float32, order=_ORDER, smoothing="kneser_ney", alpha=1.0
    )
    variables = jax.device_put(model.fit(part))
    mesh = parallel.make_mesh(jax.local_devices()[:1], 1)
    # Both are sizes of windows, which counts do not have.
    score = exact_loss(model, variables, scored, mesh, context_length=_ORDER, batch_size=1)
    return Counted(
        unigram=_unigram_loss(train, scored, size),
        kneser_ney=score.loss,
        order=_ORDER,
        counted=part.num_targets,
        train=train.num_targets,
        scored=scored.num_targets,
        val=val.num_targets,
    )


def first_targets(split: Split, most: int) -> Split:
    """Return the first documents of a split, with `most` targets at most; the last one is cut."""
    ends_D = np.cumsum(split.doc_lengths)
    if ends_D[-1] <= most:
        return split
    documents = int(np.searchsorted(ends_D, most)) + 1
    lengths_D = split.doc_lengths[:documents].copy()
    lengths_D[-1] -= ends_D[documents - 1] - most
    return Split(split.tokens, split.doc_starts[:documents], lengths_D, split.name)


def _unigram_loss(train: Split, val: Split, vocab_size: int) -> float:
    counts_V = target_counts(train, vocab_size) + 1.0
    seen_V = target_counts(val, vocab_size)
    return float(-(seen_V * np.log(counts_V / counts_V.sum())).sum() / seen_V.sum())
