"""Probabilities of a text's own characters, by counts of the rest of the text, in numpy.

A network that is trained beside counts must not see what they predict of the text that they have
counted: there they know the answer, as on no other text. So the text is divided into folds, each a
stretch of it, and the characters of a fold are predicted by the counts of all other folds
(cross-fitting). Counts of everything less a fold are a subtraction, not a count anew.

Letters: N targets, U distinct n-grams of a length, K distinct contexts of a length, R contexts met
in a fold, E n-grams of these contexts, O experts, V vocabulary.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from charjax import hardware
from charjax.data.splits import Split
from charjax.models.ngram_counts import discounts
from charjax.models.ngram_text import PaddedText, padded_text
from charjax.models.word_contexts import CHARACTERS, Tree, contexts, find_runs

# The text's probabilities are kept in half precision: at 1/2 ln V that is 1e-3 nats per character
# at most, with errors of either sign.
DTYPE = np.dtype(np.float16)
# The n-grams of one length take so many bytes for each target, at most: eight arrays of int32.
LENGTH_BYTES = 32


_Chain = tuple[list["Length"], tuple[int, ...]]


class Length(NamedTuple):
    """The n-grams of one length, in the order of (context, follower).

    Attributes:
      gram_N: which of them ends at each target.
      count_U: occurrences.
      shorter_U: place of the n-gram without its oldest character among those one shorter.
      follower_U: the last character.
      context_U: place of the context in the order of contexts.
      first_K: first n-gram of each context; one more, the number of n-grams.
      parent_K: place of the context without its oldest character.
      symbol_K: that character.
    """

    gram_N: np.ndarray
    count_U: np.ndarray
    shorter_U: np.ndarray
    follower_U: np.ndarray
    context_U: np.ndarray
    first_K: np.ndarray
    parent_K: np.ndarray
    symbol_K: np.ndarray


def cross_fit(
    split: Split,
    *,
    vocab_size: int,
    orders: tuple[int, ...],
    folds: int,
    words: int = 0,
    fold_V: np.ndarray | None = None,
    modified: bool = True,
    poll: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return what the rest of a text predicts in place of each of its tokens.

    The smoothing is that of `charjax.models.ngram.NgramModel`, interpolated Kneser-Ney, fitted to
    the text without a fold; a context may reach back into the fold before.

    Args:
      split: the text.
      vocab_size: V.
      orders: n of each expert, ascending.
      folds: parts of equal numbers of targets, at least 2.
      words: if above 0, the last expert has contexts of so many words (`word_contexts`).
      fold_V: the vocabulary's letters, for those (`word_contexts.fold_symbols`).
      modified: three discounts for each length, not one.
      poll: called between parts of the work; may raise to stop.

    Returns:
      (tokens, O, V) float16, log-probabilities of every character in place of each token, by each
      expert; 0 for those that are no target.
    """
    text = padded_text(split, max(orders[-1] - 2, CHARACTERS - 1))
    target_N = np.flatnonzero(text.is_target)
    size_D = split.doc_lengths.astype(np.int64)
    # Documents may share the boundary between them.
    first_D = split.doc_starts.astype(np.int64) + 1 - (np.cumsum(size_D) - size_D)
    place_N = np.arange(target_N.size) + np.repeat(first_D, size_D)
    rows = np.zeros((split.tokens.size, len(orders) + bool(words), vocab_size), DTYPE)
    bounds = np.linspace(0, target_N.size, folds + 1).astype(np.int64)

    def count_characters() -> _Chain:
        return list(character_lengths(text, vocab_size, orders[-1])), orders

    def count_words() -> _Chain:
        assert fold_V is not None
        lengths = list(word_lengths(text, vocab_size, words, fold_V)[0])
        return lengths, (len(lengths),)

    def predict(chains: list[_Chain], fold: slice) -> None:
        """Write one fold's rows: no other thread writes them."""
        found = itertools.chain.from_iterable(
            _log_probs(lengths, fold, of_experts, vocab_size, modified)
            for lengths, of_experts in chains
        )
        for expert, (log_RV, row_N) in enumerate(found):
            rows[place_N[fold], expert] = log_RV[row_N]

    # Sorting, counting and gathering leave the interpreter to other threads.
    with ThreadPoolExecutor(hardware.cores()) as pool:
        counting = [count_characters, count_words] if words else [count_characters]
        chains = _in_order(pool, counting, poll)
        folds_of_text = (slice(*bound) for bound in itertools.pairwise(bounds.tolist()))
        _in_order(pool, [functools.partial(predict, chains, fold) for fold in folds_of_text], poll)
    return rows


def _in_order(
    pool: ThreadPoolExecutor, works: Sequence[Callable[[], Any]], poll: Callable[[], None]
) -> list[Any]:
    """Return what functions return that run at the same time; none begins after `poll` raises."""
    futures = [pool.submit(work) for work in works]
    try:
        found = []
        for future in futures:
            found.append(future.result())
            poll()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return found


def character_lengths(text: PaddedText, vocab_size: int, order: int) -> Iterator[Length]:
    """Yield a text's n-grams of each length, from 1 on."""
    target_N = np.flatnonzero(text.is_target)
    before = ((text.tokens[target_N - back], vocab_size) for back in range(1, order))
    return _lengths(text.tokens[target_N], before, vocab_size)


def word_lengths(
    text: PaddedText, vocab_size: int, words: int, fold_V: np.ndarray
) -> tuple[Iterator[Length], Tree]:
    """Yield a text's contexts by words of each length, from none on; and return its runs."""
    target_N = np.flatnonzero(text.is_target)
    begins = text.is_target & ~np.roll(text.is_target, 1)
    runs = find_runs(text.tokens, np.roll(begins, -1), fold_V)
    before = contexts(text.tokens, target_N, runs, words, vocab_size)
    return _lengths(text.tokens[target_N], before, vocab_size), runs.tree


def _lengths(
    target_N: np.ndarray, before: Iterable[tuple[np.ndarray, int]], V: int
) -> Iterator[Length]:
    """Yield the n-grams of each length, from 1 on.

    A context's number is found from that of the shorter one and what is before that, so that no
    key is longer than 64 bits, whatever the order.

    Args:
      target_N: the characters predicted.
      before: what stands before each, the nearest first, and how many values that may have.
      V: vocabulary.
    """
    follower_N, context_N = target_N.astype(np.int64), np.zeros(target_N.size, np.int64)
    parent_K = symbol_K = np.zeros(1, np.int64)
    gram_N = np.zeros(target_N.size, np.int64)
    for before_N, values in itertools.chain([(None, 1)], before):
        if before_N is not None:
            key_N = context_N * values + before_N
            keys_K, context_N = np.unique(key_N, return_inverse=True)
            parent_K, symbol_K = np.divmod(keys_K, values)
        shorter_N = gram_N
        keys_U, first_U, gram_N, count_U = np.unique(
            context_N * V + follower_N, return_index=True, return_inverse=True, return_counts=True
        )
        context_U, follower_U = np.divmod(keys_U, V)
        first_K = np.searchsorted(context_U, np.arange(parent_K.size + 1))
        shorter_U = shorter_N[first_U]
        arrays = gram_N, count_U, shorter_U, follower_U, context_U, first_K, parent_K, symbol_K
        yield Length(*(array.astype(np.int32) for array in arrays))


def _log_probs(
    lengths: list[Length],
    fold: slice,
    orders: tuple[int, ...],
    V: int,
    modified: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each expert's log-probabilities after the contexts of a fold (R, V), by target a row.

    The experts share what is below their longest n-grams.
    """
    counts = [
        length.count_U - np.bincount(length.gram_N[fold], minlength=length.count_U.size)
        for length in lengths
    ]
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
            left_U = lefts(lengths[n + 1], counts[n + 1], counts[n].size)
            above_RV, places_R = _mixed(length, left_U, met_R, above_RV, modified), met_R


def _mixed(
    length: Length, count_U: np.ndarray, met_R: np.ndarray, above_RV: np.ndarray, modified: bool
) -> np.ndarray:
    """Discount the counts of one length, and give what is taken to the shorter contexts' (R, V)."""
    value_U, weight_K = discounted(length, count_U, modified)
    mixed_RV = weight_K[met_R].astype(np.float32)[:, None] * above_RV
    begin_R, size_R = length.first_K[met_R], np.diff(length.first_K)[met_R]
    row_E = np.repeat(np.arange(met_R.size), size_R)
    gram_E = np.arange(row_E.size) + (begin_R - (np.cumsum(size_R) - size_R))[row_E]
    mixed_RV[row_E, length.follower_U[gram_E]] += value_U[gram_E].astype(np.float32)
    return mixed_RV


def discounted(
    length: Length, count_U: np.ndarray, modified: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each n-gram adds to its probability, and the shorter context's weight (K,)."""
    by_count = np.bincount(np.minimum(count_U[count_U > 0], 5), minlength=6)
    discount_U = discounts(by_count, 0, modified)[np.minimum(count_U, 3)]
    K = length.parent_K.size
    total_K = np.bincount(length.context_U, count_U, K)
    taken_K = np.bincount(length.context_U, discount_U, K)
    is_seen_K = total_K > 0
    total_K = np.where(is_seen_K, total_K, 1.0)
    weight_K = np.where(is_seen_K, taken_K / total_K, 1.0)
    return (count_U - discount_U) / total_K[length.context_U], weight_K


def lefts(longer: Length, count_U: np.ndarray, shorter: int) -> np.ndarray:
    """Return the different characters that stand before each n-gram, by those one longer."""
    return np.bincount(longer.shorter_U, count_U > 0, shorter).astype(np.int64)
