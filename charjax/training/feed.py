"""The batches of a text that stays on the host, brought to the devices ahead of the steps.

A thread finds and reads the windows of the next steps while the device computes. It is a plain
thread: the windows are a function of the step, so there is no state of a loader that a library
would have to keep.

Letters: K steps, B rows of a batch, P tokens read for a row.
"""

import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, Sharding

from charjax import parallel
from charjax.data.batches import BatchSource, ReadWindows, TextWindows
from charjax.data.host_batches import Block, HostSource, read_rows
from charjax.data.windows import EvalWindows
from charjax.errors import UserError

# The first step waits for the first block, whose pages may have to come from a disk.
_FIRST_STEPS = 8
_GROWTH = 8

# Batches of a run, of a text that is on the device or not.
Source = BatchSource | HostSource


class _Read(NamedTuple):
    """A block that is read, or will be: of so many steps from `first` on."""

    first: int
    steps: int
    block: Future[Block]

    @property
    def end(self) -> int:
        """The step after its last."""
        return self.first + self.steps


class Feed:
    """The blocks of a run, in order."""

    def __init__(self, source: HostSource, mesh: Mesh, first: int, last: int):
        """Start to read the first block.

        Args:
          source: of the batches.
          mesh: the devices that share them.
          first: the next step of the run.
          last: its last step; no block reaches beyond it, and none is read ahead of it. (A
            benchmark may go on from there.)
        """
        self._source, self._mesh, self._last = source, mesh, last
        self._reader = ThreadPoolExecutor(1, "charjax-feed")
        self._ahead: _Read | None = self._read(first, _FIRST_STEPS)
        self._current: _Read | None = None

    def at(self, step: int) -> tuple[Block, int]:
        """Return the block that has a step, and how many of its steps are left from there on.

        Where the step begins the next block, this waits until that has been read.

        Raises:
          UserError: the file of the tokens has been cut short.
        """
        current = self._current
        if current is None or not current.first <= step < current.end:
            current, ahead = self._ahead, None
            if current is None or current.first != step:
                current = self._read(step, _FIRST_STEPS)
            if current.end != self._last:
                ahead = self._read(current.end, _GROWTH * current.steps)
            self._current, self._ahead = current, ahead
        return current.block.result(), current.end - step

    def _read(self, first: int, count: int) -> _Read:
        """Have a block read, of at most so many steps."""
        length = self._source.most_steps
        left = self._last - first if first < self._last else length
        count = min(count, length, left)
        arguments = (self._source, first, count, length, self._mesh)
        return _Read(first, count, self._reader.submit(make_block, *arguments))


def one_batch(source: Source, step: int, mesh: Mesh) -> BatchSource | Block:
    """Return what draws the batch of one step, whole on every device of a mesh."""
    if isinstance(source, BatchSource):
        return source
    return make_block(source, step, 1, 1, mesh, divided=False)


def make_block(
    source: HostSource, first: int, count: int, length: int, mesh: Mesh, *, divided: bool = True
) -> Block:
    """Read the batches of some steps, each process its own rows, and place them on the devices.

    Args:
      source: of the batches.
      first: the first step.
      count: steps to read.
      length: K, at least `count`; the others are not drawn, and left as memory has them.
      mesh: the devices.
      divided: the rows are divided over the devices; else each has all of them.
    """
    windows = source.windows_of(first, count)
    shapes = block_shapes(source, length, mesh, divided=divided)

    def read(index: Any) -> Any:
        return _filled(source.read(windows.starts_KB[:, index[1]]), length)

    tokens = shapes.read_KBP
    return dataclasses.replace(
        shapes,
        read_KBP=jax.make_array_from_callback(tokens.shape, tokens.sharding, read),
        before_KB=_placed(source.before(windows), shapes.before_KB),
        lengths_KB=_placed(windows.lengths_KB, shapes.lengths_KB),
        restart_K=_placed(windows.restart_K, shapes.restart_K),
        first=_on_devices(np.int32(first), shapes.first.sharding),
    )


def block_shapes(source: HostSource, length: int, mesh: Mesh, *, divided: bool = True) -> Block:
    """Return the shapes and shardings of a block's arrays; arguments as of `make_block`."""
    whole = parallel.replicated(mesh)
    rows = parallel.split_rows_over(mesh) if divided else whole
    size = (length, source.batch_size)
    tokens: Any = jax.ShapeDtypeStruct((*size, source.width), source.tokens.dtype, sharding=rows)
    column: Any = jax.ShapeDtypeStruct(size, np.int32, sharding=rows)
    return Block(
        read_KBP=tokens,
        before_KB=column,
        lengths_KB=column,
        restart_K=jax.ShapeDtypeStruct((length,), np.bool_, sharding=whole),  # type: ignore[arg-type]
        first=jax.ShapeDtypeStruct((), np.int32, sharding=whole),  # type: ignore[arg-type]
        window=source.window,
        lookback=source.lookback,
        has_boundaries=source.has_boundaries,
    )


class WindowReader:
    """Reads windows of a split for evaluation, where they are: on the devices, or on the host.

    Attributes:
      mesh: the devices that share the rows.
    """

    def __init__(self, tokens: np.ndarray, mesh: Mesh, device_bytes: int):
        """Put the tokens on the devices, unless they have more bytes than that."""
        self.mesh, self._tokens = mesh, tokens
        self._placed: Array | None = None
        if tokens.nbytes <= device_bytes:
            self._placed = _on_devices(np.asarray(tokens), parallel.replicated(mesh))

    def read(self, here: EvalWindows, *, window: int, lookback: int) -> TextWindows | ReadWindows:
        """Return some windows, divided over the devices, as the scoring programs take them."""
        rows = parallel.split_over(self.mesh)

        def place(column: np.ndarray) -> Array:
            return _on_devices(column.astype(np.int32), rows)

        lengths, firsts = place(here.lengths), place(here.firsts)
        if self._placed is not None:
            starts = place(here.starts), place(here.doc_starts)
            return TextWindows(self._placed, *starts, lengths, firsts)
        width = lookback + window + 1

        def read(index: Any) -> Any:
            return read_rows(self._tokens, here.starts[index[0]] - lookback, width)

        shape = (len(here.starts), width)
        return ReadWindows(
            jax.make_array_from_callback(shape, rows, read),
            place(np.minimum(here.starts - here.doc_starts, lookback)),
            lengths,
            firsts,
        )


def device_source(source: Source | None) -> BatchSource:
    """Return a source that one program may draw many batches from, as several runs at once do.

    Raises:
      UserError: the text stays on the host.
    """
    if isinstance(source, HostSource):
        check_on_device(source.tokens, 0)
    assert isinstance(source, BatchSource)
    return source


def check_on_device(tokens: np.ndarray, device_bytes: int) -> None:
    """Check that a part of a text is put on the device.

    Raises:
      UserError: the text stays on the host.
    """
    if (size := tokens.nbytes) > device_bytes:
        raise UserError(
            f"data.device_bytes: a part of the text has {size:,} bytes, and stays on the host; "
            "runs that are trained in one program read it on the device: use "
            f"data.device_bytes={size}"
        )


def _placed(array: np.ndarray, shape: Any) -> Array:
    """Place the first steps of an array of this shape."""
    return _on_devices(_filled(array.astype(shape.dtype), shape.shape[0]), shape.sharding)


def _on_devices(array: Any, sharding: Sharding) -> Array:
    placed: Array = parallel.place(array, sharding)
    return placed


def _filled(array: np.ndarray, length: int) -> np.ndarray:
    full = np.empty((length, *array.shape[1:]), array.dtype)
    full[: len(array)] = array
    return full
