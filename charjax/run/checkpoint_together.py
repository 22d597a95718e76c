"""One checkpoint of several processes: each writes its own parts, the first commits the step.

They meet three times: when the first has made the directory, when all have written, and when the
first has committed. At each meeting every process says whether it failed, so that all fail
together; one that does not come in time has failed, too. Meetings go over the network between the
hosts, not over the devices, so that training goes on meanwhile.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from charjax import processes
from charjax.errors import UserError
from charjax.run import checkpoint_files
from charjax.run.checkpoint_arrays import reason, write_arrays
from charjax.run.checkpoint_bytes import check_pieces
from charjax.run.checkpoint_parts import Snapshot
from charjax.run.checkpoint_record import Leaf, Record, Shard, describe, digest

# A process that is alive answers within this time, and writes so many bytes in a second.
_SECONDS, _BYTES_PER_SECOND = 50.0, 5e6


class Contribution(BaseModel):
    """A process's part of a step, as it reports it to the first process.

    Attributes:
      shards: the parts of arrays that it wrote, by the arrays' names.
      files: SHA-256 of each file that it wrote, by its path in the step's directory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: dict[str, list[Shard]]
    files: dict[str, str]


def save_together(
    directory: Path,
    step: int,
    snapshot: Snapshot,
    meta: dict[str, Any],
    best: bool,
    meeting: str,
    after: Callable[[], None],
    threads: Executor,
) -> None:
    """Save a step; every process calls this, and it ends in the same way on all.

    Args:
      directory: of all steps, on a file system that all processes share.
      step: its number; an older step of that number is replaced.
      snapshot: what this process has to write, in NumPy arrays.
      meta: the caller's notes.
      best: whether this is the best step so far.
      meeting: a name of the store, the same on all processes.
      after: called by the first process once the step is committed.
      threads: in which files are synced.

    Raises:
      OSError: one process could not write, or did not answer. Nothing of the step is left, unless
        it was committed.
    """
    size = _total_bytes(snapshot)

    def begin() -> str:
        check_room(directory, size)
        return checkpoint_files.make_staging(directory, step).name if processes.is_first() else ""

    try:
        staging = directory / meet(f"{meeting}/begin", begin, _SECONDS)[0]
        seconds = _SECONDS + size / _BYTES_PER_SECOND
        written = meet(f"{meeting}/write", lambda: _write(staging, snapshot, threads), seconds)

        def commit() -> str:
            if processes.is_first():
                record = _record(staging, step, snapshot, meta, best, written)
                checkpoint_files.write_record(staging, directory, record)
                checkpoint_files.sync([checkpoint_files.record_path(staging)], threads)
                checkpoint_files.rename_into_place(staging, directory, step)
                after()
            return ""

        meet(f"{meeting}/commit", commit, _SECONDS)
    except BaseException:
        if processes.is_first():
            checkpoint_files.clear_staging(directory, step)
        raise


def check_shared(directory: Path, marker: str) -> None:
    """Check that every process sees what the first one has made in a directory, and remove it.

    Args:
      directory: of all steps.
      marker: the name of what the first process has made; that of the others is not used.

    Raises:
      UserError: one does not, because the directory is on a disk of its host's.
    """
    place = directory / processes.from_first(marker)

    def look() -> None:
        if not place.is_dir():
            raise UserError(
                f"checkpoint: process {processes.index()} does not see what process 0 has in "
                f"{str(directory)!r}; give a directory on a file system that all processes share"
            )

    try:
        processes.together(look)
    finally:
        if processes.is_first():
            place.rmdir()


def meet(name: str, work: Callable[[], str], seconds: float) -> list[str]:
    """Do this process's share, and wait for the others to have done theirs.

    Args:
      name: of the meeting.
      work: returns a short text for the others, or raises.
      seconds: to wait for them.

    Returns:
      Every process's text.

    Raises:
      Exception: that of `work`.
      OSError: it failed on another process, or one did not answer.
    """
    text, failure = "", None
    try:
        text = work()
    except Exception as error:
        failure = error
    message = json.dumps([None if failure is None else reason(failure), text])
    try:
        answers = [json.loads(answer) for answer in processes.exchange(name, message, seconds)]
    except OSError as error:
        raise failure or error from None
    if failure is not None:
        raise failure
    for process, (problem, _) in enumerate(answers):
        if problem is not None:
            raise OSError(errno.EIO, f"{problem} (process {process})")
    return [answer for _, answer in answers]


def check_room(directory: Path, size: int) -> None:
    """Raise an OSError if the disk is too full, before orbax begins to write."""
    if not has_room(directory, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def has_room(directory: Path, size: int) -> bool:
    """Return whether so many bytes fit on the disk."""
    return shutil.disk_usage(directory).free >= size


def _total_bytes(snapshot: Snapshot) -> int:
    whole = sum(array.nbytes for array in snapshot.whole.values())
    return whole + sum(leaf.size * leaf.dtype.itemsize for leaf in snapshot.divided.values())


def _write(staging: Path, snapshot: Snapshot, threads: Executor) -> str:
    """Write this process's parts and a file that describes them; return that file's SHA-256."""
    process = processes.index()
    whole = [array for _, array in sorted(snapshot.whole.items())]
    parts = [(name, part) for name, parts in sorted(snapshot.parts.items()) for part in parts]
    files: dict[str, str] = {}
    with checkpoint_files.still_there(staging):
        for path, arrays in (
            (checkpoint_files.arrays_path(staging), whole),
            (checkpoint_files.shards_path(staging, process), [part.data for _, part in parts]),
        ):
            write_arrays(path, arrays)
            check_pieces(path, sum(array.nbytes for array in arrays))
            files |= checkpoint_files.digests(staging, path)
        shards: dict[str, list[Shard]] = {name: [] for name in snapshot.parts}
        for name, part in parts:
            region = [list(ends) for ends in part.region]
            shards[name].append(Shard(process=process, region=region, sha256=digest(part.data)))
        text = Contribution(shards=shards, files=files).model_dump_json().encode()
        _contribution_path(staging, process).write_bytes(text)
        if files:
            checkpoint_files.sync([staging / name for name in files], threads)
    return hashlib.sha256(text).hexdigest()


def _contribution_path(staging: Path, process: int) -> Path:
    return staging / f"shards-{process}.json"


def _record(
    staging: Path,
    step: int,
    snapshot: Snapshot,
    meta: dict[str, Any],
    best: bool,
    written: list[str],
) -> Record:
    """Return the record of a step that all have written, in the first process."""
    contributions = [_collect(staging, process, sha) for process, sha in enumerate(written)]
    leaves = describe(snapshot.whole)
    for name, leaf in snapshot.divided.items():
        shards = [shard for part in contributions for shard in part.shards[name]]
        leaves[name] = Leaf(dtype=leaf.dtype.name, shape=list(leaf.shape), shards=shards)
        if not leaves[name].is_sound():
            raise OSError(errno.EIO, f"{name} was not written whole")
    return Record(
        step=step,
        best=best,
        meta=meta,
        leaves=leaves,
        files={name: sha for part in contributions for name, sha in part.files.items()},
    )


def _collect(staging: Path, process: int, sha256: str) -> Contribution:
    """Read and remove a process's description of what it wrote."""
    path = _contribution_path(staging, process)
    text = path.read_bytes()
    if hashlib.sha256(text).hexdigest() != sha256:
        raise OSError(errno.EIO, f"{path.name} is not what process {process} wrote")
    path.unlink()
    return Contribution.model_validate_json(text)
