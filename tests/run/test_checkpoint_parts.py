"""Parts of arrays: their record, their packing, and how they are put together."""

import json
from typing import Any

import jax
import numpy as np
import pytest

from charjax.run import checkpoint_parts
from charjax.run.checkpoint import Checkpoints
from charjax.run.checkpoint_parts import Part, Snapshot, assemble, overlap, place, region_of
from charjax.run.checkpoint_record import (
    DamagedError,
    Leaf,
    Record,
    Shard,
    describe,
    digest,
)


def grid(array: np.ndarray, cuts: list[list[int]]) -> list[Part]:
    """Divide an array at the given places of its axes."""
    bounds = [[0, *places, side] for places, side in zip(cuts, array.shape, strict=True)]
    corners = np.ndindex(*[len(ends) - 1 for ends in bounds])
    regions = [
        tuple((ends[i], ends[i + 1]) for ends, i in zip(bounds, corner, strict=True))
        for corner in corners
    ]
    return [Part(region, array[tuple(slice(*ends) for ends in region)]) for region in regions]


def test_every_part_is_assembled_from_any_division():
    rng = np.random.default_rng(0)
    for _ in range(200):
        shape = rng.integers(0, 7, size=rng.integers(0, 4)).tolist()
        array = rng.normal(size=shape).astype(np.float32)
        divisions = [
            grid(array, [sorted(rng.integers(0, side + 1, 2).tolist()) for side in shape])
            for _ in range(2)
        ]
        for region, expected in divisions[0]:
            needed = [part for part in divisions[1] if overlap(region, part.region) is not None]
            found = assemble(region, needed, "float32")
            assert found.shape == expected.shape
            assert np.array_equal(found, expected)
        like = jax.ShapeDtypeStruct(array.shape, array.dtype)
        assert np.array_equal(np.asarray(place(like, divisions[1], "float32")), array)


def test_an_index_of_jax_is_a_region():
    assert region_of((slice(None), slice(2, 4)), (3, 8)) == ((0, 3), (2, 4))
    assert region_of(None, (3,)) == ((0, 3),)
    assert region_of((), ()) == ()


def record(**changes: Any) -> Record:
    """Return a record of a whole array and one divided over two processes."""
    array = np.arange(8.0).reshape(4, 2)
    shards = [
        Shard(process=index, region=[list(ends) for ends in region], sha256=digest(data))
        for index, (region, data) in enumerate(grid(array, [[2], []]))
    ]
    divided = Leaf(dtype="float64", shape=[4, 2], shards=shards)
    leaves = {"divided": divided.model_copy(update=changes), **describe({"whole": np.ones(3)})}
    return Record(step=5, best=True, meta={"none": None}, leaves=leaves, files={"a": "b"})


def test_a_record_comes_back():
    made = record()
    assert Record.decode(made.encode()) == made
    assert list(made.whole()) == ["whole"]
    assert made.writers() == [0, 1]
    assert [(name, shard.region) for name, shard in made.shards(1)] == [
        ("divided", [[2, 4], [0, 2]])
    ]


def test_a_record_of_whole_arrays_has_no_shards():
    made = Record(step=5, best=False, meta={}, leaves=describe({"a": np.ones(3)}), files={})
    fields = json.loads(made.encode())
    assert list(fields) == ["format", "step", "best", "meta", "leaves", "files", "sha256"]
    assert fields["format"] == 4
    assert list(fields["leaves"]["a"]) == ["dtype", "shape", "sha256"]


def _shards(*regions: list[list[int]]) -> list[Shard]:
    return [Shard(process=0, region=region, sha256="") for region in regions]


@pytest.mark.parametrize(
    "changes",
    [
        {"shards": None},
        {"sha256": "0"},
        {"shards": _shards([[0, 4], [0, 1]])},
        {"shards": _shards([[0, 4]])},
        {"shards": _shards([[0, 4], [0, 2, 2]])},
        {"shards": _shards([[0, 8], [0, 1]])},
        {"shards": _shards([[-2, 2], [0, 2]])},
        {"shards": _shards([[0, 4], [0, 2]], [[3, 1], [0, 2]], [[0, 2], [0, 2]])},
    ],
)
def test_a_record_whose_parts_are_not_the_array_is_damage(changes: dict[str, Any]):
    with pytest.raises(DamagedError, match="is altered"):
        Record.decode(record(**changes).encode())


def test_a_snapshot_on_the_device_survives_donation(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """As on a GPU, where the copy is the device's."""
    monkeypatch.setattr(
        checkpoint_parts, "_in_host_memory", lambda leaf: not isinstance(leaf, jax.Array)
    )
    state = {"a": jax.device_put(np.arange(4.0, dtype=np.float32)), "b": np.arange(3)}
    snapshot = Snapshot.of(state, is_writer=True)
    assert isinstance(snapshot.whole["a"], jax.Array)
    store = Checkpoints(tmp_path, keep=1)
    store.save(1, state, {})
    jax.jit(lambda x: x + x, donate_argnums=0)(state["a"])
    state["b"][:] = 0
    store.close()
    assert np.array_equal(np.asarray(snapshot.whole["a"]), np.arange(4))
    found, _, _ = Checkpoints(tmp_path).restore("latest", state)
    assert np.array_equal(np.asarray(found["a"]), np.arange(4))
    assert np.array_equal(found["b"], np.arange(3))
