"""Counts of each symbol as a target, in memory that does not grow with the text."""

import collections
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax.data import splits
from charjax.data.splits import Split, target_counts


def by_hand(split: Split, vocab_size: int) -> list[int]:
    counts: collections.Counter[int] = collections.Counter()
    for start, length in zip(split.doc_starts, split.doc_lengths, strict=True):
        counts.update(split.tokens[start + 1 : start + length + 1].tolist())
    return [counts[symbol] for symbol in range(vocab_size)]


@given(
    documents=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=9),
    block=st.sampled_from([1, 3, 8, 100]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_equals_counting_one_by_one(documents, block):
    """In any order, sharing tokens or not, in blocks of any size."""
    starts, lengths = np.array(documents, np.int64).T
    tokens = np.random.default_rng(block).integers(0, 5, 43).astype(np.uint16)
    split = Split(tokens, starts, lengths)
    before = splits._BLOCK
    splits._BLOCK = block
    try:
        assert target_counts(split, 6).tolist() == by_hand(split, 6)
    finally:
        splits._BLOCK = before


@pytest.mark.parametrize("size", [4_000_000, pytest.param(60_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("line", [None, 10])
def test_memory_stays_below_64_megabytes(size, line):
    tokens = np.zeros(size, np.uint8)
    tokens[1::4] = 3
    if line is None:
        split = Split(tokens, np.array([0]), np.array([size - 1]))
    else:
        starts = np.arange(0, size - line, line, np.int64)
        split = Split(tokens, starts, np.full_like(starts, line))
    tracemalloc.start()
    try:
        counts = target_counts(split, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counts.sum() == split.num_targets
    assert counts[3] == pytest.approx(size / 4, abs=line or 1)
    assert peak < 64 << 20
