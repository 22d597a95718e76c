import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charjax.data.batches import Batch, evaluation_windows, gather_windows
from charjax.data.splits import Split
from charjax.data.windows import even_windows, line_windows, shares_boundaries


def make_split(lengths: list[int], shared: bool) -> Split:
    lengths_D = np.array(lengths)
    starts_D = np.cumsum(lengths_D + (not shared)) - (lengths_D + (not shared))
    total = int(starts_D[-1] + lengths_D[-1] + 1)
    return Split(np.arange(1, total + 1).astype(np.uint16), starts_D, lengths_D)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(1, 20),
    st.integers(1, 20),
    st.booleans(),
)
@example([20], 5, 5, False)
@example([21], 5, 3, False)
@example([1, 1], 20, 1, True)
@settings(max_examples=150, deadline=None)
def test_every_target_is_scored_once(lengths: list[int], window: int, stride: int, shared: bool):
    stride = min(stride, window)
    split = make_split(lengths, shared)
    table = evaluation_windows(split, window=window, stride=stride)
    scored = [
        start + place
        for start, length, first in zip(table.starts, table.lengths, table.firsts, strict=True)
        for place in range(first, length)
    ]
    expected = [
        start + place
        for start, length in zip(split.doc_starts, split.doc_lengths, strict=True)
        for place in range(length)
    ]
    assert scored == expected
    assert table.lengths.max() <= window
    assert all(column.dtype == np.int64 for column in table)
    # Each window of a document begins a stride after the one before, within the document.
    within = table.starts - table.doc_starts
    assert (within % stride == 0).all()
    assert (table.firsts == np.where(within > 0, window - stride, 0)).all()


def gather(split: Split, window: int, stride: int, lookback: int) -> Batch:
    table = evaluation_windows(split, window=window, stride=stride)
    starts, doc_starts, lengths, firsts = (jnp.asarray(column) for column in table)
    return gather_windows(
        jnp.asarray(split.tokens),
        doc_starts,
        starts,
        lengths,
        firsts,
        window=window,
        lookback=lookback,
    )


@pytest.mark.parametrize("lookback", [0, 9])
@pytest.mark.parametrize(("window", "stride"), [(4, 1), (5, 3), (30, 30)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.quick("True-5-3-9", "False-5-3-0", "False-30-30-9")
def test_windows_are_read_as_written(lookback: int, window: int, stride: int, shared: bool):
    split = make_split([7, 1, 4, 10], shared)
    batch = gather(split, window, stride, lookback)
    table = evaluation_windows(split, window=window, stride=stride)
    assert batch.inputs.shape == (len(table.starts), lookback + window)
    assert batch.inputs.dtype == batch.targets.dtype == jnp.int32
    assert batch.weights.dtype == jnp.float32
    tokens = split.tokens.tolist()
    for row, (start, doc_start, length, first) in enumerate(zip(*table, strict=True)):
        inputs, targets, weights = (np.asarray(part[row]).tolist() for part in batch[:3])
        for place in range(-lookback, window):
            inside = doc_start <= start + place and place < length
            assert inputs[lookback + place] == (tokens[start + place] if inside else 0)
        for place in range(window):
            assert targets[place] == (tokens[start + place + 1] if place < length else 0)
            assert weights[place] == (first <= place < length)


def test_rows_of_length_0_weigh_nothing():
    zeros = jnp.zeros(3, jnp.int32)
    tokens = jnp.asarray(np.arange(5, 10).astype(np.uint8))
    batch = gather_windows(tokens, zeros, zeros, zeros, zeros, window=2, lookback=1)
    assert not batch.weights.any()
    assert not batch.inputs.any()


def test_a_long_line_goes_on_in_further_windows():
    table = line_windows(make_split([3, 10, 4], shared=True), 4)
    assert table.starts.tolist() == [0, 3, 7, 11, 13]
    assert table.lengths.tolist() == [3, 4, 4, 2, 4]
    assert table.doc_starts.tolist() == [0, 3, 3, 3, 13]


def test_lines_share_their_boundaries():
    assert shares_boundaries(make_split([3, 10, 4], shared=True))
    assert not shares_boundaries(make_split([3, 10, 4], shared=False))
    assert not shares_boundaries(make_split([3], shared=False))


def test_documents_of_unequal_length_are_no_grid():
    with pytest.raises(ValueError, match="unequal"):
        even_windows(make_split([3, 4], shared=False), 2, stride=1)
