import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.data.batches import Batch, BatchSource, make_source
from charjax.data.datasets import Dataset
from charjax.data.splits import Split
from charjax.errors import UserError

MakeStream = Callable[..., Split]
MakeLines = Callable[[list[str]], Split]
_draw = jax.jit(lambda source, step: source.draw(step))


def draw(source: BatchSource, step: int) -> Batch:
    return jax.device_get(_draw(source, jnp.int32(step)))


def source_of(split: Split, **settings: Any) -> BatchSource:
    defaults = {"layout": "stream", "sampling": "random", "window": 4, "lookback": 0}
    return make_source(split, **(defaults | {"batch_size": 5, "seed": 0} | settings))


LAYOUTS = [
    {"layout": "stream", "sampling": "random"},
    {"layout": "stream", "sampling": "epoch"},
    {"layout": "stream", "sampling": "contiguous"},
    {"layout": "stream", "sampling": "random", "lookback": 3},
    {"layout": "pairs", "sampling": "random", "window": 1, "lookback": 2},
    {"layout": "pairs", "sampling": "epoch", "window": 1, "lookback": 2},
]


@pytest.mark.parametrize("settings", LAYOUTS)
def test_targets_are_the_characters_after_the_inputs(stream: MakeStream, settings: Any):
    source = source_of(stream(50), **settings)
    for step in range(8):
        batch = draw(source, step)
        assert batch.inputs.shape == (5, source.lookback + source.window)
        assert batch.targets.shape == batch.weights.shape == (5, source.window)
        # Every token of this text is its own place.
        inputs, real = batch.inputs[:, source.lookback :], batch.weights == 1
        assert (batch.targets == inputs + 1)[real].all()
        assert (batch.targets == 0)[~real].all()
        assert set(np.unique(batch.weights)) <= {0.0, 1.0}


@pytest.mark.parametrize("settings", LAYOUTS)
def test_batches_are_a_pure_function_of_seed_and_step(stream: MakeStream, settings: Any):
    split = stream(50)
    source, again = (source_of(split, **settings) for _ in range(2))
    other = source_of(split, **settings, seed=1)
    for step in (0, 3):
        first, second = draw(source, step), draw(again, step)
        jax.tree.map(np.testing.assert_array_equal, first, second)
    assert (draw(source, 0).targets != draw(source, 1).targets).any()
    if settings["sampling"] != "contiguous":
        assert (draw(source, 0).targets != draw(other, 0).targets).any()


def test_random_windows_begin_anywhere(stream: MakeStream):
    # nanoGPT: randint(len(data) - block_size), here 13 - 4 = 9 starts.
    source = source_of(stream(12), batch_size=500)
    starts = Counter(draw(source, 0).inputs[:, 0].tolist())
    assert sorted(starts) == list(range(9))
    assert min(starts.values()) > 20
    assert draw(source, 0).weights.all()


def test_random_windows_stay_within_their_row(stream: MakeStream):
    source = source_of(stream(6, documents=3), batch_size=200)
    starts = set(draw(source, 0).inputs[:, 0].tolist())
    assert starts == {row * 7 + place for row in range(3) for place in range(3)}


def test_what_stands_before_a_window(stream: MakeStream):
    source = source_of(stream(12), batch_size=200, lookback=3)
    for row in draw(source, 0).inputs.tolist():
        assert row == [max(0, place) for place in range(row[3] - 3, row[3] + 4)]
    rows = source_of(stream(6, documents=2), batch_size=200, lookback=3)
    for row in draw(rows, 0).inputs.tolist():
        first = row[3] - row[3] % 7
        expected = [place if place >= first else 0 for place in range(row[3] - 3, row[3] + 4)]
        assert row == expected


@pytest.mark.parametrize(
    ("targets", "documents", "window", "batch_size"),
    [(1, 1, 1, 3), (20, 1, 4, 5), (23, 1, 4, 5), (50, 1, 7, 3), (9, 3, 4, 2), (40, 1, 4, 64)],
)
@pytest.mark.quick("23-1-4-5", "9-3-4-2")
def test_an_epoch_reads_every_window_once(
    stream: MakeStream, targets: int, documents: int, window: int, batch_size: int
):
    split = stream(targets, documents)
    source = source_of(split, sampling="epoch", window=window, batch_size=batch_size)
    windows = documents * -(-targets // window)
    assert source.batches_per_epoch == -(-windows // batch_size)
    orders = []
    for epoch in range(2):
        steps = range(epoch * source.batches_per_epoch, (epoch + 1) * source.batches_per_epoch)
        batches = [draw(source, step) for step in steps]
        seen = [target for b in batches for target in b.targets[b.weights == 1].tolist()]
        expected = [place for place in range(len(split.tokens)) if place % (targets + 1)]
        assert sorted(seen) == expected
        assert sum((b.weights.sum(axis=1) > 0).sum() for b in batches) == windows
        orders.append(seen)
    if windows > 4:
        assert orders[0] != orders[1]
        assert orders[0] != sorted(orders[0])


def test_an_epoch_far_away(stream: MakeStream):
    source = source_of(stream(1000), sampling="epoch", batch_size=7)
    step = 2**31 - 2
    batch = draw(source, step - step % source.batches_per_epoch)
    assert batch.weights.all()


def test_contiguous_streams_continue(stream: MakeStream):
    source = source_of(stream(53), sampling="contiguous", batch_size=4)
    assert source.batches_per_epoch == 4  # streams of 13 or 14 targets
    epoch = [draw(source, step) for step in range(4)]
    read = [[t for b in epoch for t in b.targets[row][b.weights[row] == 1]] for row in range(4)]
    assert [t for row in read for t in row] == list(range(1, 54))
    assert {len(row) for row in read} == {13, 14}
    restarts = [bool(draw(source, step).restart) for step in range(9)]
    assert restarts == [step % 4 == 0 for step in range(9)]
    for first, second in itertools.pairwise(epoch):
        full = second.weights[:, 0] == 1
        assert (second.inputs[full, 0] == first.targets[full, -1]).all()
    jax.tree.map(np.testing.assert_array_equal, draw(source, 1), draw(source, 5))


def test_contiguous_rows_are_the_documents(stream: MakeStream):
    source = source_of(stream(6, documents=3), sampling="contiguous", batch_size=3)
    first, second = draw(source, 0), draw(source, 1)
    assert first.inputs.tolist() == [[0, 1, 2, 3], [7, 8, 9, 10], [14, 15, 16, 17]]
    assert second.targets.tolist() == [[5, 6, 0, 0], [12, 13, 0, 0], [19, 20, 0, 0]]
    assert second.weights.tolist() == [[1, 1, 0, 0]] * 3
    with pytest.raises(UserError, match=r"train.batch_size: 4 rows given.* 3 streams"):
        source_of(stream(6, documents=3), sampling="contiguous", batch_size=4)


def test_restart_is_always_so_elsewhere(stream: MakeStream):
    for sampling in ("random", "epoch"):
        source = source_of(stream(50), sampling=sampling)
        assert all(draw(source, step).restart for step in range(3))


def test_lines_begin_at_the_boundary(lines: MakeLines):
    source = source_of(
        lines(["emma", "ava", "olivia"]), layout="lines", sampling="epoch", window=7, batch_size=3
    )
    batch = draw(source, 0)
    rows = {
        (tuple(i), tuple(t), int(w.sum()))
        for i, t, w in zip(
            batch.inputs.tolist(), batch.targets.tolist(), batch.weights, strict=True
        )
    }
    assert rows == {
        ((0, 5, 13, 13, 1, 0, 0), (5, 13, 13, 1, 0, 0, 0), 5),
        ((0, 1, 22, 1, 0, 0, 0), (1, 22, 1, 0, 0, 0, 0), 4),
        ((0, 15, 12, 9, 22, 9, 1), (15, 12, 9, 22, 9, 1, 0), 7),
    }
    assert (batch.weights == (np.arange(7) < batch.weights.sum(axis=1, keepdims=True))).all()


def test_a_long_line_is_carried_on(lines: MakeLines):
    split = lines(["abcdefgh", "x"])
    source = source_of(split, layout="lines", sampling="epoch", window=4, lookback=2)
    batch = draw(source, 0)
    read = {
        tuple(row): tuple(target)
        for row, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)
    }
    assert read[(0, 0, 0, 1, 2, 3)] == (1, 2, 3, 4)
    assert read[(2, 3, 4, 5, 6, 7)] == (5, 6, 7, 8)
    assert read[(6, 7, 8, 0, 0, 0)] == (0, 0, 0, 0)
    assert read[(0, 0, 0, 24, 0, 0)] == (24, 0, 0, 0)
    assert batch.weights.sum() == split.num_targets


def test_random_lines_are_drawn_equally(lines: MakeLines):
    source = source_of(lines(["a", "b", "c"]), layout="lines", window=2, batch_size=600)
    counts = Counter(draw(source, 0).targets[:, 0].tolist())
    assert sorted(counts) == [1, 2, 3]
    assert min(counts.values()) > 140


def contexts(words: list[str], size: int) -> Counter[tuple[tuple[int, ...], int]]:
    """Count the pairs of the makemore lectures' build_dataset."""
    pairs = []
    for word in words:
        context = [0] * size
        for letter in word + "`":
            pairs.append((tuple(context), ord(letter) - 96))
            context = [*context[1:], ord(letter) - 96]
    return Counter(pairs)


# Contexts of every size, longer than a word, and shorter than it.
@pytest.mark.parametrize(
    ("words", "size"),
    [
        *((["emma", "ava", "olivia", "ava"], size) for size in (1, 3, 5)),
        (["x", "y"], 5),
        (["a" * 9], 3),
    ],
)
@pytest.mark.quick("words1-3", "words3-5")
def test_pairs_are_those_of_the_lectures(lines: MakeLines, words: list[str], size: int):
    source = source_of(
        lines(words), layout="pairs", sampling="epoch", window=1, lookback=size - 1, batch_size=4
    )
    batches = [draw(source, step) for step in range(source.batches_per_epoch)]
    drawn = Counter(
        (tuple(context), target)
        for batch in batches
        for context, (target,), (weight,) in zip(
            batch.inputs.tolist(), batch.targets.tolist(), batch.weights, strict=True
        )
        if weight
    )
    assert drawn == contexts(words, size)


def test_names_have_182625_pairs(names: Dataset):
    source = source_of(names.splits["train"], layout="pairs", window=1, lookback=2, batch_size=32)
    assert source.windows.count == 182_625
    batch = draw(source, 0)
    assert batch.inputs.shape == (32, 3)
    assert batch.weights.all()


def test_pairs_of_one_text(stream: MakeStream):
    source = source_of(
        stream(6), layout="pairs", sampling="epoch", window=1, lookback=2, batch_size=6
    )
    rows = sorted(zip(draw(source, 0).targets[:, 0], draw(source, 0).inputs.tolist(), strict=True))
    assert [row for _, row in rows] == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [3, 4, 5],
    ]


@pytest.mark.parametrize("sampling", ["random", "epoch", "contiguous"])
def test_a_text_shorter_than_the_window(stream: MakeStream, sampling: str):
    source_of(stream(4), sampling=sampling, window=4, batch_size=1)
    with pytest.raises(UserError, match=r"model.context_length: 5 given.*train part.*has 4 char"):
        source_of(stream(4), sampling=sampling, window=5, batch_size=1)


def test_a_text_shorter_than_the_context_of_pairs(stream: MakeStream):
    with pytest.raises(UserError, match=r"model.context_length: 8 given"):
        source_of(stream(4), layout="pairs", window=1, lookback=7)


def test_more_streams_than_characters(stream: MakeStream):
    with pytest.raises(UserError, match=r"train.batch_size: 5 rows given.* only 4 characters"):
        source_of(stream(4), sampling="contiguous", window=1, batch_size=5)


def test_a_source_is_an_argument_not_a_constant(stream: MakeStream):
    source, other = source_of(stream(50)), source_of(stream(50), seed=9)
    leaves, structure = jax.tree.flatten(source)
    assert structure == jax.tree.structure(other)
    assert any(leaf.dtype == jnp.uint16 and leaf.shape == (51,) for leaf in leaves)


def test_draws_in_a_loop_are_the_same(stream: MakeStream):
    source = source_of(stream(50))

    @jax.jit
    def run(source: BatchSource, steps: jax.Array) -> jax.Array:
        def body(step: jax.Array, sums: jax.Array) -> jax.Array:
            return sums + source.draw(step).targets

        return jax.lax.fori_loop(0, steps, body, jnp.zeros((5, 4), jnp.int32))

    expected = sum(draw(source, step).targets for step in range(6))
    assert (run(source, jnp.int32(6)) == expected).all()
