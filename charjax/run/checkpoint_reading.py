"""The arrays of a checkpoint, read and verified, onto any number of devices and processes."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from charjax.errors import UserError
from charjax.hardware import physical_memory
from charjax.run import checkpoint_bytes, checkpoint_files
from charjax.run.checkpoint_arrays import read_arrays
from charjax.run.checkpoint_parts import Part, needed_regions, overlap, place, region_of, size_of
from charjax.run.checkpoint_record import (
    BYTES,
    UNPACKED,
    DamagedError,
    Leaf,
    Record,
    Region,
    digest,
    packed_shapes,
    unpack,
)


def check_fit(record: Record, wanted: dict[str, Any], directory: Path) -> None:
    """Check that a step is of the arrays wanted, before any is read.

    Raises:
      UserError: it names leaves that differ; or what this process needs exceeds its memory.
    """
    saved = {name: (leaf.dtype, tuple(leaf.shape)) for name, leaf in record.leaves.items()}
    here = {name: (np.dtype(leaf.dtype).name, leaf.shape) for name, leaf in wanted.items()}
    differing = [
        f"{name} is {_show(saved.get(name))} there and {_show(here.get(name))} here"
        for name in sorted({*saved, *here})
        if saved.get(name) != here.get(name)
    ]
    if differing:
        rest = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"checkpoint: {record.step} in {str(directory)!r} is of another model: "
            f"{', '.join(differing[:3])}{rest}; use the configuration it was trained with"
        )
    size = sum(
        np.dtype(leaf.dtype).itemsize * _elements_to_read(record.leaves[name], leaf)
        for name, leaf in wanted.items()
    )
    if size > (memory := physical_memory()):
        raise UserError(
            f"checkpoint: {record.step} in {str(directory)!r} holds {size / 1e9:.1f} GB, more than "
            f"the {memory / 1e9:.1f} GB of this machine's memory; read it on a larger one"
        )


def _show(leaf: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{leaf[0]}{list(leaf[1])}" if leaf else "missing"


def _elements_to_read(leaf: Leaf, like: Any) -> int:
    return leaf.size if leaf.shards is None else sum(map(size_of, needed_regions(like)))


def read_leaves(directory: Path, record: Record, wanted: dict[str, Any]) -> list[Any]:
    """Read arrays, and put them as wanted, one after the other.

    Raises:
      DamagedError: they are not those that were saved.
    """
    root = directory / str(record.step)
    needed = {name: needed_regions(like) for name, like in wanted.items()}
    placed: dict[str, Any] = {}
    for name, part in _read_whole(root, record):
        placed[name] = place(wanted[name], [part], record.leaves[name].dtype)
    for name, parts in _read_shards(root, record, needed).items():
        placed[name] = place(wanted[name], parts, record.leaves[name].dtype)
    return [placed[name] for name in wanted]


def _read_whole(root: Path, record: Record) -> Iterator[tuple[str, Part]]:
    leaves = dict(sorted(record.whole().items()))
    described = [(leaf.dtype, tuple(leaf.shape)) for leaf in leaves.values()]
    arrays = _read_in_order(checkpoint_files.arrays_path(root), record, described, list(leaves))
    for (name, leaf), read in zip(leaves.items(), arrays, strict=True):
        array = read()
        _verify(name, array, leaf.dtype, leaf.sha256)
        yield name, Part(region_of(None, array.shape), array)


def _read_shards(
    root: Path, record: Record, needed: dict[str, set[Region]]
) -> dict[str, list[Part]]:
    """Read the parts that overlap those needed, from one process's files after the other's."""
    divided = {name: leaf for name, leaf in record.leaves.items() if leaf.shards is not None}
    found: dict[str, list[Part]] = {name: [] for name in divided}
    for process in record.writers():
        shards = record.shards(process)
        regions = [tuple((begin, end) for begin, end in shard.region) for _, shard in shards]
        wanted = [
            any(overlap(region, other) is not None for other in needed[name])
            for (name, _), region in zip(shards, regions, strict=True)
        ]
        if not any(wanted):
            continue
        described = [(divided[name].dtype, shard.shape) for name, shard in shards]
        arrays = _read_in_order(checkpoint_files.shards_path(root, process), record, described, [])
        for (name, shard), region, is_wanted, read in zip(
            shards, regions, wanted, arrays, strict=True
        ):
            if is_wanted:
                array = read()
                _verify(name, array, divided[name].dtype, shard.sha256)
                found[name].append(Part(region, array))
    return found


def _read_in_order(
    folder: Path, record: Record, described: list[tuple[str, tuple[int, ...]]], names: list[str]
) -> list[Callable[[], np.ndarray]]:
    """Return what reads each of the arrays in a folder.

    Args:
      folder: of arrays.
      record: the step's.
      described: dtype and shape of each array, in the order in which they were written.
      names: of the arrays, if they were written separately.
    """
    if record.format == BYTES:
        return checkpoint_bytes.array_readers(folder, described)
    if record.format == UNPACKED:
        held = dict(zip(names, described, strict=True))
        shapes = {name: shape for name, (_, shape) in held.items() if math.prod(shape)}
        empty = {name: np.zeros(shape, dtype) for name, (dtype, shape) in held.items()}
        arrays = list((empty | read_arrays(folder, shapes)).values())
    else:
        shapes = packed_shapes(described)
        arrays = unpack(read_arrays(folder, shapes) if shapes else {}, described)
    # A copy, so that the rest of what was read can be freed.
    return [array.copy for array in arrays]


def _verify(name: str, array: np.ndarray, dtype: str, sha256: str | None) -> None:
    if array.dtype.name != dtype or digest(array) != sha256:
        raise DamagedError(f"{name} is altered")
