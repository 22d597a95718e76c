"""Long curves as few points that keep every extreme.

Letters: N logged lines, P points.
"""

from typing import NamedTuple

import numpy as np

# The lines at the beginning, where a loss falls fastest, are points of their own.
_FIRST = 200


class Thinned(NamedTuple):
    """A curve of P points; NaN where none of a point's lines has a finite value.

    Attributes:
      low_P: the lowest value of each point's lines.
      mean_P: their mean.
      high_P: the highest.
    """

    low_P: np.ndarray
    mean_P: np.ndarray
    high_P: np.ndarray


def point_starts(lines: int, most: int) -> np.ndarray:
    """Return the first line of each point, (P,) int64, with P at most `most`.

    Each of the first lines is a point where there are more lines than points; the others are
    divided into points of equal length, but for the last.

    Args:
      lines: N.
      most: at least 2.
    """
    if lines <= most:
        return np.arange(lines)
    first = min(_FIRST, most // 2)
    each = -(-(lines - first) // (most - first))
    return np.concatenate([np.arange(first), np.arange(first, lines, each)])


def thin(values_N: np.ndarray, starts_P: np.ndarray) -> Thinned:
    """Reduce the values of consecutive lines to points that begin at `starts_P`."""
    if not starts_P.size:
        empty = np.zeros(0)
        return Thinned(empty, empty, empty)
    values_N = np.where(np.isfinite(values_N), values_N, np.nan)
    count_P = np.add.reduceat(np.isfinite(values_N), starts_P, dtype=np.int64)
    low_P = np.fmin.reduceat(values_N, starts_P)
    high_P = np.fmax.reduceat(values_N, starts_P)
    # Divided first: a sum of large values could overflow.
    lengths_P = np.diff(np.append(starts_P, len(values_N)))
    parts_N = np.nan_to_num(values_N) / np.repeat(np.maximum(count_P, 1), lengths_P)
    mean_P = np.where(count_P > 0, np.add.reduceat(parts_N, starts_P), np.nan)
    # Rounding may leave the mean of equal values outside of them.
    return Thinned(low_P, np.clip(mean_P, low_P, high_P), high_P)
