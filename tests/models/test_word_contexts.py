"""Contexts by words: the same numbers as from the text itself, and their counts."""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax.data.splits import Split
from charjax.models.ngram_counts import discounts
from charjax.models.ngram_cross_fit import cross_fit
from charjax.models.ngram_text import padded_text
from charjax.models.ngram_words import WordModel
from charjax.models.word_contexts import LONGEST, contexts, find_runs, fold_symbols, lengths

SYMBOLS = "\n ,aAbB'"
V = len(SYMBOLS)
FOLD = fold_symbols(SYMBOLS)


def is_letter(symbol: str) -> bool:
    return symbol.isalpha() or symbol == "'"


def expected_contexts(text: str, words: int) -> tuple[str | None, ...]:
    """Return what the next character depends on, the nearest first, from a document so far."""
    recent = ("\n\n\n" + text)[-3:]
    runs = ["".join(run) for _, run in itertools.groupby(text.lower(), is_letter)]
    runs = ["*" if len(run) > LONGEST else run for run in runs]
    is_word = bool(text) and is_letter(text[-1])
    backwards = [*reversed(runs), *[""] * (2 * words + 2)]
    whole = backwards[2::2] if is_word else backwards[1::2]
    separators = backwards[1] if is_word else ""
    return (*reversed(recent), backwards[0], separators, *whole[:words])


def split_of(documents: list[str]) -> Split:
    """Return documents that each begin with their first character, not predicted."""
    tokens = [SYMBOLS.index(c) for c in "".join(documents)]
    sizes = [len(document) for document in documents]
    return Split(
        np.array(tokens, np.uint8),
        np.cumsum([0, *sizes[:-1]]),
        np.array([size - 1 for size in sizes]),
    )


TEXTS = st.lists(st.text(SYMBOLS, min_size=2, max_size=40), min_size=1, max_size=4)


@settings(deadline=None)
@given(documents=TEXTS, words=st.integers(1, 4))
def test_targets_have_one_number_exactly_where_the_text_before_them_is_alike(documents, words):
    text = padded_text(split_of(documents), 2)
    target_N = np.flatnonzero(text.is_target)
    begins = np.roll(text.is_target & ~np.roll(text.is_target, 1), -1)
    runs = find_runs(text.tokens, begins, FOLD)
    numbers = list(contexts(text.tokens, target_N, runs, words, V))
    expected = [
        expected_contexts(document[:end], words)
        for document in documents
        for end in range(1, len(document))
    ]
    assert len(numbers) == len(expected[0]) == lengths(words) - 1
    for (number_N, values), text_N in zip(numbers, zip(*expected, strict=True), strict=True):
        assert number_N.min() >= 0
        assert number_N.max() < values
        pairs = set(zip(number_N.tolist(), text_N, strict=True))
        assert len(pairs) == len(set(number_N.tolist())) == len(set(text_N))


class Reference(NamedTuple):
    """Interpolated modified Kneser-Ney over any contexts, by its equations, from a list of events.

    Attributes:
      events: what a character depends on, the nearest first, and the character.
    """

    events: list[tuple[tuple, int]]

    def probability(self, context: tuple, symbol: int, depth: int | None = None) -> float:
        deepest = len(self.events[0][0])
        depth = deepest if depth is None else depth
        if depth < 0:
            return 1 / V
        counts: dict[tuple, dict[int, set | int]] = {}
        grams: dict[tuple, set] = {}
        for number, (before, follower) in enumerate(self.events):
            # Below the longest, what counts are the different things one step further back.
            further = number if depth == deepest else before[depth]
            grams.setdefault((before[:depth], follower), set()).add(further)
        for (before, follower), different in grams.items():
            counts.setdefault(before, {})[follower] = len(different)
        by_count = np.bincount([min(len(g), 5) for g in grams.values()], minlength=6)
        discount = discounts(by_count, 0, True)
        shorter = self.probability(context, symbol, depth - 1)
        seen = counts.get(context[:depth])
        if seen is None:
            return shorter
        total = sum(seen.values())
        discounted = sum(discount[min(count, 3)] for count in seen.values())
        count = seen.get(symbol, 0)
        return (
            count - discount[min(count, 3)] if count else 0
        ) / total + discounted / total * shorter


def events_of(documents: list[str], words: int) -> list[tuple[tuple, int]]:
    return [
        (expected_contexts(document[:end], words), SYMBOLS.index(document[end]))
        for document in documents
        for end in range(1, len(document))
    ]


DOCUMENTS = [
    "\nab a'b, Ab ba\nAB ab, a b ab",
    ", b ab aB",
    "\nab ab, " + "ab" * 20 + " ab, " + "ba" * 20 + " a",
]
OTHER = "\nAb abba ab, a' ,ab ba\nab " + "bb" * 18 + " ab"


@pytest.mark.parametrize("words", [1, 2])
@pytest.mark.parametrize("text", [DOCUMENTS[0], DOCUMENTS[2], OTHER])
def test_the_model_is_the_equations_over_these_contexts(words, text):
    model = WordModel(V, jnp.float32, words)
    tables = model.fit(split_of(DOCUMENTS), FOLD)
    tokens = np.array([[SYMBOLS.index(c) for c in text]])
    logs = np.asarray(model.apply({"params": tables}, tokens)[0][0])
    np.testing.assert_allclose(np.exp(logs).sum(-1), 1, rtol=1e-5)
    reference = Reference(events_of(DOCUMENTS, words))
    for end in range(1, len(text) + 1):
        context = expected_contexts(text[:end], words)
        # A run that the text counted has not is as good as one too long for the tree.
        known = {run for before, _ in reference.events for run in beginnings(before[3:])}
        context = (*context[:3], *(run if run in known else "*" for run in context[3:]))
        expected = [reference.probability(context, w) for w in range(V)]
        np.testing.assert_allclose(np.exp(logs[end - 1]), expected, rtol=1e-4)


def beginnings(runs: tuple) -> set[str]:
    return {run[:end] for run in runs for end in range(len(run) + 1)}


def test_a_text_read_in_pieces_is_predicted_as_in_one():
    model = WordModel(V, jnp.float32, 2)
    variables = {"params": model.fit(split_of(DOCUMENTS), FOLD)}
    tokens = np.array([[SYMBOLS.index(c) for c in OTHER], [SYMBOLS.index(c) for c in OTHER[::-1]]])
    whole, _ = model.apply(variables, tokens)
    cache, pieces = model.init_cache(2), []
    for piece in np.split(tokens, [1, 2, 7, 30], axis=1):
        logs, cache = model.apply(variables, piece, cache)
        pieces.append(logs)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    last, _ = model.apply(variables, tokens, num_outputs=3)
    np.testing.assert_array_equal(last, whole[:, -3:])


def test_a_fold_is_predicted_by_the_equations_over_the_rest():
    split, folds = split_of(DOCUMENTS), 3
    rows = cross_fit(split, vocab_size=V, orders=(2, 5), folds=folds, words=2, fold_V=FOLD)
    assert rows.shape == (split.tokens.size, 3, V)
    alone = cross_fit(split, vocab_size=V, orders=(2, 5), folds=folds)
    np.testing.assert_array_equal(rows[:, :2], alone)
    events = events_of(DOCUMENTS, 2)
    bounds = zip(split.doc_starts, split.doc_lengths, strict=True)
    places = np.concatenate([start + 1 + np.arange(length) for start, length in bounds])
    bounds = np.linspace(0, len(events), folds + 1).astype(int)
    for begin, end in itertools.pairwise(bounds.tolist()):
        rest = Reference([*events[:begin], *events[end:]])
        for target in range(begin, end, 3):
            expected = np.log([rest.probability(events[target][0], w) for w in range(V)])
            np.testing.assert_allclose(rows[places[target], 2], expected, rtol=1e-3, atol=2e-3)


def test_symbols_of_one_letter_have_one_number_and_no_letter_a_negative_one():
    assert FOLD[SYMBOLS.index("a")] == FOLD[SYMBOLS.index("A")] > 0
    assert FOLD[SYMBOLS.index("a")] != FOLD[SYMBOLS.index("b")]
    assert FOLD[SYMBOLS.index("'")] > 0
    assert (FOLD[:3] < 0).all()
    assert len(set(np.abs(FOLD).tolist())) == V - 2
