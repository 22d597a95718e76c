"""Windows: the positions in a text from which the rows of a batch are read.

Letters: D documents, W windows to train on, K windows to evaluate on, B rows of a batch, T targets
per window.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax.data.splits import Split
from charjax.errors import UserError

# Of JAX inside a program, or of NumPy on the host.
A = TypeVar("A", Array, np.ndarray)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Grid:
    """Windows at equal distances in documents of equal length: no table in memory.

    Attributes:
      documents: D, consecutive, each with one token more than it has targets.
      length: targets per document.
      stride: distance between the starts of successive windows.
      per_document: windows per document.
      window: T.
    """

    documents: int
    length: int
    stride: int
    per_document: int
    window: int

    @property
    def count(self) -> int:
        """Number of windows, W."""
        return self.documents * self.per_document

    def locate(self, index_B: A) -> tuple[A, A, A]:
        """Return the document's start, the start and the length of each window, (B,)."""
        within_B = index_B % self.per_document * self.stride
        doc_starts_B = index_B // self.per_document * (self.length + 1)
        lengths_B = (self.length - within_B).clip(max=self.window)
        return doc_starts_B, doc_starts_B + within_B, lengths_B


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["doc_starts", "starts", "lengths"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Table:
    """Windows listed one by one: (W,) each, int64 on the host and int32 on the device.

    Attributes:
      doc_starts: first token of the window's document.
      starts: first input of the window.
      lengths: targets of the window.
    """

    doc_starts: Any
    starts: Any
    lengths: Any

    @property
    def count(self) -> int:
        """Number of windows, W."""
        return int(self.starts.shape[0])

    def locate(self, index_B: A) -> tuple[A, A, A]:
        """Return the document's start, the start and the length of each window, (B,)."""
        return self.doc_starts[index_B], self.starts[index_B], self.lengths[index_B]


def even_windows(split: Split, window: int, *, stride: int) -> Grid:
    """Return windows `stride` apart in documents of equal length that share no token.

    With stride 1 all are full; with larger strides the last window of a document may be shorter.
    """
    documents, length = len(split.doc_starts), int(split.doc_lengths[0])
    expected = np.arange(documents) * (length + 1)
    if (split.doc_lengths != length).any() or (split.doc_starts != expected).any():
        raise ValueError("documents of unequal length; use the layout of lines")
    per_document = length - window + 1 if stride == 1 else -(-length // stride)
    return Grid(documents, length, stride, per_document, window)


def on_device(windows: Grid | Table) -> Grid | Table:
    """Return windows as a program reads them, for a text of fewer than 2**31 tokens."""
    return windows if isinstance(windows, Grid) else jax.tree.map(_to_int32, windows)


def _to_int32(column: np.ndarray) -> Array:
    return jnp.asarray(column, jnp.int32)


class EvalWindows(NamedTuple):
    """Windows that together score every target of a split once; (K,) int64 each.

    Attributes:
      starts: first input of the window.
      doc_starts: first token of its document.
      lengths: targets of the window.
      firsts: index of the first target that is scored.
    """

    starts: np.ndarray
    doc_starts: np.ndarray
    lengths: np.ndarray
    firsts: np.ndarray


def evaluation_windows(split: Split, *, window: int, stride: int) -> EvalWindows:
    """Return windows of `window` targets, `stride` apart; each scores its new targets only.

    Args:
      split: tokens and documents.
      window: largest number of targets per window.
      stride: 1 to `window`.
    """
    following = np.maximum(split.doc_lengths - window, 0)
    counts_D = 1 + -(-following // stride)
    document_K = np.repeat(np.arange(len(counts_D)), counts_D)
    number_K = np.arange(len(document_K)) - (np.cumsum(counts_D) - counts_D)[document_K]
    doc_starts_K = split.doc_starts[document_K]
    lengths_K = np.minimum(split.doc_lengths[document_K] - number_K * stride, window)
    firsts_K = np.where(number_K > 0, window - stride, 0)
    columns = (doc_starts_K + number_K * stride, doc_starts_K, lengths_K, firsts_K)
    return EvalWindows(*(column.astype(np.int64, copy=False) for column in columns))


def line_windows(split: Split, window: int) -> Table:
    """Return one window per line; a line longer than the window continues in further windows."""
    table = evaluation_windows(split, window=window, stride=window)
    return _table(table.doc_starts, table.starts, table.lengths)


def streams(split: Split, batch_size: int) -> Table:
    """Return B streams to read in parallel: B equal parts of one document, or one document each.

    Raises:
      UserError: B is not the number of documents, or exceeds the targets of the one document.
    """
    documents = len(split.doc_starts)
    if documents > 1:
        if batch_size != documents:
            raise UserError(
                f"train.batch_size: {batch_size} rows given (with optim.accumulate_steps), but the "
                f"{split.name} part has {documents} streams and contiguous sampling reads each in "
                f"a separate row; use {documents} rows, or set data.rows"
            )
        return _table(split.doc_starts, split.doc_starts, split.doc_lengths)
    targets = int(split.doc_lengths[0])
    if batch_size > targets:
        raise UserError(
            f"train.batch_size: {batch_size} rows given (with optim.accumulate_steps), but the "
            f"{split.name} part has only {targets} characters to predict; use fewer rows, or "
            "give a longer text"
        )
    bounds = np.arange(batch_size + 1) * targets // batch_size
    start = split.doc_starts[0]
    return _table(np.full(batch_size, start), start + bounds[:-1], np.diff(bounds))


def _table(doc_starts: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Table:
    columns = (doc_starts, starts, lengths)
    return Table(*(column.astype(np.int64, copy=False) for column in columns))


def shares_boundaries(split: Split) -> bool:
    """Return True if the documents are lines: the end of each is the start of the next."""
    ends = split.doc_starts + split.doc_lengths
    return len(ends) > 1 and bool((ends[:-1] == split.doc_starts[1:]).all())


def check_length(split: Split, window: int, lookback: int) -> None:
    """Check that the shortest document has room for a whole window.

    Raises:
      UserError: it is shorter than the window and its lookback.
    """
    length, needed = int(split.doc_lengths.min()), window + lookback
    if length < needed:
        where = "each of its rows" if len(split.doc_lengths) > 1 else "it"
        raise UserError(
            f"model.context_length: {needed} given, but the {split.name} part of the text is too "
            f"short: {where} has {length} characters to predict; lower model.context_length, give "
            "a longer text, or change data.val_fraction"
        )
