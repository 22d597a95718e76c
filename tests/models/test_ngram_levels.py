"""Sorted keys give the same tree of contexts as counting plainly, in far less memory."""

import dataclasses
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charjax.data.splits import Split
from charjax.errors import UserError
from charjax.models import ngram_levels, ngram_text
from charjax.models.ngram_counts import fit_tables
from charjax.models.ngram_levels import levels
from charjax.models.ngram_text import padded_text
from tests.models.plain_levels import plain_levels


def split_of(texts: list[list[int]], dtype: Any = np.uint8) -> Split:
    """Build documents that share no token."""
    lengths = np.array([len(text) - 1 for text in texts])
    starts = np.cumsum(lengths + 1) - lengths - 1
    return Split(np.array([token for text in texts for token in text], dtype), starts, lengths)


TEXTS = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=24), min_size=1, max_size=5)


@given(
    texts=TEXTS,
    order=st.integers(1, 9),
    block=st.sampled_from([1, 4, 1000]),
    stage=st.sampled_from([None, 4_000, 400_000]),
)
@example([[1, 2]], 4, 1000, None)
@example([[1, 2, 1, 2, 1, 2, 1, 2, 1, 3]] * 3, 9, 4, 4_000)
@settings(max_examples=100)
def test_equals_counting_plainly(texts, order, block, stage):
    """In blocks of any size, in one stage or as many as fit a few characters in a key."""
    split = split_of(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_text, "BLOCK", block)
        patch.setattr(ngram_levels, "BLOCK", block)
        patch.setattr(ngram_levels, "_KEYS", stage or ngram_levels._KEYS)
        found = list(levels(padded_text(split, max(order - 2, 0)), 4, order))
    for got, expected in zip(
        sorted(found, key=lambda level: level.depth), plain_levels(split, order), strict=True
    ):
        for field in dataclasses.fields(got):
            name = field.name
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), name)


def test_contexts_that_cannot_be_numbered_are_refused(monkeypatch):
    monkeypatch.setattr(ngram_levels, "_KEYS", 4**3)
    text = padded_text(split_of([[0, 1, 2, 3, 0, 1, 2, 3, 1, 1]]), 3)
    with pytest.raises(UserError, match=r"model.order: the text has 4 contexts of 4 symbols"):
        list(levels(text, 4, 5))


def test_a_text_whose_places_are_no_int32_is_refused():
    # Views of nothing: no such text is in memory.
    tokens = np.broadcast_to(np.uint8(1), (2**31,))
    split = Split(tokens, np.array([0]), np.array([2**31 - 1]))
    with pytest.raises(UserError, match="of 2,147,483,652 tokens; its tables hold at most"):
        fit_tables(split, vocab_size=2, order=6, smoothing="kneser_ney", alpha=1.0)


@pytest.mark.parametrize("size", [1_000_000, pytest.param(8_000_000, marks=pytest.mark.slow)])
def test_a_target_takes_few_bytes(size):
    """Count a text that repeats itself."""
    rng = np.random.default_rng(0)
    # One of 200 phrases after the other: like a text, it repeats itself.
    phrases = rng.integers(0, 60, (200, 20)).astype(np.uint8)
    tokens = phrases[rng.integers(0, 200, size // 20)].reshape(-1)
    split = Split(tokens, np.array([0]), np.array([tokens.size - 1]))
    tracemalloc.start()
    try:
        tables = fit_tables(split, vocab_size=65, order=6, smoothing="kneser_ney", alpha=1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tables["text"].size == tokens.size + 4
    # The blocks take the same whatever the text.
    assert peak < 24 * size + (40 << 20)
