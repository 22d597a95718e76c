"""Parts of arrays: what a process saves of a state, and what it needs of a saved one."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from charjax import parallel
from charjax.run.checkpoint_record import Region


class Part(NamedTuple):
    """A part of an array, and where in the array it lies."""

    region: Region
    data: Any


class Snapshot(NamedTuple):
    """A copy of all that this process has to save of a state.

    Attributes:
      whole: arrays to be written as they are, by their names.
      divided: dtype and shape of each array that several processes hold parts of.
      parts: those of this process, none of which another process has.
    """

    whole: dict[str, Any]
    divided: dict[str, jax.ShapeDtypeStruct]
    parts: dict[str, list[Part]]

    @staticmethod
    def of(leaves: dict[str, Any], *, is_writer: bool) -> "Snapshot":
        """Copy arrays, so that they may be donated or changed afterwards.

        Args:
          leaves: numpy arrays and JAX's, by their names.
          is_writer: whether this process saves what every process has.
        """
        divided = {name: leaf for name, leaf in leaves.items() if is_divided(leaf)}
        whole = {n: first_copy(x) for n, x in leaves.items() if n not in divided and is_writer}
        own_parts = {name: _own_parts(leaf) for name, leaf in divided.items()}
        sources = [*whole.values(), *(part.data for parts in own_parts.values() for part in parts)]
        copies = iter(_copy(sources))
        return Snapshot(
            {name: next(copies) for name in whole},
            {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in divided.items()},
            {n: [Part(part.region, next(copies)) for part in own_parts[n]] for n in divided},
        )

    def to_host(self) -> "Snapshot":
        """Return it with NumPy arrays."""
        parts = {
            name: [Part(part.region, np.asarray(part.data)) for part in parts]
            for name, parts in self.parts.items()
        }
        whole = {name: np.asarray(leaf) for name, leaf in self.whole.items()}
        return Snapshot(whole, self.divided, parts)


def is_divided(leaf: Any) -> bool:
    """Return whether other processes hold parts of an array that this one does not hold."""
    is_array = isinstance(leaf, jax.Array)
    return is_array and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def first_copy(leaf: Any) -> Any:
    """Return one device's copy of a replicated array, and anything else unchanged."""
    if isinstance(leaf, jax.Array) and leaf.is_fully_replicated:
        return leaf.addressable_data(0)
    return leaf


def gathered(leaf: Any) -> np.ndarray:
    """Return the whole array; where it is divided, all processes take part."""
    if is_divided(leaf):
        leaf = parallel.place(leaf, parallel.replicated(leaf.sharding.mesh))
    return np.asarray(first_copy(leaf))


def _own_parts(leaf: jax.Array) -> list[Part]:
    return [
        Part(region_of(shard.index, leaf.shape), shard.data)
        for shard in leaf.addressable_shards
        if shard.replica_id == 0
    ]


def _copy(arrays: list[Any]) -> list[Any]:
    """Copy arrays where they are. In the host's memory, numpy is faster than jax.device_put."""
    on_device = {i: array for i, array in enumerate(arrays) if not _in_host_memory(array)}
    shardings = {i: array.sharding for i, array in on_device.items()}
    copies = jax.device_put(on_device, shardings, may_alias=False)
    return [copies[i] if i in copies else np.array(array) for i, array in enumerate(arrays)]


def _in_host_memory(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or all(d.platform == "cpu" for d in leaf.devices())


def region_of(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> Region:
    """Return begin and end along each axis of what an index selects; of None, all."""
    if index is None:
        return tuple((0, side) for side in shape)
    return tuple(part.indices(side)[:2] for part, side in zip(index, shape, strict=True))


def needed_regions(like: Any) -> set[Region]:
    """Return the parts of an array that this process needs, to place it as `like` is."""
    if _is_local(like):
        return {region_of(None, like.shape)}
    indices = like.sharding.addressable_devices_indices_map(like.shape).values()
    return {region_of(index, like.shape) for index in indices}


def size_of(region: Region) -> int:
    """Return the number of elements."""
    return math.prod(end - begin for begin, end in region)


def overlap(one: Region, other: Region) -> Region | None:
    """Return what two parts of an array have in common; None if that is nothing."""
    common = tuple(
        (max(begin, start), min(end, stop))
        for (begin, end), (start, stop) in zip(one, other, strict=True)
    )
    return common if all(begin < end for begin, end in common) else None


def assemble(region: Region, parts: Iterable[Part], dtype: str) -> np.ndarray:
    """Return a part of an array, put together from those that it overlaps."""
    found = np.zeros([end - begin for begin, end in region], dtype)
    for part in parts:
        if (common := overlap(region, part.region)) is not None:
            found[_within(common, region)] = part.data[_within(common, part.region)]
    return found


def _within(region: Region, outer: Region) -> tuple[slice, ...]:
    return tuple(
        slice(begin - first, end - first)
        for (begin, end), (first, _) in zip(region, outer, strict=True)
    )


def place(like: Any, parts: list[Part], dtype: str) -> Any:
    """Put an array where `like` is, from parts that cover what is needed of it."""
    if _is_local(like):
        array = _select(region_of(None, like.shape), parts, dtype)
        if isinstance(like, np.ndarray | np.generic):
            return array
        placed: Any = parallel.place(array, like.sharding, may_alias=False)
    else:
        placed = jax.make_array_from_callback(
            like.shape,
            like.sharding,
            # A copy: where it can, JAX goes on using the memory that it is given.
            lambda index: np.array(_select(region_of(index, like.shape), parts, dtype)),
        )
    if placed.dtype != np.dtype(dtype):
        raise TypeError(f"jax holds {dtype} as {placed.dtype} here: see jax_enable_x64")
    return placed


def _select(region: Region, parts: list[Part], dtype: str) -> np.ndarray:
    if len(parts) == 1:
        part = parts[0]
        return part.data if part.region == region else part.data[_within(region, part.region)]
    return assemble(region, parts, dtype)


def _is_local(like: Any) -> bool:
    """Return whether this process needs all of an array."""
    sharding = getattr(like, "sharding", None)
    return sharding is None or sharding.is_fully_addressable
