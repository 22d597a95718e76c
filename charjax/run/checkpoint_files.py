"""The files of a checkpoint: how a step is named, committed, verified and removed.

Step N is a directory `N/`: `N/state/` holds its arrays, `N/meta.json` its record. `commit_step`
builds it as `.saving-N/` and renames it to `N/`: that rename is the commit. Before it there is no
step N, after it the step is complete, and nothing in it changes any more, so other processes may
read while one writes. `clear_leftovers` removes what a killed process left before its rename.

Arrays are packed before they are written, all of one dtype in one: the cost of a save grows with
the number of arrays more than with their bytes (measured: 61 ms of CPU time for 78 arrays, 18 for
one of the same size).
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

# In format 1 each array was written separately.
_UNPACKED, _FORMAT = 1, 2
_ARRAYS = "state"
_RECORD = "meta.json"
# Prefixes of directories beside the steps, while a step is saved, replaced or removed.
_SAVING = ".saving-"
_REPLACED = ".replaced-"
_REMOVED = ".removed-"


class DamagedError(Exception):
    """A step that cannot be used; the message gives the reason."""


class Leaf(BaseModel):
    """The record of an array."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dtype: str
    shape: list[int]
    sha256: str

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


class Record(BaseModel):
    """The record of a step: the content of its meta.json.

    Attributes:
      format: the layout of its files.
      step: its number.
      best: whether it was the best when it was saved.
      meta: the caller's notes.
      leaves: every array, by its path in the state.
      files: SHA-256 of every other file of the step, by its path in the step's directory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int = _FORMAT
    step: int
    best: bool
    meta: dict[str, Any]
    leaves: dict[str, Leaf]
    files: dict[str, str]

    def encode(self) -> bytes:
        """Encode as the text of meta.json, which ends with a SHA-256 of the rest."""
        fields = self.model_dump()
        sha256 = hashlib.sha256(_json(fields)).hexdigest()
        return _json({**fields, "sha256": sha256})


def _json(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, indent=1).encode()


def describe(arrays: dict[str, np.ndarray]) -> dict[str, Leaf]:
    """Return dtype, shape and SHA-256 of each array."""
    return {
        name: Leaf(
            dtype=array.dtype.name,
            shape=list(array.shape),
            sha256=hashlib.sha256(_bytes(array)).hexdigest(),
        )
        for name, array in arrays.items()
    }


def pack(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Concatenate the arrays of each dtype, flattened, in the order of their names."""
    flat: dict[str, list[np.ndarray]] = {}
    for _, array in sorted(arrays.items()):
        flat.setdefault(array.dtype.name, []).append(array.reshape(-1))
    # Nothing is written of arrays without elements.
    return {dtype: np.concatenate(parts) for dtype, parts in flat.items() if any(map(len, parts))}


def packed_shapes(record: Record) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the arrays as they were written."""
    sizes: dict[str, int] = {}
    if record.format == _UNPACKED:
        return {name: tuple(leaf.shape) for name, leaf in record.leaves.items() if leaf.size}
    for leaf in record.leaves.values():
        sizes[leaf.dtype] = sizes.get(leaf.dtype, 0) + leaf.size
    return {dtype: (size,) for dtype, size in sizes.items() if size}


def unpack(packed: dict[str, np.ndarray], record: Record) -> dict[str, np.ndarray]:
    """Invert `pack`; `packed` has the names and shapes of `packed_shapes`."""
    arrays, offsets = {}, dict.fromkeys(packed, 0)
    for name, leaf in sorted(record.leaves.items()):
        if not leaf.size:
            arrays[name] = np.zeros(leaf.shape, leaf.dtype)
        elif record.format == _UNPACKED:
            arrays[name] = packed[name]
        else:
            begin = offsets[leaf.dtype]
            offsets[leaf.dtype] = end = begin + leaf.size
            arrays[name] = packed[leaf.dtype][begin:end].reshape(leaf.shape)
    return arrays


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def steps(directory: Path) -> list[int]:
    """Return the numbers of the steps in a directory, in order, damaged ones included."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if _is_step(path))


def _is_step(path: Path) -> bool:
    name = path.name
    # Steps are counted in 32 bits, so none has more digits.
    short = name.isascii() and name.isdecimal() and len(name) <= 10
    return short and str(int(name)) == name and path.is_dir()


def arrays_path(directory: Path, step: int) -> Path:
    """Return the directory of a step's arrays."""
    return directory / str(step) / _ARRAYS


def read_record(directory: Path, step: int) -> Record:
    """Read a step's record.

    Raises:
      DamagedError: it is missing, altered, or of another step.
    """
    try:
        data = (directory / str(step) / _RECORD).read_bytes()
        fields = json.loads(data)
        if fields["format"] not in (_UNPACKED, _FORMAT):
            raise DamagedError(f"{_RECORD} is of another version of charjax")
        del fields["sha256"]
        record = Record.model_validate(fields)
        # Compared as bytes: a flipped bit may yield another spelling of the same JSON.
        sound = record.encode() == data and record.step == step
    except FileNotFoundError:
        raise DamagedError(f"{_RECORD} is missing") from None
    except OSError as error:
        raise DamagedError(f"{_RECORD}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise DamagedError(f"{_RECORD} is altered")
    return record


def verify_files(directory: Path, record: Record) -> None:
    """Compare every file of a step with its record.

    Raises:
      DamagedError: one is missing, cut short or altered.
    """
    root = directory / str(record.step)
    try:
        present = _files(root)
        for name, sha256 in record.files.items():
            if name not in present:
                raise DamagedError(f"{name} is missing")
            if _file_digest(present[name]) != sha256:
                raise DamagedError(f"{name} is altered")
    except OSError as error:
        raise DamagedError(f"{error.filename}: {error.strerror}") from None


def _files(root: Path) -> dict[str, Path]:
    return {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_file()}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def commit_step(
    directory: Path, step: int, arrays: dict[str, np.ndarray], meta: dict[str, Any], best: bool
) -> Iterator[Path]:
    """Save a step: the body writes the arrays at the path yielded, then the step is committed.

    Args:
      directory: of all steps.
      step: its number; an older step of that number is replaced.
      arrays: those that the body writes, before they are packed.
      meta: the caller's notes.
      best: whether this is the best step so far; a replaced step that was the best makes it true.

    Raises:
      OSError: the directory is gone, full or not writable; nothing is left behind.
    """
    staging = directory / f"{_SAVING}{step}"
    try:
        _remove(staging)
        staging.mkdir()
        with _still_there(staging):
            yield staging / _ARRAYS
            files = {name: _file_digest(path) for name, path in _files(staging).items()}
            _check_written(arrays, files, staging)
            best = best or _was_best(directory, step)
            leaves = describe(arrays)
            record = Record(step=step, best=best, meta=meta, leaves=leaves, files=files)
            (staging / _RECORD).write_bytes(record.encode())
        _rename_into_place(staging, directory / str(step), directory / f"{_REPLACED}{step}")
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _check_written(arrays: dict[str, np.ndarray], files: dict[str, str], staging: Path) -> None:
    """Raise an OSError unless there are files of every packed array.

    With jax.distributed, orbax lets only the first process write, and the others report success.
    """
    for dtype in {array.dtype.name for array in arrays.values() if array.size}:
        if not any(name.startswith(f"{_ARRAYS}/{dtype}/") for name in files):
            where = str(staging / _ARRAYS)
            raise OSError(errno.EIO, f"the {dtype} arrays were not written", where)


@contextlib.contextmanager
def _still_there(directory: Path) -> Iterator[None]:
    """Raise a FileNotFoundError at the end if the directory was removed meanwhile.

    Orbax creates every missing directory: without this check, a run's directory that was removed
    during a save would exist again, with this step alone in it.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield
    finally:
        # While it is open, no other directory can have its inode number.
        same = directory.exists() and os.path.samestat(os.fstat(descriptor), directory.stat())
        os.close(descriptor)
        if not same:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))


def _was_best(directory: Path, step: int) -> bool:
    try:
        return read_record(directory, step).best
    except DamagedError:
        return False


def _rename_into_place(staging: Path, final: Path, replaced: Path) -> None:
    """Commit: `final` names a complete step from here on."""
    if final.exists():
        # If the process is killed before the next line, `clear_leftovers` renames it back.
        final.rename(replaced)
    staging.rename(final)
    with contextlib.suppress(OSError):
        _remove(replaced)


def _remove(path: Path) -> None:
    """Remove a directory, a file or a link: somebody may have replaced a step by a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def prune(directory: Path, newest: int, keep: int) -> None:
    """Remove all steps but the best one and the last `keep` up to `newest`."""
    present = steps(directory)
    past = [step for step in present if step <= newest]
    best = next((step for step in reversed(past) if _was_best(directory, step)), None)
    for step in present:
        if step not in past[-keep:] and step != best:
            # Renamed first: a partly removed directory must not have a step's name.
            removed = directory / f"{_REMOVED}{step}"
            (directory / str(step)).rename(removed)
            _remove(removed)


def clear_leftovers(directory: Path) -> None:
    """Remove what a killed process left; restore the step that it was about to replace."""
    for path in list(directory.iterdir()):
        if path.name.startswith(_REPLACED):
            step = directory / path.name.removeprefix(_REPLACED)
            if not step.exists():
                path.rename(step)
                continue
        if path.name.startswith((_SAVING, _REPLACED, _REMOVED)):
            _remove(path)
