"""The windows that the batches of a run consist of, wherever its text is.

Letters: W windows, B rows of a batch, T targets per row.
"""

import dataclasses
from typing import Literal

from jax import Array

from charjax.data.splits import Split
from charjax.data.windows import (
    Grid,
    Table,
    check_length,
    even_windows,
    line_windows,
    shares_boundaries,
    streams,
)
from charjax.random_streams import purpose_key

Layout = Literal["stream", "lines", "pairs"]
Sampling = Literal["random", "epoch", "contiguous"]


@dataclasses.dataclass(frozen=True)
class Draws:
    """The windows that the batches of a run consist of, and how they are drawn.

    Attributes:
      key: the typed PRNG key of this source.
      windows: the windows that can be drawn; with contiguous sampling, the B streams.
      sampling: random, epoch or contiguous.
      batch_size: B.
      window: T.
      lookback: inputs before the one that precedes the first target.
      batches_per_epoch: number of batches in which every window occurs once.
      has_boundaries: token 0 separates the documents, instead of `windows`.
    """

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


def find_draws(
    split: Split,
    *,
    layout: Layout,
    sampling: Sampling,
    window: int,
    lookback: int,
    batch_size: int,
    seed: int,
) -> Draws:
    """Return the windows of a split and how batches of them are drawn.

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
    return Draws(
        key=purpose_key(seed, "batches"),
        windows=windows,
        sampling=sampling,
        batch_size=batch_size,
        window=window,
        lookback=lookback,
        batches_per_epoch=batches,
        has_boundaries=has_boundaries,
    )
