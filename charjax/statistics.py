"""Student's t: its quantiles, and the interval of a mean."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special


class MeanInterval(NamedTuple):
    """A mean and Student's interval of it.

    Attributes:
      n: number of values.
      mean: their mean.
      std: their standard deviation, with n - 1 degrees of freedom; None for one value.
      standard_error: of the mean; None for one value.
      low: lower end of the interval; None for one value.
      high: upper end; None for one value.
    """

    n: int
    mean: float
    std: float | None
    standard_error: float | None
    low: float | None
    high: float | None


def student_quantile(n: int, level: float = 0.05) -> float:
    """Return the quantile of Student's t that makes a two-sided interval of `n` values.

    Args:
      n: number of values, at least 2; the degrees of freedom are n - 1.
      level: probability outside the interval, both sides together.
    """
    return float(special.stdtrit(n - 1, 1 - level / 2))


def mean_interval(values_N: ArrayLike, level: float = 0.05) -> MeanInterval:
    """Return the mean of values (N,), N >= 1, and its two-sided interval at `level`."""
    data_N = np.asarray(values_N, np.float64)
    n, mean = data_N.size, float(data_N.mean())
    if n == 1:
        return MeanInterval(n, mean, None, None, None, None)
    std = float(data_N.std(ddof=1))
    half = student_quantile(n, level) * std / math.sqrt(n)
    return MeanInterval(n, mean, std, std / math.sqrt(n), mean - half, mean + half)
