"""The files of a checkpoint: how a step is named, committed, verified and removed.

Step N is a directory `N/`: `N/meta.json` is its record, `N/state/` holds the arrays that one
process wrote, `N/shards-P/` the parts of arrays that process P of several wrote. It is built as
`.saving-N/` and renamed to `N/`: that rename is the commit. Before it there is no step N, after it
the step is complete, and nothing in it changes any more, so other processes may read while one
writes. `clear_leftovers` removes what a killed process left before its rename.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from charjax.run.checkpoint_bytes import check_pieces
from charjax.run.checkpoint_record import DamagedError, Record, describe

_ARRAYS = "state"
_RECORD = "meta.json"
# Prefixes of directories beside the steps, while a step is saved, replaced or removed.
_SAVING = ".saving-"
_REPLACED = ".replaced-"
_REMOVED = ".removed-"
# Made for a moment, to see whether all processes share the directory.
_SHARED = ".shared-"
# Number, time and size of a record's file.
_Version = tuple[int, int, int]
# Whether a step is the best, by its directory and number, as its record of that version says.
_known_best: dict[tuple[Path, int], tuple[_Version, bool]] = {}
_MOST_KNOWN = 32


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


def arrays_path(step_directory: Path) -> Path:
    """Return the directory of the arrays that one process wrote."""
    return step_directory / _ARRAYS


def record_path(step_directory: Path) -> Path:
    """Return the file of a step's record."""
    return step_directory / _RECORD


def shards_path(step_directory: Path, process: int) -> Path:
    """Return the directory of the parts of arrays that a process wrote."""
    return step_directory / f"shards-{process}"


def read_record(directory: Path, step: int) -> Record:
    """Read a step's record.

    Raises:
      DamagedError: it is missing, altered, or of another step.
    """
    try:
        record = Record.decode((directory / str(step) / _RECORD).read_bytes())
    except FileNotFoundError:
        raise DamagedError(f"{_RECORD} is missing") from None
    except OSError as error:
        raise DamagedError(f"{_RECORD}: {error.strerror}") from None
    except DamagedError as damage:
        raise DamagedError(f"{_RECORD} {damage}") from None
    if record.step != step:
        raise DamagedError(f"{_RECORD} is altered")
    return record


def verify_files(directory: Path, record: Record, share: tuple[int, int] = (0, 1)) -> None:
    """Compare the files of a step with its record.

    Args:
      directory: of all steps.
      record: the step's.
      share: (0, 1) for all files; (i, n) for those of the i-th of n processes that divide them.

    Raises:
      DamagedError: one is missing, cut short or altered.
    """
    root = directory / str(record.step)
    index, count = share
    try:
        present = _files(root)
        for name, sha256 in list(record.files.items())[index::count]:
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
    directory: Path,
    step: int,
    arrays: dict[str, np.ndarray],
    meta: dict[str, Any],
    best: bool,
    threads: concurrent.futures.Executor,
) -> Iterator[Path]:
    """Save a step: the body writes the arrays at the path yielded, then the step is committed.

    Args:
      directory: of all steps.
      step: its number; an older step of that number is replaced.
      arrays: those that the body writes, before they are packed.
      meta: the caller's notes.
      best: whether this is the best step so far; a replaced step that was the best makes it true.
      threads: in which files are synced.

    Raises:
      OSError: the directory is gone, full or not writable; nothing is left behind.
    """
    staging = directory / f"{_SAVING}{step}"
    try:
        _remove(staging)
        staging.mkdir()
        with still_there(staging):
            yield arrays_path(staging)
            check_pieces(arrays_path(staging), sum(array.nbytes for array in arrays.values()))
            files = digests(staging, arrays_path(staging))
            record = Record(step=step, best=best, meta=meta, leaves=describe(arrays), files=files)
            best = write_record(staging, directory, record)
            sync([staging / name for name in (*files, _RECORD)], threads)
        rename_into_place(staging, directory, step)
        _remember(directory, step, best)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def make_staging(directory: Path, step: int) -> Path:
    """Make the directory in which several processes build a step.

    Its name is new: processes that a dead one has left behind may still write where it had them
    write.
    """
    clear_staging(directory, step)
    staging = directory / f"{_SAVING}{step}.{secrets.token_hex(4)}"
    staging.mkdir()
    return staging


def make_marker(directory: Path) -> str:
    """Make something of a new name that every process can look for; return the name."""
    name = f"{_SHARED}{secrets.token_hex(4)}"
    (directory / name).mkdir()
    return name


def clear_staging(directory: Path, step: int) -> None:
    """Remove what failed saves of a step by several processes left."""
    for path in directory.glob(f"{_SAVING}{step}.*"):
        shutil.rmtree(path, ignore_errors=True)


def digests(staging: Path, folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder of a step, by its path in the step."""
    found = {path.relative_to(staging).as_posix(): path for path in _files(folder).values()}
    return {name: _file_digest(path) for name, path in found.items()}


def sync(paths: Iterable[Path], threads: concurrent.futures.Executor) -> None:
    """Wait until files are on the disk.

    All at once, so that the file system writes its journal once (measured on ext4: 1.2 ms for three
    files, 10 ms one after the other).
    """
    *others, last = paths
    started = [threads.submit(_sync_file, path) for path in others]
    _sync_file(last)
    for each in started:
        each.result()


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_record(staging: Path, directory: Path, record: Record) -> bool:
    """Write the record of a step that is complete but for it; return whether it is the best."""
    best = record.best or _was_best(directory, record.step)
    data = record.model_copy(update={"best": best}).encode()
    record_path(staging).write_bytes(data)
    return best


@contextlib.contextmanager
def still_there(directory: Path) -> Iterator[None]:
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
    """Return what a step's record says, read once as long as its file is the same."""
    try:
        version = _version(directory, step)
    except OSError:
        return False
    known = _known_best.get((directory, step))
    if known is not None and known[0] == version:
        return known[1]
    try:
        best = read_record(directory, step).best
    except DamagedError:
        best = False
    _know(directory, step, version, best)
    return best


def _remember(directory: Path, step: int, best: bool) -> None:
    """Keep what the record that was just written says: it need not be read again."""
    with contextlib.suppress(OSError):
        _know(directory, step, _version(directory, step), best)


def _know(directory: Path, step: int, version: _Version, best: bool) -> None:
    if len(_known_best) >= _MOST_KNOWN:
        _known_best.clear()
    _known_best[directory, step] = version, best


def _version(directory: Path, step: int) -> _Version:
    found = (directory / str(step) / _RECORD).stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def rename_into_place(staging: Path, directory: Path, step: int) -> None:
    """Commit: the step is complete from here on."""
    final, replaced = directory / str(step), directory / f"{_REPLACED}{step}"
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
    remove(retire(directory, newest, keep))


def retire(directory: Path, newest: int, keep: int) -> list[Path]:
    """Rename the steps that `prune` removes, so that they are none, and return their new paths."""
    present = steps(directory)
    past = [step for step in present if step <= newest]
    best = next((step for step in reversed(past) if _was_best(directory, step)), None)
    retired = []
    for step in present:
        if step not in past[-keep:] and step != best:
            # A partly removed directory must not have a step's name.
            retired.append(directory / f"{_REMOVED}{step}")
            (directory / str(step)).rename(retired[-1])
    return retired


def remove(paths: list[Path]) -> None:
    """Remove directories, files and links."""
    for path in paths:
        _remove(path)


def clear_leftovers(directory: Path) -> None:
    """Remove what a killed process left; restore the step that it was about to replace."""
    for path in list(directory.iterdir()):
        if path.name.startswith(_REPLACED):
            step = directory / path.name.removeprefix(_REPLACED)
            if not step.exists():
                path.rename(step)
                continue
        if path.name.startswith((_SAVING, _REPLACED, _REMOVED, _SHARED)):
            _remove(path)
