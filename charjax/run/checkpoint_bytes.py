"""Arrays as one sequence of bytes, in pieces of bounded size: how it is cut, and read again.

The arrays follow each other without gaps, each in C order, little-endian. Piece i holds the bytes
from i * PIECE on. A handler of orbax's writes it as a zarr array `bytes-i` of uint8, in one chunk
without compression: the file `bytes-i/0` is the piece itself. So a save needs the memory of one
piece beside the arrays, a restore that of one array, and what a header declares allocates nothing.
"""

import errno
import itertools
import math
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from charjax.run.checkpoint_record import DamagedError

PIECE = 32 * 2**20


def piece_name(index: int) -> str:
    """Return the name of the array that holds a piece."""
    return f"bytes-{index}"


def piece_path(folder: Path, index: int) -> Path:
    """Return the file of a piece."""
    return folder / piece_name(index) / "0"


def pieces(arrays: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the bytes of arrays, uint8 of shape (PIECE,), the last one shorter.

    Each is valid as long as the arrays are.
    """
    parts: list[np.ndarray] = []
    size = 0
    for array in arrays:
        rest = as_bytes(array)
        while rest.size:
            parts.append(rest[: PIECE - size])
            rest, size = rest[parts[-1].size :], size + parts[-1].size
            if size == PIECE:
                yield _joined(parts)
                parts, size = [], 0
    if parts:
        yield _joined(parts)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def as_bytes(array: np.ndarray) -> np.ndarray:
    """Return an array's bytes in C order, uint8 of one axis; a view where that is possible."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def unfit_piece(folder: Path, size: int) -> Path | None:
    """Return the first piece of so many bytes that a folder has not, or in another size."""
    for index in range(math.ceil(size / PIECE)):
        path = piece_path(folder, index)
        try:
            # At once: the run that writes here may remove the step at any moment.
            found = path.stat()
        except OSError:
            return path
        if not stat.S_ISREG(found.st_mode) or found.st_size != min(PIECE, size - index * PIECE):
            return path
    return None


def check_pieces(folder: Path, size: int) -> None:
    """Raise an OSError unless the pieces of so many bytes are in a folder."""
    if unfit_piece(folder, size) is not None:
        raise OSError(errno.EIO, f"the arrays of {folder.name} were not written")


def array_readers(
    folder: Path, described: list[tuple[str, tuple[int, ...]]]
) -> list[Callable[[], np.ndarray]]:
    """Return what reads each of the arrays in a folder.

    Args:
      folder: of the pieces.
      described: dtype and shape of each array, in their order.

    Raises:
      DamagedError: a piece is missing, or has not the size that it should have; what reads an
        array raises it, too.
    """
    dtypes = [np.dtype(dtype) for dtype, _ in described]
    shapes = [shape for _, shape in described]
    sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in zip(dtypes, shapes, strict=True)]
    *begins, size = itertools.accumulate(sizes, initial=0)
    if (path := unfit_piece(folder, size)) is not None:
        raise DamagedError(f"{path.relative_to(folder.parent).as_posix()} is altered")
    return [
        partial(_read_array, folder, begin, dtype, shape)
        for begin, dtype, shape in zip(begins, dtypes, shapes, strict=True)
    ]


def _read_array(folder: Path, begin: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(shape, dtype)
    rest = as_bytes(array)
    while rest.size:
        index, offset = divmod(begin, PIECE)
        count = min(rest.size, PIECE - offset)
        path = piece_path(folder, index)
        try:
            # Unbuffered: into the array itself.
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                whole = file.readinto(memoryview(rest[:count])) == count
        except OSError as error:
            raise DamagedError(f"{error.filename}: {error.strerror}") from None
        if not whole:
            raise DamagedError(f"{path.relative_to(folder.parent).as_posix()} is altered")
        begin, rest = begin + count, rest[count:]
    return array
