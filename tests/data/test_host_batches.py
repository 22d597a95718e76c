"""Batches of a text on the host equal those of the same text on the device."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax import parallel
from charjax.data.batches import Batch, make_source
from charjax.data.host_batches import HostSource, make_host_source, read_rows
from charjax.data.splits import Split
from charjax.errors import UserError
from charjax.training.feed import make_block

_draw = jax.jit(lambda source, step: source.draw(step))


def stream(targets: int, documents: int = 1, dtype: Any = np.uint8) -> Split:
    """Build documents of equal length that share no token; few symbols, none of them 0."""
    tokens = np.random.default_rng(0).integers(1, 200, documents * (targets + 1)).astype(dtype)
    starts = np.arange(documents) * (targets + 1)
    return Split(tokens, starts, np.full(documents, targets))


def lines(*lengths: int) -> Split:
    """Build lines that share their boundaries."""
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.random.default_rng(1).integers(1, 27, bounds[-1] + 1).astype(np.uint8)
    tokens[bounds] = 0
    return Split(tokens, bounds[:-1], np.diff(bounds))


LONG = stream(150)
ROWS = stream(40, 3)
NAMES = lines(5, 7, 4, 19, 1, 6, 8, 3, 5, 5, 2)
CASES: dict[str, tuple[Split, dict[str, Any]]] = {
    "random": (LONG, {"sampling": "random"}),
    "random-rows": (ROWS, {"sampling": "random"}),
    "random-lookback": (LONG, {"sampling": "random", "lookback": 3}),
    "random-uint16": (stream(150, dtype=np.uint16), {"sampling": "random"}),
    "epoch": (LONG, {"sampling": "epoch"}),
    "epoch-rows": (ROWS, {"sampling": "epoch", "lookback": 2}),
    "epoch-of-one-batch": (stream(9), {"sampling": "epoch", "lookback": 3}),
    "contiguous": (LONG, {"sampling": "contiguous"}),
    "contiguous-lookback": (stream(23), {"sampling": "contiguous", "lookback": 2}),
    "contiguous-rows": (stream(40, 5), {"sampling": "contiguous"}),
    "lines-random": (NAMES, {"layout": "lines", "sampling": "random"}),
    "lines-epoch": (NAMES, {"layout": "lines", "sampling": "epoch", "lookback": 2}),
    "pairs-random": (LONG, {"layout": "pairs", "sampling": "random", "window": 1, "lookback": 5}),
    "pairs-epoch": (LONG, {"layout": "pairs", "sampling": "epoch", "window": 1, "lookback": 5}),
    "pairs-lines": (NAMES, {"layout": "pairs", "sampling": "random", "window": 1, "lookback": 5}),
    "pairs-lines-epoch": (
        NAMES,
        {"layout": "pairs", "sampling": "epoch", "window": 1, "lookback": 5},
    ),
    "wider-than-the-text": (stream(4), {"sampling": "random", "lookback": 9}),
}


def settings_of(case: str, **others: Any) -> dict[str, Any]:
    defaults = {"layout": "stream", "window": 4, "lookback": 0, "batch_size": 5, "seed": 3}
    return defaults | CASES[case][1] | others


def mesh() -> Any:
    return parallel.make_mesh(jax.local_devices()[:1], 1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.quick("epoch", "epoch-rows", "contiguous-lookback", "pairs-lines")
def test_a_block_has_the_batches_of_the_device(case: str):
    split, count = CASES[case][0], 6
    device = make_source(split, **settings_of(case))
    host = make_host_source(split, **settings_of(case))
    assert host.batches_per_epoch == device.batches_per_epoch
    assert host.steps_per_epoch(split.num_targets) == device.steps_per_epoch(split.num_targets)
    # Over the end of an epoch.
    first = max(0, device.batches_per_epoch - 3)
    block = make_block(host, first, count, count + 2, mesh())
    for step in range(first, first + count):
        same(_draw(block, jnp.int32(step)), _draw(device, jnp.int32(step)))


def same(one: Batch, other: Batch) -> None:
    assert one.count_log_probs is None
    assert other.count_log_probs is None
    for name, left, right in zip(Batch._fields[:-1], one[:-1], other[:-1], strict=True):
        np.testing.assert_array_equal(left, right, name)
        assert left.dtype == right.dtype


@given(st.lists(st.integers(-40, 60), min_size=1, max_size=9), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_rows_beyond_the_ends_repeat_the_last_token(begins: list[int], width: int):
    tokens = np.arange(20, dtype=np.uint8)
    found = read_rows(tokens, np.array(begins), width)
    assert found.dtype == np.uint8
    assert found.tolist() == [
        [min(max(begin + place, 0), 19) for place in range(width)] for begin in begins
    ]


def test_windows_of_a_text_of_more_than_2_gb():
    # Not a byte of it is in memory: NumPy repeats one of them.
    count = 10**10
    tokens = np.broadcast_to(np.uint8(7), count)
    split = Split(tokens, np.zeros(1, np.int64), np.array([count - 1]))
    for sampling in ("random", "epoch", "contiguous"):
        host = make_host_source(split, **settings_of("random", sampling=sampling, window=64))
        windows = host.windows_of(1000, 50)
        assert windows.starts_KB.dtype == np.int64
        assert (windows.starts_KB > 2**32).any()
        assert (windows.lengths_KB == 64).all()
        assert windows.starts_KB.max() <= count - 65


def test_a_block_is_bounded_in_bytes():
    wide = make_host_source(stream(70_000), **settings_of("random", window=65_536, batch_size=128))
    assert wide.most_steps == 1
    narrow = make_host_source(LONG, **settings_of("random"))
    assert narrow.most_steps == 8192
    middle = make_host_source(LONG, **settings_of("random", window=128, batch_size=16))
    assert 2**21 < middle.most_steps * 16 * 129 <= 2**22


def mapped(folder: Path, split: Split, offset: int = 0) -> Split:
    path = folder / "tokens"
    path.write_bytes(b"\0" * offset + split.tokens.tobytes())
    tokens = np.memmap(path, split.tokens.dtype, "r", offset=offset)
    return Split(tokens, split.doc_starts, split.doc_lengths)


@pytest.mark.parametrize("offset", [0, 24])
def test_a_mapped_file_is_read(tmp_path: Path, offset: int):
    host = make_host_source(mapped(tmp_path, LONG, offset), **settings_of("random"))
    block = make_block(host, 5, 1, 1, mesh())
    same(
        _draw(block, jnp.int32(5)), _draw(make_source(LONG, **settings_of("random")), jnp.int32(5))
    )


@pytest.mark.parametrize("offset", [0, 24])
def test_a_mapped_file_that_was_cut_short_is_not_read(tmp_path: Path, offset: int):
    split = mapped(tmp_path, LONG, offset)
    host: HostSource = make_host_source(split, **settings_of("random"))
    with (tmp_path / "tokens").open("r+b") as file:
        file.truncate(offset + 150)
    with pytest.raises(UserError, match=f"was {offset + 151} bytes long and is now {offset + 150}"):
        make_block(host, 0, 1, 1, mesh())
    with pytest.raises(UserError, match="cut it short"):
        make_host_source(split, **settings_of("random"))
    part = Split(split.tokens[10:], split.doc_starts, split.doc_lengths - 10)
    with pytest.raises(UserError, match="cut it short"):
        make_host_source(part, **settings_of("random"))
