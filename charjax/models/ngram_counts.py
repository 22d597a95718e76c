"""Smoothing the counts of n-grams, and the tables that the model reads, in numpy.

The contexts seen in a text form a tree: the root is the empty context, and the child c of a node
is its context with c in front, that is, one character further back. A context that was seen only
once needs no children, since the text itself has the characters before it (its "tail"): so the tree
stays smaller than a few times the text, whatever the order.

Letters: N targets, K nodes, E entries (an entry is a character seen after a node's context).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from charjax.data.splits import Split
from charjax.errors import UserError
from charjax.models.ngram_levels import Level, levels
from charjax.models.ngram_text import padded_text

# Places in the text, nodes and entries are int32.
_MOST_TOKENS = 2**31 - 2


def fit_tables(
    split: Split,
    poll: Callable[[], None] = lambda: None,
    *,
    vocab_size: int,
    order: int,
    smoothing: str,
    alpha: float,
    prune: tuple[int, ...] = (),
    pad: int | None = None,
) -> dict[str, np.ndarray]:
    """Count a text, and turn the counts into the tables that `NgramModel` reads.

    Every document's first targets have contexts filled up with token 0, the boundary of lines, and
    those zeros count like any character, in the continuation counts too. (To give contexts at a
    document's start their plain counts instead, as for sentences of words, is worse here: on the
    names at n = 6, dev 2.038 against 1.997.)

    Args:
      split: the text.
      poll: called between the lengths of contexts; may raise to stop.
      vocab_size: V.
      order: as of `NgramModel`.
      smoothing: likewise.
      alpha: likewise.
      prune: likewise.
      pad: zeros before each document, at least order - 2 (the default): with equally many, the
        tables of several orders have the same text.

    Returns:
      text: the documents, each after its zeros (unsigned)
      symbol, first_child, tail (nodes; first_child has one more): the tree, level after level
      first_entry (nodes + 1), follower, value (entries): what an entry adds to the probability
      backoff (nodes): the weight of the shorter context's distribution
      tail_value, tail_backoff (order): the same two along a tail

    Raises:
      UserError: the text is too long, or its contexts are too many to be numbered.
    """
    pad = max(order - 2, 0) if pad is None else pad
    size = split.num_targets + (1 + pad) * len(split.doc_lengths)
    if size > _MOST_TOKENS:
        raise UserError(
            f"model.kind: ngram given for a text of {size:,} tokens; its tables hold at most "
            f"{_MOST_TOKENS:,}: give a shorter text, or another family"
        )
    text = padded_text(split, pad)
    parts: list[dict[str, np.ndarray]] = [{}] * order
    for level in levels(text, vocab_size, order, poll):
        # A list shorter than the order ends with the threshold of the longer ones, too.
        least = 1 + (prune[min(level.depth, len(prune) - 1)] if prune else 0)
        if smoothing == "additive":
            smoothed = _additive(level, order, vocab_size, alpha)
        else:
            is_modified = smoothing == "modified_kneser_ney"
            smoothed = _kneser_ney(level, order, least, modified=is_modified)
        # Each level in its final types: the counts themselves are let go.
        parts[level.depth] = _in_tables(level, smoothed, least, text.tokens.dtype)
        poll()
    return {"text": text.tokens, **_joined(parts)}


def _in_tables(level: Level, smoothed: Any, least: int, symbols: Any) -> dict[str, np.ndarray]:
    """Return the level's part of the tables, and how its nodes hang in the tree.

    Entries that were seen less often than `least` are left out, and nodes without any other: what
    is below such a node was seen no more often.

    Returns:
      as `fit_tables`, with `entries` for the entries of each node; `parent` of each node, and of
      all the level's nodes those that `is_kept`.
    """
    value_E, backoff_K, tail_value, tail_backoff = smoothed
    kept_E = level.count_E >= least
    entries_K = np.bincount(level.entry_node_E[kept_E], minlength=backoff_K.size)
    kept_K = entries_K > 0
    return {
        "is_kept": kept_K,
        "parent": level.parent_K[kept_K].astype(np.int32),
        "symbol": level.symbol_K[kept_K].astype(symbols),
        "tail": level.tail_K[kept_K].astype(np.int32),
        "entries": entries_K[kept_K].astype(np.int32),
        "follower": level.follower_E[kept_E].astype(symbols),
        "value": value_E[kept_E].astype(np.float32),
        "backoff": backoff_K[kept_K].astype(np.float32),
        "tail_value": np.array([tail_value], np.float32),
        "tail_backoff": np.array([tail_backoff], np.float32),
    }


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the levels, the root first; they are let go."""
    parents = [part.pop("parent") for part in parts]
    masks_K = [part.pop("is_kept") for part in parts]
    below = [
        np.bincount(parent_K, minlength=kept_K.size)[kept_K]
        for parent_K, kept_K in zip(parents[1:], masks_K, strict=False)
    ]
    children = [*below, np.zeros(int(masks_K[-1].sum()), np.int64)]
    tables = {name: np.concatenate([part.pop(name) for part in parts]) for name in [*parts[0]]}
    return {
        "first_child": 1 + _starts(children),
        "first_entry": _starts([tables.pop("entries")]),
        **tables,
    }


def _kneser_ney(
    level: Level, order: int, least: int, *, modified: bool
) -> tuple[Any, Any, float, float]:
    """Value and backoff of a level, and of a count of one along its tails.

    The longest contexts count occurrences, the others the different characters to the left. An
    entry that was seen less often than `least` is discounted by its whole count, as in KenLM
    (lm/builder/initial_probabilities.cc); the discounts are those of all entries.
    """
    count_E = level.count_E if level.depth == order - 1 else level.lefts_E
    discount = discounts(np.bincount(np.minimum(count_E, 5), minlength=6), level.tails, modified)
    discount_E = discount[np.minimum(count_E, 3)]
    discount_E = np.where(level.count_E < least, count_E, discount_E)
    K = level.parent_K.size
    total_K = np.bincount(level.entry_node_E, count_E, K)
    backoff_K = np.bincount(level.entry_node_E, discount_E, K) / total_K
    value_E = (count_E - discount_E) / total_K[level.entry_node_E]
    in_tail = discount[1] if least == 1 else 1.0
    return value_E, backoff_K, 1 - in_tail, in_tail


def discounts(counts_of_counts: np.ndarray, tails: int, modified: bool) -> np.ndarray:
    """Compute the discounts of counts of 0, 1, 2, and 3 or more (Chen and Goodman 1998).

    Each count of counts is at least one, and no discount is less than that of a count of one:
    otherwise a small text could leave nothing for characters not yet seen.
    """
    _, n1, n2, n3, n4, _ = np.maximum(counts_of_counts + np.array([0, tails, 0, 0, 0, 0]), 1)
    y = n1 / (n1 + 2 * n2)
    if not modified:
        return np.array([0, y, y, y])
    return np.array([0, y, max(y, 2 - 3 * y * n3 / n2), max(y, 3 - 4 * y * n4 / n3)])


def _additive(
    level: Level, order: int, vocab_size: int, alpha: float
) -> tuple[Any, Any, float, float]:
    """Compute the level for (c + alpha) / (total + alpha V): only the longest contexts matter."""
    K = level.parent_K.size
    if level.depth < order - 1:
        return np.zeros(level.count_E.size), np.ones(K), 0.0, 1.0
    mass = alpha * vocab_size
    total_K = np.bincount(level.entry_node_E, level.count_E, K) + mass
    value_E = level.count_E / total_K[level.entry_node_E]
    return value_E, mass / total_K, 1 / (1 + mass), mass / (1 + mass)


def _starts(sizes: list[np.ndarray]) -> np.ndarray:
    """Return where each part begins, and the end of the last: int32."""
    ends = np.cumsum(np.concatenate(sizes), dtype=np.int64)
    return np.concatenate([np.zeros(1, np.int64), ends]).astype(np.int32)
