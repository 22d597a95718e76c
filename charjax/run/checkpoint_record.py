"""The record of a checkpoint: the content of its meta.json, and how its arrays are packed.

An array is either whole, written by one process, or divided over the processes that hold it. The
arrays that a process writes follow each other in one sequence of bytes (`checkpoint_bytes`), in the
order of their names: the cost of a save grows with the number of arrays more than with their bytes.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

# In format 1 each array was written separately, in 2 and 3 all of one dtype as one; in 3 some were
# divided over processes. In 4 their bytes are one sequence, whether they are divided or not.
UNPACKED, PACKED, DIVIDED, BYTES = 1, 2, 3, 4
# Begin and end along each axis of an array.
Region = tuple[tuple[int, int], ...]


class DamagedError(Exception):
    """A step that cannot be used; the message gives the reason."""


class Shard(BaseModel):
    """The record of a part of an array.

    Attributes:
      process: the one that wrote it, which is the name of its directory.
      region: begin and end along each axis.
      sha256: of its bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    process: int
    region: list[list[int]]
    sha256: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of elements along each axis."""
        return tuple(end - begin for begin, end in self.region)


class Leaf(BaseModel):
    """The record of an array.

    Attributes:
      dtype: its name.
      shape: of the whole array.
      sha256: of its bytes, if it is whole.
      shards: its parts, if it is divided.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dtype: str
    shape: list[int]
    sha256: str | None = None
    shards: list[Shard] | None = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @model_serializer(mode="wrap")
    def _leave_out_none(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}

    def is_sound(self) -> bool:
        """Return whether it is whole, or its shards lie in it and have as many elements."""
        if self.shards is None:
            return self.sha256 is not None
        inside = all(
            len(shard.region) == len(self.shape)
            and all(
                len(ends) == 2 and 0 <= ends[0] <= ends[1] <= side
                for ends, side in zip(shard.region, self.shape, strict=True)
            )
            for shard in self.shards
        )
        sizes = (math.prod(shard.shape) for shard in self.shards) if inside else ()
        return self.sha256 is None and inside and sum(sizes) == self.size


class Record(BaseModel):
    """The record of a step.

    Attributes:
      format: the layout of its files.
      step: its number.
      best: whether it was the best when it was saved.
      meta: the caller's notes.
      leaves: every array, by its path in the state.
      files: SHA-256 of every other file of the step, by its path in the step's directory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int = BYTES
    step: int
    best: bool
    meta: dict[str, Any]
    leaves: dict[str, Leaf]
    files: dict[str, str]

    def encode(self) -> bytes:
        """Encode as the text of meta.json, which ends with a SHA-256 of the rest."""
        text = _json(self.model_dump())
        sha256 = hashlib.sha256(text).hexdigest()
        # As one more field: encoding all of them again would take as long once more.
        return text.removesuffix(b"\n}") + f',\n "sha256": "{sha256}"\n}}'.encode()

    @staticmethod
    def decode(data: bytes) -> "Record":
        """Invert `encode`.

        Raises:
          DamagedError: it is not what `encode` returned, or of another version.
        """
        try:
            fields = json.loads(data)
            if fields["format"] not in (UNPACKED, PACKED, DIVIDED, BYTES):
                raise DamagedError("is of another version of charjax")
            del fields["sha256"]
            record = Record.model_validate(fields)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise DamagedError("is altered") from None
        # Compared as bytes: a flipped bit may yield another spelling of the same JSON.
        if record.encode() != data or not all(leaf.is_sound() for leaf in record.leaves.values()):
            raise DamagedError("is altered")
        return record

    def whole(self) -> dict[str, Leaf]:
        """Return the arrays that one process wrote, by their names."""
        return {name: leaf for name, leaf in self.leaves.items() if leaf.shards is None}

    def shards(self, process: int) -> list[tuple[str, Shard]]:
        """Return the parts that a process wrote, with the arrays' names, as they are packed."""
        return [
            (name, shard)
            for name, leaf in sorted(self.leaves.items())
            for shard in leaf.shards or ()
            if shard.process == process
        ]

    def writers(self) -> list[int]:
        """Return the processes that wrote parts of arrays."""
        shards = (shard for leaf in self.leaves.values() for shard in leaf.shards or ())
        return sorted({shard.process for shard in shards})


def _json(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, indent=1).encode()


def describe(arrays: Mapping[str, np.ndarray]) -> dict[str, Leaf]:
    """Return dtype, shape and SHA-256 of each array."""
    return {
        name: Leaf(dtype=array.dtype.name, shape=list(array.shape), sha256=digest(array))
        for name, array in arrays.items()
    }


def digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's bytes."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return hashlib.sha256(flat.view(np.uint8)).hexdigest()


def packed_shapes(parts: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the packed arrays of formats 2 and 3.

    All arrays of one dtype are one there, flattened, in their order.

    Args:
      parts: each array's dtype and shape.
    """
    sizes: dict[str, int] = {}
    for dtype, shape in parts:
        sizes[dtype] = sizes.get(dtype, 0) + math.prod(shape)
    return {dtype: (size,) for dtype, size in sizes.items() if size}


def unpack(
    packed: Mapping[str, np.ndarray], parts: Iterable[tuple[str, tuple[int, ...]]]
) -> list[np.ndarray]:
    """Return the arrays that were packed, given each one's dtype and shape."""
    arrays, offsets = [], dict.fromkeys(packed, 0)
    for dtype, shape in parts:
        if not (size := math.prod(shape)):
            arrays.append(np.zeros(shape, dtype))
            continue
        begin, offsets[dtype] = offsets[dtype], offsets[dtype] + size
        arrays.append(packed[dtype][begin : begin + size].reshape(shape))
    return arrays
