"""Batches of a text that stays on the host, as a pure function of (seed, step).

The windows of many steps are found and read by NumPy, and given to the compiled steps as one
argument, a `Block`. They are those that `charjax.data.batches` draws from a text on the device.

Letters: N tokens of the split, K steps, B rows of a batch, T targets per row, P = lookback + T + 1
tokens read for a row.
"""

import dataclasses
import functools
import mmap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax.data import host_indices
from charjax.data.batches import Batch, Share, batch_of_rows, from_boundary
from charjax.data.draws import Draws, find_draws
from charjax.data.splits import Split
from charjax.data.windows import Table
from charjax.errors import UserError
from charjax.random_streams import Key, fold_in

# Of the tokens of a block: enough steps that a call of the program is not felt, and few enough
# that several blocks are nothing beside a model.
_BLOCK_BYTES = 4 * 2**20
_MOST_STEPS = 8192


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["read_KBP", "before_KB", "lengths_KB", "restart_K", "first"],
    meta_fields=["window", "lookback", "has_boundaries"],
)
@dataclasses.dataclass(frozen=True)
class Block:
    """The batches of steps `first` to `first` + K - 1: a pytree, to be passed to jit.

    Attributes:
      read_KBP: uint8, uint16 or uint32, the tokens read for each row.
      before_KB: int32, tokens of the document before each window, `lookback` at most.
      lengths_KB: int32, targets of each window.
      restart_K: bool, a carried state is reset.
      first: () int32.
      window: T.
      lookback: inputs before the one that precedes the first target.
      has_boundaries: token 0 separates the documents.
    """

    read_KBP: Array
    before_KB: Array
    lengths_KB: Array
    restart_K: Array
    first: Array
    window: int
    lookback: int
    has_boundaries: bool

    @property
    def batch_size(self) -> int:
        """B."""
        return self.read_KBP.shape[1]

    def draw(self, step: Array, share: Share | None = None) -> Batch:
        """Return the batch of one of the steps; as `BatchSource.draw`.

        Args:
          step: () int32.
          share: not read: nothing is computed.
        """
        at = step - self.first
        read_BP, before_B, lengths_B, restart = (
            jax.lax.dynamic_index_in_dim(column, at, keepdims=False)
            for column in (self.read_KBP, self.before_KB, self.lengths_KB, self.restart_K)
        )
        batch = batch_of_rows(
            read_BP,
            before_B,
            lengths_B,
            jnp.zeros_like(lengths_B),
            window=self.window,
            lookback=self.lookback,
        )
        inputs_BS = from_boundary(batch.inputs) if self.has_boundaries else batch.inputs
        return batch._replace(inputs=inputs_BS, restart=restart)


class Windows(NamedTuple):
    """The windows of K steps.

    Attributes:
      doc_starts_KB: int64, first token of each window's document.
      starts_KB: int64, its first input.
      lengths_KB: int64, its targets.
      restart_K: bool, a carried state is reset.
    """

    doc_starts_KB: np.ndarray
    starts_KB: np.ndarray
    lengths_KB: np.ndarray
    restart_K: np.ndarray


@dataclasses.dataclass(frozen=True)
class HostSource(Draws):
    """Source of batches whose text stays on the host; not a pytree.

    Attributes:
      tokens: (N,) uint8, uint16 or uint32; it may be an np.memmap.
    """

    tokens: np.ndarray

    @property
    def width(self) -> int:
        """P, the number of tokens read for a row."""
        return self.lookback + self.window + 1

    @property
    def most_steps(self) -> int:
        """The most steps of a block, K."""
        row = self.width * self.tokens.dtype.itemsize
        return max(1, min(_MOST_STEPS, _BLOCK_BYTES // (self.batch_size * row)))

    def windows_of(self, first: int, count: int) -> Windows:
        """Return the windows of steps `first` to `first` + `count` - 1."""
        steps_K = np.arange(first, first + count, dtype=np.int64)
        restart_K = np.ones(count, np.bool_)
        if self.sampling == "random":
            found = self._random(steps_K)
        elif self.sampling == "epoch":
            found = self._epoch(steps_K)
        else:
            chunk_K = steps_K % self.batches_per_epoch
            found, restart_K = self._contiguous(chunk_K), chunk_K == 0
        return Windows(*found, restart_K)

    def _random(self, steps_K: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        keys_K = fold_in(self._key(), steps_K)
        count = self.windows.count
        index_KB = host_indices.uniform_indices(keys_K, self.batch_size, count)
        return self.windows.locate(index_KB)

    def _epoch(self, steps_K: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch_K, batch_K = np.divmod(steps_K, self.batches_per_epoch)
        position_KB = batch_K[:, None] * self.batch_size + np.arange(self.batch_size)
        exists_KB = position_KB < self.windows.count
        keys_K = fold_in(self._key(), epoch_K)
        index_KB = host_indices.shuffled_indices(
            keys_K, np.where(exists_KB, position_KB, 0), self.windows.count
        )
        doc_starts_KB, starts_KB, lengths_KB = self.windows.locate(index_KB)
        return doc_starts_KB, starts_KB, np.where(exists_KB, lengths_KB, 0)

    def _contiguous(self, chunk_K: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert isinstance(self.windows, Table)
        offset_K1 = chunk_K[:, None] * self.window
        lengths_KB = np.clip(self.windows.lengths - offset_K1, 0, self.window)
        doc_starts_KB = np.broadcast_to(self.windows.doc_starts, lengths_KB.shape)
        return doc_starts_KB, self.windows.starts + offset_K1, lengths_KB

    def _key(self) -> Key:
        first, second = np.asarray(jax.random.key_data(self.key))
        return np.asarray(first), np.asarray(second)

    def before(self, windows: Windows) -> np.ndarray:
        """Return the tokens of each document before its window, at most `lookback`: (K, B)."""
        before_KB = windows.starts_KB - windows.doc_starts_KB
        return np.minimum(before_KB, self.lookback).astype(np.int32)

    def read(self, starts: np.ndarray) -> np.ndarray:
        """Read the rows of windows that start there: (..., P) of any starts."""
        return read_rows(self.tokens, starts - self.lookback, self.width)


def make_host_source(split: Split, **settings: object) -> HostSource:
    """Return the source of a split's batches, without putting it on the device.

    Arguments and errors are those of `find_draws`.
    """
    draws = find_draws(split, **settings)  # type: ignore[arg-type]
    check_file(split.tokens)
    return HostSource(**vars(draws), tokens=split.tokens)


def read_rows(tokens: np.ndarray, begins: np.ndarray, width: int) -> np.ndarray:
    """Read `width` tokens from each place on: (..., width).

    Beyond the ends of the text stand its first and its last token, as with mode="clip".

    Raises:
      UserError: the file of the tokens has been cut short.
    """
    check_file(tokens)
    last = len(tokens) - width
    if last < 0:
        inside = np.zeros(begins.shape, np.bool_)
        rows = np.empty((*begins.shape, width), tokens.dtype)
    else:
        inside = (begins >= 0) & (begins <= last)
        # Not an index for each token, which would be eight times the tokens.
        rows = np.lib.stride_tricks.sliding_window_view(tokens, width)[np.clip(begins, 0, last)]
    if not inside.all():
        at = np.clip(begins[~inside][:, None] + np.arange(width), 0, len(tokens) - 1)
        rows[~inside] = tokens[at]
    return np.asarray(rows)


def check_file(tokens: np.ndarray) -> None:
    """Check that a file that tokens are mapped from still has all of them.

    To read beyond its end would end the process (SIGBUS); so a file that becomes shorter between
    this and the reading still does.

    Raises:
      UserError: it has been cut short.
    """
    array = tokens
    while isinstance(array.base, np.ndarray):
        array = array.base
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap):
        return
    needed, there = array.offset + array.nbytes, array.base.size()
    if there < needed:
        raise UserError(
            f"data: the file of the text's tokens was {needed:,} bytes long and is now "
            f"{there:,}: something else has cut it short; delete it and start again "
            "(--resume), and it is made anew"
        )
