"""Batches as a pure function of (seed, step), drawn inside jit from a text on the device.

Letters: N tokens of the split, D documents, W windows, B rows of a batch, T targets per row,
S = lookback + T inputs per row, P = S + 1 characters read for both.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from charjax.data.indices import shuffled_indices, uniform_indices
from charjax.data.splits import Split
from charjax.data.windows import (
    EvalWindows,
    Grid,
    Table,
    check_length,
    evaluation_windows,
    even_windows,
    line_windows,
    shares_boundaries,
    streams,
)
from charjax.random_streams import purpose_key

__all__ = [
    "Batch",
    "BatchSource",
    "EvalWindows",
    "evaluation_windows",
    "gather_windows",
    "make_source",
]

Layout = Literal["stream", "lines", "pairs"]
Sampling = Literal["random", "epoch", "contiguous"]
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
    """

    inputs: Array
    targets: Array
    weights: Array
    restart: Array


def _not_shared(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return function


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["tokens", "key", "windows"],
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
class BatchSource:
    """Source of batches: a pytree, to be passed to jit as an argument.

    Attributes:
      tokens: (N,) uint8, uint16 or uint32, on the device.
      key: the typed PRNG key of this source.
      windows: the windows that can be drawn; with contiguous sampling, the B streams.
      sampling: random, epoch or contiguous.
      batch_size: B.
      window: T.
      lookback: inputs before the one that precedes the first target.
      batches_per_epoch: number of batches in which every window occurs once.
      has_boundaries: token 0 separates the documents, instead of `windows`.
    """

    tokens: Array
    key: Array
    windows: Grid | Table
    sampling: Sampling
    batch_size: int
    window: int
    lookback: int
    batches_per_epoch: int
    has_boundaries: bool

    def steps_per_epoch(self, num_targets: int) -> float:
        """Return the number of steps in which every target occurs once.

        With random sampling it is the number after which as many targets are expected to have been
        drawn as there are.

        Args:
          num_targets: targets of the split.
        """
        if self.sampling != "random":
            return float(self.batches_per_epoch)
        if isinstance(self.windows, Table):
            return self.windows.count / self.batch_size
        return num_targets / (self.batch_size * self.window)

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
        inputs_BS = _from_boundary(batch.inputs) if self.has_boundaries else batch.inputs
        return batch._replace(inputs=inputs_BS, restart=restart)

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


def _from_boundary(inputs_BS: Array) -> Array:
    """Replace everything before a row's last boundary (token 0) by token 0."""
    position_S = jnp.arange(inputs_BS.shape[1], dtype=jnp.int32)
    last_B = jnp.max(jnp.where(inputs_BS == 0, position_S, -1), axis=1)
    return jnp.where(position_S > last_B[:, None], inputs_BS, 0)


def make_source(
    split: Split,
    *,
    layout: Layout,
    sampling: Sampling,
    window: int,
    lookback: int,
    batch_size: int,
    seed: int,
) -> BatchSource:
    """Put a split on the device and return the source of its batches.

    A batch consists of windows of T targets. With `stream`, random windows start anywhere, as in
    nanoGPT; the windows of an epoch are adjacent, the last of a document shorter. With `lines`, the
    windows of a line are adjacent. With `pairs`, every target is one window. `contiguous` sampling
    continues where the previous step ended, in B streams: B equal parts of one document, or one
    document each.

    Args:
      split: tokens and documents. Except with `lines`: one document, documents of equal length
        that share no token (interleaved), or, with `pairs`, lines.
      layout: stream, lines or pairs.
      sampling: random, epoch or contiguous.
      window: T; 1 for pairs.
      lookback: inputs before the one that precedes the first target.
      batch_size: B.
      seed: 0 to 2**32 - 1.

    Raises:
      UserError: the split is shorter than a window, or cannot be read in B streams.
    """
    has_boundaries = layout == "pairs" and shares_boundaries(split)
    if layout != "lines" and not has_boundaries:
        check_length(split, window, lookback if layout == "pairs" else 0)
    windows: Grid | Table
    if layout == "lines":
        windows = line_windows(split, window)
    elif has_boundaries:
        # Every token of the joined lines but the first is a target.
        windows = Grid(1, split.num_targets, 1, split.num_targets, 1)
    elif sampling == "contiguous":
        windows = streams(split, batch_size)
    else:
        windows = even_windows(split, window, stride=1 if sampling == "random" else window)
    if isinstance(windows, Table) and sampling == "contiguous":
        batches = -(-int(windows.lengths.max()) // window)
    else:
        batches = -(-windows.count // batch_size)
    return BatchSource(
        tokens=jnp.asarray(split.tokens),
        key=purpose_key(seed, "batches"),
        windows=windows,
        sampling=sampling,
        batch_size=batch_size,
        window=window,
        lookback=lookback,
        batches_per_epoch=batches,
        has_boundaries=has_boundaries,
    )


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
    offset = jnp.arange(-lookback, window + 1, dtype=jnp.int32)
    at_BP = starts[:, None] + offset
    read_BP = jnp.take(tokens, at_BP, mode="clip").astype(jnp.int32)
    is_input_BP = (at_BP >= doc_starts[:, None]) & (offset < lengths[:, None])
    inputs_BS = jnp.where(is_input_BP, read_BP, 0)[:, :-1]
    offset_T = offset[lookback:-1]
    is_target_BT = offset_T < lengths[:, None]
    targets_BT = jnp.where(is_target_BT, read_BP[:, lookback + 1 :], 0)
    weights_BT = (is_target_BT & (offset_T >= firsts[:, None])).astype(jnp.float32)
    return Batch(inputs_BS, targets_BT, weights_BT, jnp.array(True))
