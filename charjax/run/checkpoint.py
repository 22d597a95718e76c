"""Checkpoints: orbax's arrays, made safe against crashes and damaged files.

A step is a directory: `500/state/` holds the arrays as orbax writes them, `500/meta.json` the
caller's notes and a SHA-256 of every leaf and every file. It appears complete or not at all
(`checkpoint_files.commit_step`), and is verified before anything in it is used.
"""

import concurrent.futures
import errno
import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from charjax import parallel
from charjax.errors import UserError, printable
from charjax.hardware import physical_memory
from charjax.run import checkpoint_files
from charjax.run.checkpoint_files import DamagedError, Record
from charjax.run.checkpoint_silence import silenced


class SaveError(OSError):
    """A checkpoint could not be written: no room, no permission, a directory that is gone."""


def state_digest(state: Any) -> str:
    """Return the SHA-256 over path, dtype, shape and bytes of every leaf of a pytree of arrays.

    It depends neither on the order of the leaves nor on their devices.
    """
    arrays = {name: np.asarray(_whole(leaf)) for name, leaf in _named_leaves(state).items()}
    leaves = {name: leaf.model_dump() for name, leaf in checkpoint_files.describe(arrays).items()}
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The steps saved in one directory.

    Without `keep` they are only read. With it, what a killed save left is removed, and each save
    removes all but the newest `keep` steps and the best one.
    """

    def __init__(
        self, directory: Path, keep: int | None = None, warn: Callable[[str], None] | None = None
    ):
        """Open a directory.

        Args:
          directory: of the steps; made if need be, with `keep`.
          keep: how many of the newest steps to keep.
          warn: called with a line about damaged steps; by default it is printed on stderr.

        Raises:
          SaveError: the directory cannot be made or written.
        """
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._warn = warn or _warn_on_stderr
        self._damaged: dict[int, str] = {}
        self._warned: set[int] = set()
        self._pending: concurrent.futures.Future[None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        if keep is not None:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                checkpoint_files.clear_leftovers(self._directory)
            except OSError as error:
                raise SaveError(f"checkpoints in {str(directory)!r}: {_reason(error)}") from error

    def save(self, step: int, state: Any, meta: dict[str, Any], *, best: bool = False) -> None:
        """Start to save a step, and return.

        The state is copied on its device, so its buffers may be donated at once. The rest (the
        transfer to the host, digests, files) happens in another thread, one save at a time.

        Args:
          step: its number. An existing step of that number is replaced, and stays the best if it
            was; later ones, left where a run was resumed from an earlier step, are removed.
          state: a pytree of jax arrays that this process can address, or of numpy arrays.
          meta: notes; anything that JSON can hold.
          best: whether this is the best step so far.

        Raises:
          SaveError: the save before this one failed.
        """
        if self._keep is None:
            raise ValueError("checkpoints opened without `keep` are only read")
        self.wait()
        notes = json.loads(json.dumps(meta))
        self._pending = self._thread.submit(self._write, step, _snapshot(state), notes, best)

    def wait(self) -> None:
        """Wait for the save in progress.

        Raises:
          SaveError: it failed; the steps before it are unchanged.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def check(self) -> None:
        """Raise what `wait` raises if the save has failed already, without waiting for it."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def close(self) -> None:
        """Wait, and end the thread; raises what `wait` raises."""
        self._thread.shutdown()
        self.wait()

    def steps(self) -> list[int]:
        """Return the steps, oldest first, damaged ones included."""
        return checkpoint_files.steps(self._directory)

    def prune(self) -> None:
        """Remove all steps but the best and the latest one.

        Raises:
          UserError: a step is damaged, so it is not known which one is the best.
          OSError: one cannot be removed.
        """
        self.best_step()
        if present := self.steps():
            checkpoint_files.prune(self._directory, present[-1], 1)

    def best_step(self) -> int | None:
        """Return the newest step that was saved as the best, or None.

        Raises:
          UserError: a newer one is damaged, so it is not known whether that was better.
        """
        for step in reversed(self.steps()):
            try:
                if checkpoint_files.read_record(self._directory, step).best:
                    return step
            except DamagedError as damage:
                self._damaged[step] = str(damage)
                raise self._refusal(
                    [step], "so which one is the best is not known; ask for latest or a step"
                ) from None
        return None

    def read_meta(self, which: str | int) -> dict[str, Any]:
        """Return the notes of a step; `which` and the errors are those of `restore`."""
        return next(self._good(which)).meta

    def restore(
        self, which: str | int, like: Any, *, ones: re.Pattern[str] | None = None
    ) -> tuple[Any, dict[str, Any], int]:
        """Read a step, and verify every bit of it.

        Args:
          which: "latest", "best" or a number. "latest" skips damaged steps, with a warning. "best"
            is the latest as long as no step was saved as the best.
          like: a pytree of the state's structure, of `jax.ShapeDtypeStruct`s or arrays. A leaf is
            put on the devices of its sharding; a numpy leaf stays numpy.
          ones: paths of leaves that are filled with 1 if an older version saved the step without
            them.

        Returns:
          The state, the notes and the number of the step.

        Raises:
          UserError: there is no such step; it is damaged (for "latest": all are); or the name,
            shape or dtype of a leaf differs from `like`, which is found before any is read.
        """
        every = _named_leaves(like)
        for record in self._good(which):
            filled = {
                name: _put(np.ones(leaf.shape, leaf.dtype), leaf)
                for name, leaf in every.items()
                if ones is not None and name not in record.leaves and ones.fullmatch(name)
            }
            wanted = {name: leaf for name, leaf in every.items() if name not in filled}
            _check_fit(record, wanted, self._directory)
            try:
                read = _read_leaves(self._directory, record, wanted)
            except DamagedError as damage:
                self._note(record.step, damage)
                continue
            found = filled | dict(zip(wanted, read, strict=True))
            tree = jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in every])
            return tree, record.meta, record.step
        raise AssertionError("_good ends only by raising")

    def _good(self, which: str | int) -> Iterator[Record]:
        """Yield the records of steps whose files are intact, in the order to try them."""
        while True:
            step = self._choose(which)
            try:
                record = checkpoint_files.read_record(self._directory, step)
                checkpoint_files.verify_files(self._directory, record)
            except DamagedError as damage:
                self._note(step, damage)
                continue
            new = [bad for bad in self._damaged if bad > step and bad not in self._warned]
            if new:
                self._warn(f"checkpoint {self._list(new)}: going back to checkpoint {step}")
                self._warned.update(new)
            yield record

    def _note(self, step: int, damage: DamagedError) -> None:
        # A missing step is not damaged: the run that writes here has removed it meanwhile.
        if step in self.steps():
            self._damaged[step] = str(damage)

    def _choose(self, which: str | int) -> int:
        """Return the step to try next; raise a UserError if there is none."""
        steps = self.steps()
        if not steps:
            raise UserError(
                f"checkpoint: there is none yet in {str(self._directory)!r}; train first, or give "
                "another run"
            )
        if which == "best":
            which = "latest" if (best := self.best_step()) is None else best
        if which == "latest":
            good = [step for step in steps if step not in self._damaged]
            if not good:
                raise self._refusal(
                    steps, "and there is no other; put a copy back, or start a new run"
                )
            return good[-1]
        if which not in steps:
            known = ", ".join(map(str, steps))
            raise UserError(f"checkpoint: {which!r} given; there are: best, latest, {known}")
        if which in self._damaged:
            raise self._refusal([int(which)], "ask for latest or another step")
        return int(which)

    def _refusal(self, damaged: list[int], remedy: str) -> UserError:
        where = str(self._directory)
        return UserError(f"checkpoint: in {where!r} {self._list(damaged)}, {remedy}")

    def _list(self, damaged: list[int]) -> str:
        newest_first = sorted(damaged, reverse=True)
        return ", ".join(f"{step} is damaged ({self._damaged[step]})" for step in newest_first)

    def _write(self, step: int, snapshot: dict[str, Any], meta: dict[str, Any], best: bool) -> None:
        """Commit a step and remove those no longer kept, in the thread."""
        assert self._keep is not None
        try:
            arrays = {name: np.asarray(leaf) for name, leaf in snapshot.items()}
            _check_room(self._directory, sum(array.nbytes for array in arrays.values()))
            commit = checkpoint_files.commit_step(self._directory, step, arrays, meta, best)
            with silenced(), commit as path:
                _write_arrays(path, arrays)
            self._damaged.pop(step, None)
            checkpoint_files.prune(self._directory, step, self._keep)
        except Exception as error:  # tensorstore raises ValueError
            raise SaveError(
                f"saving checkpoint {step} in {str(self._directory)!r} failed: {_reason(error)}; "
                f"saved before it: {', '.join(map(str, self.steps())) or 'none'}"
            ) from error


def _warn_on_stderr(text: str) -> None:
    print(f"warning: {printable(text)}", file=sys.stderr)


def _named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by their paths, as in `params/dense/kernel`."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not hasattr(leaf, "dtype") or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise TypeError(f"{name}: a checkpoint holds arrays, not {leaf!r}")
        if name in named:
            raise ValueError(f"{name}: two leaves have this path")
        named[name] = leaf
    return named


def _whole(leaf: Any) -> Any:
    """Return one device's copy of a replicated array, and anything else unchanged."""
    if isinstance(leaf, jax.Array) and leaf.is_fully_replicated:
        return leaf.addressable_data(0)
    return leaf


def _snapshot(state: Any) -> dict[str, Any]:
    """Copy every leaf, so that the state may be donated or changed afterwards."""
    leaves = {name: _whole(leaf) for name, leaf in _named_leaves(state).items()}
    on_device = {name: leaf for name, leaf in leaves.items() if not _in_host_memory(leaf)}
    shardings = {name: leaf.sharding for name, leaf in on_device.items()}
    copies = jax.device_put(on_device, shardings, may_alias=False)
    # In the host's memory, numpy copies faster than jax.device_put.
    return {name: copies[name] if name in copies else np.array(leaves[name]) for name in leaves}


def _in_host_memory(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or all(d.platform == "cpu" for d in leaf.devices())


def _check_room(directory: Path, size: int) -> None:
    """Raise an OSError if the disk is too full, before orbax begins to write."""
    if shutil.disk_usage(directory).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    ocp = _orbax()
    # Compression makes parameters smaller by a twelfth and takes a sixth of a save's time; OCDBT
    # takes twice the time of one file per array, for so few arrays.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, use_ocdbt=False)
    with ocp.Checkpointer(handler) as orbax:
        orbax.save(path, args=ocp.args.PyTreeSave(checkpoint_files.pack(arrays)))


def _orbax() -> Any:
    """Import orbax at the first save or restore: that takes half as long as importing JAX."""
    import orbax.checkpoint

    return orbax.checkpoint


def _check_fit(record: Record, wanted: dict[str, Any], directory: Path) -> None:
    """Raise a UserError that names leaves of a step which differ from those wanted."""
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
    size = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in wanted.values())
    if size > (memory := physical_memory()):
        raise UserError(
            f"checkpoint: {record.step} in {str(directory)!r} holds {size / 1e9:.1f} GB, more than "
            f"the {memory / 1e9:.1f} GB of this machine's memory; read it on a larger one"
        )


def _show(leaf: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{leaf[0]}{list(leaf[1])}" if leaf else "missing"


def _read_leaves(directory: Path, record: Record, wanted: dict[str, Any]) -> list[Any]:
    """Read the arrays, put as wanted; raise a DamagedError unless they are those saved."""
    shapes = checkpoint_files.packed_shapes(record)
    ocp = _orbax()
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in shapes}
    path = checkpoint_files.arrays_path(directory, record.step)
    try:
        with silenced(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
            _check_sizes(orbax.metadata(path).item_metadata.tree, shapes)
            packed = orbax.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        arrays = checkpoint_files.unpack(packed, record)
    except DamagedError:
        raise
    except Exception as error:  # tensorstore raises ValueError
        raise DamagedError(_reason(error)) from error
    for name, described in checkpoint_files.describe(arrays).items():
        if described != record.leaves[name]:
            raise DamagedError(f"{name} is altered")
    return [_put(arrays[name], like) for name, like in wanted.items()]


def _check_sizes(headers: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise a DamagedError if the headers declare other arrays than those of the record.

    Digests do not protect from a crafted checkpoint: a restore (orbax 0.12) allocates what a header
    declares, which may be more memory than there is.
    """
    for name, header in headers.items():
        shape = getattr(header, "shape", None)
        chunk = header.storage.chunk_shape if shape and header.storage else ()
        larger = any(part > side for part, side in zip(chunk, shape or (), strict=True))
        if name not in shapes or shape != shapes[name] or larger:
            raise DamagedError(f"{name} is altered")


def _put(array: np.ndarray, like: Any) -> Any:
    if isinstance(like, np.ndarray | np.generic):
        return array
    placed = parallel.place(array, like.sharding, may_alias=False)
    if placed.dtype != array.dtype:
        raise TypeError(f"jax holds {array.dtype} as {placed.dtype} here: see jax_enable_x64")
    return placed


def _reason(error: Exception) -> str:
    """Return the operating system's message, or else the first line of the error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    return f"{type(error).__name__}: {printable(str(error).partition(chr(10))[0])}"
