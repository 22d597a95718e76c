"""Probabilities of a text's own characters, by counts of the rest of the text, in numpy.

A network that is trained beside counts must not see what they predict of the text that they have
counted: there they know the answer, as on no other text. So the text is divided into folds, each a
stretch of it, and the characters of a fold are predicted by the counts of all other folds
(cross-fitting). Counts of everything less a fold are a subtraction, not a count anew.

Letters: N targets, U distinct n-grams of a length, K distinct contexts of a length, R contexts met
in a fold, E n-grams of these contexts, V vocabulary.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from charjax.data.splits import Split
from charjax.models.ngram_counts import discounts
from charjax.models.ngram_text import padded_text

# The text's probabilities are kept in half precision: at 1/2 ln V that is 1e-3 nats per character
# at most, with errors of either sign.
DTYPE = np.dtype(np.float16)


class _Length(NamedTuple):
    """The n-grams of one length, in the order of (context, follower).

    Attributes:
      gram_N: which of them ends at each target.
      count_U: occurrences.
      shorter_U: place of the n-gram without its oldest character among those one shorter.
      follower_U: the last character.
      context_U: place of the context in the order of contexts.
      first_K: first n-gram of each context; one more, the number of n-grams.
      parent_K: place of the context without its oldest character.
    """

    gram_N: np.ndarray
    count_U: np.ndarray
    shorter_U: np.ndarray
    follower_U: np.ndarray
    context_U: np.ndarray
    first_K: np.ndarray
    parent_K: np.ndarray


def cross_fit(
    split: Split,
    *,
    vocab_size: int,
    orders: tuple[int, ...],
    folds: int,
    modified: bool = True,
    poll: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return what the rest of a text predicts in place of each of its tokens.

    The smoothing is that of `charjax.models.ngram.NgramModel`, interpolated Kneser-Ney, fitted to
    the text without a fold; a context may reach back into the fold before.

    Args:
      split: the text.
      vocab_size: V.
      orders: n of each of O experts, ascending.
      folds: parts of equal numbers of targets, at least 2.
      modified: three discounts for each length, not one.
      poll: called between parts of the work; may raise to stop.

    Returns:
      (tokens, O, V) float16, log-probabilities of every character in place of each token, by each
      expert; 0 for those that are no target.
    """
    text = padded_text(split, max(orders[-1] - 2, 0))
    target_N = np.flatnonzero(text.is_target)
    lengths = list(_lengths(text.tokens, target_N, vocab_size, orders[-1], poll))
    size_D = split.doc_lengths.astype(np.int64)
    # Documents may share the boundary between them.
    first_D = split.doc_starts.astype(np.int64) + 1 - (np.cumsum(size_D) - size_D)
    place_N = np.arange(target_N.size) + np.repeat(first_D, size_D)
    rows = np.zeros((split.tokens.size, len(orders), vocab_size), DTYPE)
    bounds = np.linspace(0, target_N.size, folds + 1).astype(np.int64)
    for begin, end in itertools.pairwise(bounds.tolist()):
        fold = slice(begin, end)
        counts = [
            length.count_U - np.bincount(length.gram_N[fold], minlength=length.count_U.size)
            for length in lengths
        ]
        experts = _log_probs(lengths, counts, fold, orders, vocab_size, modified)
        for expert, (log_RV, row_N) in enumerate(experts):
            rows[place_N[fold], expert] = log_RV[row_N]
        poll()
    return rows


def _lengths(
    tokens: np.ndarray, target_N: np.ndarray, V: int, order: int, poll: Callable[[], None]
) -> Iterator[_Length]:
    """Yield the n-grams of each length, from 1 on.

    A context's number is found from that of the shorter one and a character, so that no key is
    longer than 64 bits, whatever the order.
    """
    context_N = np.zeros(target_N.size, np.int64)
    follower_N = tokens[target_N].astype(np.int64)
    parent_K, gram_N = np.zeros(1, np.int64), np.zeros(target_N.size, np.int64)
    for n in range(1, order + 1):
        if n > 1:
            key_N = context_N * V + tokens[target_N - (n - 1)]
            keys_K, context_N = np.unique(key_N, return_inverse=True)
            parent_K = keys_K // V
        shorter_N = gram_N
        keys_U, first_U, gram_N, count_U = np.unique(
            context_N * V + follower_N, return_index=True, return_inverse=True, return_counts=True
        )
        context_U = keys_U // V
        first_K = np.searchsorted(context_U, np.arange(parent_K.size + 1))
        yield _Length(gram_N, count_U, shorter_N[first_U], keys_U % V, context_U, first_K, parent_K)
        poll()


def _log_probs(
    lengths: list[_Length],
    counts: list[np.ndarray],
    fold: slice,
    orders: tuple[int, ...],
    V: int,
    modified: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each expert's log-probabilities after the contexts of a fold (R, V), by target a row.

    The experts share what is below their longest n-grams.
    """
    above_RV, places_R = np.full((1, V), 1 / V, np.float32), np.zeros(1, np.int64)
    for n, length in enumerate(lengths):
        met_R, row_N = np.unique(length.context_U[length.gram_N[fold]], return_inverse=True)
        parent_R = np.searchsorted(places_R, length.parent_K[met_R]) if n else 0 * met_R
        above_RV = above_RV[parent_R]
        if n + 1 in orders:
            mixed_RV = _mixed(length, counts[n], met_R, above_RV, modified)
            yield np.log(mixed_RV, out=mixed_RV), row_N
        if n + 1 < len(lengths):
            # Of a shorter n-gram the different characters to its left count that are still there.
            left_U = _lefts(lengths[n + 1], counts[n + 1], counts[n].size)
            above_RV, places_R = _mixed(length, left_U, met_R, above_RV, modified), met_R


def _mixed(
    length: _Length, count_U: np.ndarray, met_R: np.ndarray, above_RV: np.ndarray, modified: bool
) -> np.ndarray:
    """Discount the counts of one length, and give what is taken to the shorter contexts' (R, V)."""
    by_count = np.bincount(np.minimum(count_U[count_U > 0], 5), minlength=6)
    discount_U = discounts(by_count, 0, modified)[np.minimum(count_U, 3)]
    K = length.parent_K.size
    total_K = np.bincount(length.context_U, count_U, K)
    taken_K = np.bincount(length.context_U, discount_U, K)
    is_seen_K = total_K > 0
    total_K = np.where(is_seen_K, total_K, 1.0)
    weight_K = np.where(is_seen_K, taken_K / total_K, 1.0)
    value_U = (count_U - discount_U) / total_K[length.context_U]

    mixed_RV = weight_K[met_R].astype(np.float32)[:, None] * above_RV
    begin_R, size_R = length.first_K[met_R], np.diff(length.first_K)[met_R]
    row_E = np.repeat(np.arange(met_R.size), size_R)
    gram_E = np.arange(row_E.size) + (begin_R - (np.cumsum(size_R) - size_R))[row_E]
    mixed_RV[row_E, length.follower_U[gram_E]] += value_U[gram_E].astype(np.float32)
    return mixed_RV


def _lefts(longer: _Length, count_U: np.ndarray, shorter: int) -> np.ndarray:
    """Return the different characters that stand before each n-gram, by those one longer."""
    return np.bincount(longer.shorter_U, count_U > 0, shorter).astype(np.int64)
