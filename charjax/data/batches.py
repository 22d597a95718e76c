"""Batches as a pure function of (seed, step), drawn inside jit from a text on the device.

Letters: N tokens of the split, D documents, W windows, B rows of a batch, T targets per row,
S = lookback + T inputs per row, P = S + 1 characters read for both.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax.data.draws import Draws, find_draws
from charjax.data.indices import shuffled_indices, uniform_indices
from charjax.data.splits import Split
from charjax.data.windows import EvalWindows, Table, evaluation_windows, on_device

__all__ = [
    "Batch",
    "BatchSource",
    "EvalWindows",
    "ReadWindows",
    "TextWindows",
    "batch_of_rows",
    "evaluation_windows",
    "from_boundary",
    "gather_windows",
    "make_source",
]

# From f(key, rows) to the same function of rows that are divided over devices.
Share = Callable[[Callable[[Array, Array], Array]], Callable[[Array, Array], Array]]


class Batch(NamedTuple):
    """One batch of training windows.

    Attributes:
      inputs: (B, S) int32; inputs[:, lookback + i] is the character before targets[:, i].
        Positions before the document's start and past its end hold token 0.
      targets: (B, T) int32.
      weights: (B, T) float32: 1 for a target, 0 for padding.
      restart: () bool: a carried state is reset here.
      count_log_probs: (B, T, O, V) float16, what counts of the rest of the text predict in place of
        each target; None where the model has no counts.
    """

    inputs: Array
    targets: Array
    weights: Array
    restart: Array
    count_log_probs: Array | None = None


def _not_shared(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return function


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["tokens", "key", "windows", "count_log_probs"],
    meta_fields=[
        "sampling",
        "batch_size",
        "window",
        "lookback",
        "batches_per_epoch",
        "has_boundaries",
    ],
)
@dataclasses.dataclass(frozen=True)
class BatchSource(Draws):
    """Source of batches: a pytree, to be passed to jit as an argument.

    Attributes:
      tokens: (N,) uint8, uint16 or uint32, on the device.
      count_log_probs: (N, O, V) float16, what each of the counts of the rest of the text predicts
        in place of each token; None where the model has no counts.
    """

    tokens: Array
    count_log_probs: Array | None = None

    def draw(self, step: Array, share: Share = _not_shared) -> Batch:
        """Return the batch of a step; a pure function, to be called inside jit.

        Args:
          step: () int32.
          share: divides over devices a function of a key and rows.
        """
        restart = jnp.array(True)
        if self.sampling == "random":
            doc_starts_B, starts_B, lengths_B = self._random(step)
        elif self.sampling == "epoch":
            doc_starts_B, starts_B, lengths_B = self._epoch(step, share)
        else:
            doc_starts_B, starts_B, lengths_B = self._contiguous(step % self.batches_per_epoch)
            restart = step % self.batches_per_epoch == 0
        batch = gather_windows(
            self.tokens,
            doc_starts_B,
            starts_B,
            lengths_B,
            jnp.zeros_like(lengths_B),
            window=self.window,
            lookback=self.lookback,
        )
        inputs_BS = from_boundary(batch.inputs) if self.has_boundaries else batch.inputs
        batch = batch._replace(inputs=inputs_BS, restart=restart)
        if self.count_log_probs is None:
            return batch
        target_BT = starts_B[:, None] + 1 + jnp.arange(self.window, dtype=jnp.int32)
        return batch._replace(
            count_log_probs=jnp.take(self.count_log_probs, target_BT, axis=0, mode="clip")
        )

    def _random(self, step: Array) -> tuple[Array, Array, Array]:
        """Draw windows with replacement."""
        key = jax.random.fold_in(self.key, step)
        index_B = uniform_indices(key, self.batch_size, self.windows.count)
        return self.windows.locate(index_B.astype(jnp.int32))

    def _epoch(self, step: Array, share: Share) -> tuple[Array, Array, Array]:
        """Return the next windows in the epoch's order; empty ones fill up the last batch."""
        key = jax.random.fold_in(self.key, step // self.batches_per_epoch)
        first = step % self.batches_per_epoch * self.batch_size
        position_B = first + jnp.arange(self.batch_size, dtype=jnp.int32)
        exists_B = position_B < self.windows.count
        position_B = jnp.where(exists_B, position_B, 0).astype(jnp.uint32)
        # A loop until all rows are done: over several devices it would ask them all at every turn.
        shuffle = share(functools.partial(shuffled_indices, count=self.windows.count))
        index_B = shuffle(key, position_B)
        doc_starts_B, starts_B, lengths_B = self.windows.locate(index_B.astype(jnp.int32))
        return doc_starts_B, starts_B, jnp.where(exists_B, lengths_B, 0)

    def _contiguous(self, chunk: Array) -> tuple[Array, Array, Array]:
        """Return the next T targets of every stream; fewer, or none, at its end."""
        assert isinstance(self.windows, Table)
        offset = chunk * self.window
        lengths_B = jnp.clip(self.windows.lengths - offset, 0, self.window)
        return self.windows.doc_starts, self.windows.starts + offset, lengths_B


def from_boundary(inputs_BS: Array) -> Array:
    """Replace everything before a row's last boundary (token 0) by token 0; for use in jit."""
    position_S = jnp.arange(inputs_BS.shape[1], dtype=jnp.int32)
    last_B = jnp.max(jnp.where(inputs_BS == 0, position_S, -1), axis=1)
    return jnp.where(position_S > last_B[:, None], inputs_BS, 0)


def make_source(
    split: Split, count_log_probs: np.ndarray | None = None, **settings: Any
) -> BatchSource:
    """Put a split on the device and return the source of its batches.

    `count_log_probs` is that of BatchSource; the other arguments and errors are those of
    `find_draws`.
    """
    draws = find_draws(split, **settings)
    rows = None if count_log_probs is None else jnp.asarray(count_log_probs)
    on_it = {**vars(draws), "windows": on_device(draws.windows)}
    return BatchSource(**on_it, tokens=jnp.asarray(split.tokens), count_log_probs=rows)


class TextWindows(NamedTuple):
    """Windows of a text on the device; arguments of `gather_windows`."""

    tokens: Array
    starts: Array
    doc_starts: Array
    lengths: Array
    firsts: Array

    def batch(self, window: int, lookback: int) -> Batch:
        """Return their batch; to be called inside jit."""
        columns = self.doc_starts, self.starts, self.lengths, self.firsts
        return gather_windows(self.tokens, *columns, window=window, lookback=lookback)


class ReadWindows(NamedTuple):
    """Windows of a text on the host, whose tokens were read; arguments of `batch_of_rows`."""

    read_BP: Array
    before_B: Array
    lengths_B: Array
    firsts_B: Array

    def batch(self, window: int, lookback: int) -> Batch:
        """Return their batch; to be called inside jit."""
        return batch_of_rows(*self, window=window, lookback=lookback)


def gather_windows(
    tokens: Array,
    doc_starts: Array,
    starts: Array,
    lengths: Array,
    firsts: Array,
    *,
    window: int,
    lookback: int,
) -> Batch:
    """Gather windows from a text; to be called inside jit.

    Args:
      tokens: (N,) uint8, uint16 or uint32.
      doc_starts: (B,) int32, the first token of each window's document.
      starts: (B,) int32, the input before each window's first target.
      lengths: (B,) int32, targets of each window, 0 to `window`.
      firsts: (B,) int32, index of the first target with weight 1.
      window: T.
      lookback: inputs before `starts`.
    """
    offset_P = jnp.arange(-lookback, window + 1, dtype=jnp.int32)
    read_BP = jnp.take(tokens, starts[:, None] + offset_P, mode="clip")
    return batch_of_rows(
        read_BP, starts - doc_starts, lengths, firsts, window=window, lookback=lookback
    )


def batch_of_rows(
    read_BP: Array,
    before_B: Array,
    lengths_B: Array,
    firsts_B: Array,
    *,
    window: int,
    lookback: int,
) -> Batch:
    """Make a batch of the tokens that were read for its windows; to be called inside jit.

    Args:
      read_BP: tokens from `lookback` before the window's first input to its last target.
      before_B: int32, tokens of the document before the window's first input; `lookback` stands
        for more.
      lengths_B: int32, targets of each window, 0 to `window`.
      firsts_B: int32, index of the first target with weight 1.
      window: T.
      lookback: inputs before the one that precedes the first target.
    """
    read_BP = read_BP.astype(jnp.int32)
    offset_P = jnp.arange(-lookback, window + 1, dtype=jnp.int32)
    is_input_BP = (offset_P >= -before_B[:, None]) & (offset_P < lengths_B[:, None])
    inputs_BS = jnp.where(is_input_BP, read_BP, 0)[:, :-1]
    offset_T = offset_P[lookback:-1]
    is_target_BT = offset_T < lengths_B[:, None]
    targets_BT = jnp.where(is_target_BT, read_BP[:, lookback + 1 :], 0)
    weights_BT = (is_target_BT & (offset_T >= firsts_B[:, None])).astype(jnp.float32)
    return Batch(inputs_BS, targets_BT, weights_BT, jnp.array(True))
