"""The files of a checkpoint: how a step is named, committed, verified and removed.

A step N is a directory `N/`: `N/state/` holds its arrays, `N/meta.json` its record. No step is
changed once it has its name, so another process may read while one writes.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

_FORMAT = 1
_ARRAYS = "state"
_RECORD = "meta.json"
# What lies beside the steps while they change.
_SAVING = ".saving-"
_REPLACED = ".replaced-"
_REMOVED = ".removed-"


class DamagedError(Exception):
    """A step that cannot be used; the message says why."""


class Leaf(BaseModel):
    """What is written down of an array."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dtype: str
    shape: list[int]
    sha256: str


class Record(BaseModel):
    """What is written down of a step.

    Attributes:
      step: its number.
      best: whether it was the best when it was saved.
      meta: the caller's notes.
      leaves: every array, by its path in the state.
      files: SHA-256 of every file under the step's directory, by its path there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    step: int
    best: bool
    meta: dict[str, Any]
    leaves: dict[str, Leaf]
    files: dict[str, str]

    def encode(self) -> bytes:
        """The text of meta.json, which ends with a SHA-256 of the rest."""
        fields = {"format": _FORMAT, **self.model_dump()}
        sha256 = hashlib.sha256(_json(fields)).hexdigest()
        return _json({**fields, "sha256": sha256})


def _json(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, indent=1).encode()


def describe(arrays: dict[str, np.ndarray]) -> dict[str, Leaf]:
    """Dtype, shape and SHA-256 of each array."""
    return {
        name: Leaf(
            dtype=array.dtype.name,
            shape=list(array.shape),
            sha256=hashlib.sha256(_bytes(array)).hexdigest(),
        )
        for name, array in arrays.items()
    }


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def steps(directory: Path) -> list[int]:
    """The numbers of the steps in a directory, in order; whole or damaged."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if _is_step(path))


def _is_step(path: Path) -> bool:
    name = path.name
    return name.isascii() and name.isdecimal() and str(int(name)) == name and path.is_dir()


def arrays_path(directory: Path, step: int) -> Path:
    """Where a step's arrays lie."""
    return directory / str(step) / _ARRAYS


def read_record(directory: Path, step: int) -> Record:
    """Read a step's record.

    Raises:
      DamagedError: it is missing, altered, or of another step.
    """
    try:
        data = (directory / str(step) / _RECORD).read_bytes()
        fields = json.loads(data)
        if fields.pop("format") != _FORMAT:
            raise DamagedError(f"{_RECORD} is of another version of charjax")
        del fields["sha256"]
        record = Record.model_validate(fields)
        # To the byte: JSON has many spellings of one thing, and a flipped bit may give another.
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
        there = _files(root)
        for name, sha256 in record.files.items():
            if name not in there:
                raise DamagedError(f"{name} is missing")
            if _file_digest(there[name]) != sha256:
                raise DamagedError(f"{name} is altered")
    except OSError as error:
        raise DamagedError(f"{error.filename}: {error.strerror}") from None


def _files(root: Path) -> dict[str, Path]:
    return {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_file()}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def commit(
    directory: Path, step: int, arrays: dict[str, np.ndarray], meta: dict[str, Any], best: bool
) -> Iterator[Path]:
    """Make a step: the body writes the arrays at the path it is given; then the step appears.

    Raises:
      OSError: the directory is gone, full or not to be written; nothing is left behind.
    """
    staging = directory / f"{_SAVING}{step}"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir()
        with _still_there(staging):
            yield staging / _ARRAYS
            files = {name: _file_digest(path) for name, path in _files(staging).items()}
            best = best or _was_best(directory, step)
            leaves = describe(arrays)
            record = Record(step=step, best=best, meta=meta, leaves=leaves, files=files)
            (staging / _RECORD).write_bytes(record.encode())
        _put_in_place(staging, directory / str(step), directory / f"{_REPLACED}{step}")
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


@contextlib.contextmanager
def _still_there(directory: Path) -> Iterator[None]:
    """Raise a FileNotFoundError at the end unless the directory is the one it was.

    What writes the arrays makes every directory that is missing. So one that somebody has removed
    meanwhile, and the steps that lay beside it, would be there again, but for what it held.
    """
    held = os.open(directory, os.O_RDONLY)
    try:
        yield
    finally:
        # As long as it is held open, no other directory is given its number.
        there = directory.exists() and os.path.samestat(os.fstat(held), directory.stat())
        os.close(held)
        if not there:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))


def _was_best(directory: Path, step: int) -> bool:
    try:
        return read_record(directory, step).best
    except DamagedError:
        return False


def _put_in_place(staging: Path, final: Path, replaced: Path) -> None:
    if final.exists():
        final.rename(replaced)
    staging.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)


def prune(directory: Path, newest: int, keep: int) -> None:
    """Remove all steps but the best one and the last `keep` up to `newest`."""
    there = steps(directory)
    past = [step for step in there if step <= newest]
    best = next((step for step in reversed(past) if _was_best(directory, step)), None)
    for step in there:
        if step not in past[-keep:] and step != best:
            # First out of sight, so that no half-removed step is ever taken for a step.
            removed = directory / f"{_REMOVED}{step}"
            (directory / str(step)).rename(removed)
            shutil.rmtree(removed)


def clear_leftovers(directory: Path) -> None:
    """Clear away what a killed process left; a step it was about to replace comes back."""
    for path in list(directory.iterdir()):
        if path.name.startswith(_REPLACED):
            step = directory / path.name.removeprefix(_REPLACED)
            if not step.exists():
                path.rename(step)
                continue
        if path.name.startswith((_SAVING, _REPLACED, _REMOVED)):
            shutil.rmtree(path)
