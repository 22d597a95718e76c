"""Windows spread evenly, and streams: no target twice, each where it should be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from charjax.data.splits import Split
from charjax.data.spread import spread, stream_windows, warmed
from charjax.data.windows import EvalWindows, evaluation_windows

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def split_of(lengths: list[int]) -> Split:
    sizes = np.array(lengths)
    starts = np.cumsum(sizes + 1) - sizes - 1
    return Split(np.zeros(sizes.sum() + sizes.size, np.uint8), starts, sizes)


def scored(table: EvalWindows) -> list[int]:
    """Return the places of the targets that are scored."""
    columns = zip(table.starts, table.lengths, table.firsts, strict=True)
    return [int(s) + 1 + t for s, n, first in columns for t in range(first, n)]


@given(LENGTHS, st.integers(1, 20), st.integers(1, 20), st.integers(1, 400))
def test_at_most_so_many_targets_at_equal_distances(lengths, window, stride, most):
    table = evaluation_windows(split_of(lengths), window=window, stride=min(stride, window))
    chosen = spread(table, most)
    places, every = scored(chosen), scored(table)
    if most >= len(every):
        assert chosen is table
        return
    assert len(places) == len(set(places)) <= most
    assert places
    assert set(places) <= set(every)
    index = [table.starts.tolist().index(start) for start in chosen.starts]
    gaps = np.diff([-index[0] - 1, *index, 2 * len(table.starts) - index[-1] - 1])
    # Half a distance at both ends; windows are whole.
    assert gaps.max() - gaps.min() <= 2


def test_equal_windows_are_used_up():
    table = evaluation_windows(split_of([1000]), window=10, stride=10)
    assert spread(table, 57).starts.tolist() == [100, 300, 500, 700, 900]
    assert scored(spread(table, 4)) == [501, 502, 503, 504]


@given(LENGTHS, st.integers(1, 30), st.integers(0, 9))
def test_streams_score_every_target_once(lengths, streams, warmup):
    split = split_of(lengths)
    parts = stream_windows(split, streams)
    table = warmed(parts, warmup)
    assert scored(table) == [
        s + 1 + t for s, n in zip(split.doc_starts, lengths, strict=True) for t in range(n)
    ]
    assert (table.starts >= table.doc_starts).all()
    assert (table.firsts == np.minimum(parts.starts - parts.doc_starts, warmup)).all()
    documents = len(lengths)
    assert (
        len(parts.starts) == documents if documents >= streams else documents <= len(parts.starts)
    )
    assert len(parts.starts) <= max(streams, documents + streams)


def test_one_text_has_as_many_equal_parts():
    parts = stream_windows(split_of([1003]), 4)
    assert parts.lengths.tolist() == [250, 251, 251, 251]
    assert parts.starts.tolist() == [0, 250, 501, 752]
    assert stream_windows(split_of([3]), 64).lengths.tolist() == [1, 1, 1]
    assert stream_windows(split_of([30, 10]), 8).lengths.tolist() == [5] * 8
