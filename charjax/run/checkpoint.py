"""Checkpoints: orbax's arrays, made safe against crashes and damaged files.

A step is a directory: `500/state/` holds the arrays as orbax writes them, `500/meta.json` the
caller's notes and a SHA-256 of every leaf and every file. It appears complete or not at all
(`checkpoint_files.commit_step`), and is verified before anything in it is used. Where several
processes train one run, each writes its own parts of the arrays (`checkpoint_together`).
"""

import concurrent.futures
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from charjax import processes
from charjax.errors import UserError, printable
from charjax.run import checkpoint_files
from charjax.run.checkpoint_arrays import reason, write_arrays
from charjax.run.checkpoint_parts import Part, Snapshot, gathered, place, region_of
from charjax.run.checkpoint_reading import check_fit, read_leaves
from charjax.run.checkpoint_record import DamagedError, Record, describe
from charjax.run.checkpoint_together import check_room, check_shared, has_room, save_together

T = TypeVar("T")
# Stores that processes share are opened in the same order by all of them.
_numbers = itertools.count()
# Threads that wait for the disk.
_DISK_THREADS = 8


class SaveError(OSError):
    """A checkpoint could not be written: no room, no permission, a directory that is gone."""


def state_digest(state: Any) -> str:
    """Return the SHA-256 over path, dtype, shape and bytes of every leaf of a pytree of arrays.

    It depends neither on the order of the leaves nor on their devices. All processes that hold
    parts of the state call this, in their main threads.
    """
    leaves = {
        name: describe({name: gathered(leaf)})[name].model_dump()
        for name, leaf in _named_leaves(state).items()
    }
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The steps saved in one directory.

    Without `keep` they are only read. With it, what a killed save left is removed, and each save
    removes all but the newest `keep` steps and the best one.

    A store that is shared belongs to all processes of a run, on a file system that all of them see.
    Each opens it, and calls `save`, `restore` and `read_meta`, as the others do and in the same
    order. Every one of these ends in the same way on all. A process by itself needs no such store,
    even among others.
    """

    def __init__(
        self,
        directory: Path,
        keep: int | None = None,
        warn: Callable[[str], None] | None = None,
        *,
        shared: bool = False,
    ):
        """Open a directory.

        Args:
          directory: of the steps; made if need be, with `keep`.
          keep: how many of the newest steps to keep.
          warn: called with a line about damaged steps; by default it is printed on stderr. Of
            processes that share the store, the first calls it.
          shared: whether all processes use the store together.

        Raises:
          SaveError: the directory cannot be made or written.
          UserError: some of the processes do not see it.
        """
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._warn = warn or _warn_on_stderr
        self._shared = shared and processes.count() > 1
        self._damaged: dict[int, str] = {}
        self._warned: set[int] = set()
        self._pending: concurrent.futures.Future[None] | None = None
        self._removal: concurrent.futures.Future[None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._disk_threads = concurrent.futures.ThreadPoolExecutor(_DISK_THREADS, "disk")
        self._number = next(_numbers) if self._shared else None
        if keep is not None:
            self._open_to_write()

    def _open_to_write(self) -> None:
        problem, marker = "", ""
        try:
            if not self._shared or processes.is_first():
                self._directory.mkdir(parents=True, exist_ok=True)
                checkpoint_files.clear_leftovers(self._directory)
                marker = checkpoint_files.make_marker(self._directory) if self._shared else ""
        except OSError as error:
            problem = reason(error)
        if problem := self._first(problem):
            raise SaveError(f"checkpoints in {str(self._directory)!r}: {problem}")
        if self._shared:
            check_shared(self._directory, marker)

    def _first(self, text: str) -> str:
        """Return the first text that is not empty, of all processes that share the store."""
        texts = processes.gather(text) if self._shared else [text]
        return next(filter(None, texts), "")

    def save(self, step: int, state: Any, meta: dict[str, Any], *, best: bool = False) -> None:
        """Start to save a step, and return.

        The state is copied on its device, so its buffers may be donated at once. The rest (the
        transfer to the host, digests, files) happens in another thread, one save at a time.

        Args:
          step: its number. An existing step of that number is replaced, and stays the best if it
            was; later ones, left where a run was resumed from an earlier step, are removed.
          state: a pytree of jax arrays, or of numpy arrays. If the store is not shared, this
            process can address them.
          meta: notes; anything that JSON can hold.
          best: whether this is the best step so far.

        Raises:
          SaveError: the save before this one failed.
        """
        if self._keep is None:
            raise ValueError("checkpoints opened without `keep` are only read")
        self._wait_for_write()
        notes = json.loads(json.dumps(meta))
        is_writer = not self._shared or processes.is_first()
        snapshot = Snapshot.of(_named_leaves(state), is_writer=is_writer)
        if snapshot.divided and not self._shared:
            raise ValueError(f"several processes hold parts of {next(iter(snapshot.divided))}")
        self._pending = self._thread.submit(self._write, step, snapshot, notes, best)

    def wait(self) -> None:
        """Wait for the save in progress, and until the steps that it removes are gone.

        Raises:
          SaveError: it failed; the steps before it are unchanged.
        """
        self._wait_for_write()
        try:
            self._wait_for_removal()
        except OSError as error:
            raise SaveError(f"checkpoints in {str(self._directory)!r}: {reason(error)}") from error

    def _wait_for_write(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _wait_for_removal(self) -> None:
        removal, self._removal = self._removal, None
        if removal is not None:
            removal.result()

    def check(self) -> None:
        """Raise what `wait` raises if the save has failed already, without waiting for it.

        Processes that share the store call this together: the others would wait for one that ends
        earlier than they do.
        """
        if self._pending is None:
            return
        ended = self._pending.done()
        if self._shared:
            ended = all(processes.gather("ended" if ended else ""))
        if ended:
            self._wait_for_write()

    def close(self) -> None:
        """Wait, and end the threads; raises what `wait` raises."""
        self._thread.shutdown()
        self._disk_threads.shutdown()
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
                name: place(leaf, [_ones(leaf)], np.dtype(leaf.dtype).name)
                for name, leaf in every.items()
                if ones is not None and name not in record.leaves and ones.fullmatch(name)
            }
            wanted = {name: leaf for name, leaf in every.items() if name not in filled}
            self._together(partial(check_fit, record, wanted, self._directory))
            try:
                read = self._unless_damaged(partial(read_leaves, self._directory, record, wanted))
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
            step = self._together(lambda: self._choose(which))
            if self._shared:
                # The first process has committed and removed them: what it sees is so.
                step = int(processes.gather(str(step))[0])
            try:
                record = self._unless_damaged(partial(self._read_record, step))
            except DamagedError as damage:
                self._note(step, damage)
                continue
            new = [bad for bad in self._damaged if bad > step and bad not in self._warned]
            if new:
                if not self._shared or processes.is_first():
                    self._warn(f"checkpoint {self._list(new)}: going back to checkpoint {step}")
                self._warned.update(new)
            yield record

    def _read_record(self, step: int) -> Record:
        record = checkpoint_files.read_record(self._directory, step)
        share = (processes.index(), processes.count()) if self._shared else (0, 1)
        checkpoint_files.verify_files(self._directory, record, share)
        return record

    def _together(self, function: Callable[[], T]) -> T:
        """Call a function; if it raises a UserError on any process, raise one on all."""
        return processes.together(function) if self._shared else function()

    def _unless_damaged(self, function: Callable[[], T]) -> T:
        """Call a function; if it raises a DamagedError on any process, raise one on all."""
        problem, result = "", None
        try:
            result = function()
        except DamagedError as damage:
            problem = str(damage)
        if problem := self._first(problem):
            raise DamagedError(problem)
        return result  # type: ignore[return-value]

    def _note(self, step: int, damage: DamagedError) -> None:
        # A missing step is not damaged: the run that writes here has removed it meanwhile.
        if self._shared or step in self.steps():
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

    def _write(self, step: int, snapshot: Snapshot, meta: dict[str, Any], best: bool) -> None:
        """Commit a step and remove those no longer kept, in the thread."""
        assert self._keep is not None
        try:
            arrays = snapshot.to_host()
            if self._shared:
                prune = partial(checkpoint_files.prune, self._directory, step, self._keep)
                meeting = f"checkpoints-{self._number}"
                threads = self._disk_threads
                save_together(self._directory, step, arrays, meta, best, meeting, prune, threads)
            else:
                self._write_alone(step, arrays.whole, meta, best)
            self._damaged.pop(step, None)
        except Exception as error:  # tensorstore raises ValueError
            raise SaveError(
                f"saving checkpoint {step} in {str(self._directory)!r} failed: {reason(error)}; "
                f"saved before it: {', '.join(map(str, self.steps())) or 'none'}"
            ) from error

    def _write_alone(
        self, step: int, arrays: dict[str, np.ndarray], meta: dict[str, Any], best: bool
    ) -> None:
        """Commit a step; those no longer kept are removed while the next one is written."""
        assert self._keep is not None
        size = sum(array.nbytes for array in arrays.values())
        if not has_room(self._directory, size):
            self._wait_for_removal()
            check_room(self._directory, size)
        threads = self._disk_threads
        commit = checkpoint_files.commit_step(self._directory, step, arrays, meta, best, threads)
        with commit as path:
            write_arrays(path, (array for _, array in sorted(arrays.items())))
        self._wait_for_removal()
        retired = checkpoint_files.retire(self._directory, step, self._keep)
        self._removal = threads.submit(checkpoint_files.remove, retired)


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


def _ones(like: Any) -> Part:
    return Part(region_of(None, like.shape), np.ones(like.shape, like.dtype))
