"""Cross-fitted counts: each fold of a text is predicted by the counts of all others."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax.config import parse_config
from charjax.data.splits import Split
from charjax.models import build
from charjax.models.ngram_cross_fit import cross_fit
from tests.models.test_chen_goodman import Equations, V, text

HALF = 2e-3  # float16 of log-probabilities down to -8


def stream(tokens) -> Split:
    """Return a text of one document."""
    return Split(np.asarray(tokens, np.uint8), np.array([0]), np.array([len(tokens) - 1]))


def contexts_of(split: Split, order: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return each target's place among the tokens and the characters before it."""
    found = []
    for start, length in zip(split.doc_starts, split.doc_lengths, strict=True):
        document = [0] * order + [int(t) for t in split.tokens[start : start + length + 1]]
        found += [
            (start + 1 + i, tuple(document[2 + i : order + 1 + i])) for i in range(int(length))
        ]
    return found


@pytest.mark.parametrize("layout", ["stream", "lines"])
@pytest.mark.parametrize("smoothing", ["modified_kneser_ney", "kneser_ney"])
def test_a_fold_is_predicted_by_the_equations_over_the_rest(layout, smoothing):
    split, order, folds = text(layout), 3, 4
    modified = smoothing == "modified_kneser_ney"
    rows = cross_fit(split, vocab_size=V, orders=(order,), folds=folds, modified=modified)
    assert rows.shape == (split.tokens.size, 1, V)
    assert rows.dtype == np.float16
    contexts = contexts_of(split, order)
    bounds = np.linspace(0, len(contexts), folds + 1).astype(int)
    rng = np.random.default_rng(1)
    for begin, end in itertools.pairwise(bounds.tolist()):
        rest = Equations(split, order, smoothing, range(begin, end))
        for target in rng.integers(begin, end, 12):
            place, h = contexts[target]
            expected = np.log([rest.p(w, h) for w in range(V)])
            np.testing.assert_allclose(rows[place, 0], expected, rtol=1e-3, atol=HALF)


@pytest.mark.parametrize("layout", ["stream", pytest.param("lines", marks=pytest.mark.slow)])
def test_without_its_last_target_a_text_is_counted_as_the_family_counts_it(layout):
    # As many folds as targets: the last is the last target alone.
    split = stream(text("stream").tokens[:300]) if layout == "stream" else text("lines")
    order = 5
    rows = cross_fit(split, vocab_size=V, orders=(order,), folds=split.num_targets)
    place, h = contexts_of(split, order)[-1]
    if layout == "stream":
        shorter = stream(split.tokens[:-1])
    else:
        lengths = split.doc_lengths.copy()
        lengths[-1] -= 1
        shorter = Split(split.tokens, split.doc_starts, lengths)
    config = {"kind": "ngram", "order": order, "smoothing": "modified_kneser_ney"}
    model = build(parse_config({"model": config}).model, V, jnp.float32)
    logits, _ = model.apply(model.fit(shorter), jnp.asarray([h]), num_outputs=1)
    np.testing.assert_allclose(rows[place, 0], logits[0, 0], rtol=1e-3, atol=HALF)


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 3), min_size=12, max_size=60),
    order=st.integers(2, 5),
    folds=st.integers(2, 6),
    data=st.data(),
)
def test_rows_are_distributions_that_do_not_know_the_fold_s_own_targets(tokens, order, folds, data):
    orders = (order, order + 2)
    rows = cross_fit(stream(tokens), vocab_size=4, orders=orders, folds=folds)
    np.testing.assert_allclose(np.exp(rows[1:].astype(float)).sum(axis=2), 1, atol=4e-3)
    # The last fold's targets are in the contexts of no other fold.
    first = int(np.linspace(0, len(tokens) - 1, folds + 1)[-2]) + 1
    changed = data.draw(st.integers(first, len(tokens) - 1))
    other = list(tokens)
    other[changed] = (other[changed] + 1) % 4
    others = cross_fit(stream(other), vocab_size=4, orders=orders, folds=folds)
    # Later ones have it in their contexts, and it in theirs alone.
    np.testing.assert_array_equal(rows[first : changed + 1], others[first : changed + 1])


def test_several_orders_are_those_of_each_alone():
    split, orders = text("lines"), (2, 3, 6)
    rows = cross_fit(split, vocab_size=V, orders=orders, folds=3)
    for expert, order in enumerate(orders):
        alone = cross_fit(split, vocab_size=V, orders=(order,), folds=3)
        np.testing.assert_array_equal(rows[:, expert], alone[:, 0])


def test_targets_that_no_counts_have_seen_are_predicted_uniformly():
    # The first fold is of symbols that occur nowhere else.
    rows = cross_fit(stream([0, *[1] * 10, *[2] * 10]), vocab_size=4, orders=(3,), folds=2)
    seen = np.exp(rows[1:11, 0].astype(float))
    np.testing.assert_allclose(seen[:, 1], seen[:, 3], rtol=4e-3)
