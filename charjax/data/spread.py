"""Windows to evaluate on where not every target is scored, or not one after the other.

Letters: K windows to evaluate on.
"""

import numpy as np

from charjax.data.splits import Split
from charjax.data.windows import EvalWindows


def spread(table: EvalWindows, most: int) -> EvalWindows:
    """Return some of the windows, at equal distances, that score at most so many targets.

    Args:
      table: the windows.
      most: number of targets, at least 1; the one window that is left may be cut to it.
    """
    scored_K = (table.lengths - table.firsts).astype(np.int64)
    total, windows = int(scored_K.sum()), scored_K.size
    if total <= most:
        return table
    count = max(1, most * windows // total)
    while scored_K[chosen := _evenly(count, windows)].sum() > most and count > 1:
        count -= max(1, count // 64)
    starts, doc_starts, lengths, firsts = (column[chosen] for column in table)
    return EvalWindows(starts, doc_starts, np.minimum(lengths, firsts + most), firsts)


def _evenly(count: int, windows: int) -> np.ndarray:
    """Return the middles of so many equal parts of all windows."""
    return (2 * np.arange(count, dtype=np.int64) + 1) * windows // (2 * count)


def stream_windows(split: Split, streams: int) -> EvalWindows:
    """Return the parts in which a split is read in parallel, each a window of any length.

    They are the documents, where those are as many as the streams. Otherwise each document is cut
    into equal parts, about `streams` in all, in proportion to its length.
    """
    starts, lengths = split.doc_starts, split.doc_lengths
    doc_starts = starts
    if len(starts) < streams:
        counts = np.clip(streams * lengths.astype(np.int64) // lengths.sum(), 1, lengths)
        bounds = [
            np.arange(count + 1) * length // count
            for count, length in zip(counts.tolist(), lengths.tolist(), strict=True)
        ]
        doc_starts = np.repeat(starts, counts)
        starts = doc_starts + np.concatenate([bound[:-1] for bound in bounds])
        lengths = np.concatenate([np.diff(bound) for bound in bounds])
    columns = starts, doc_starts, lengths, np.zeros_like(starts)
    return EvalWindows(*(column.astype(np.int32) for column in columns))


def warmed(table: EvalWindows, warmup: int) -> EvalWindows:
    """Return the windows with up to `warmup` tokens of their document before them, not scored."""
    before_K = np.minimum(table.starts - table.doc_starts, warmup).astype(table.starts.dtype)
    starts, doc_starts, lengths, firsts = table
    return EvalWindows(starts - before_K, doc_starts, lengths + before_K, firsts + before_K)
