"""Student's t against SciPy's own intervals and tables."""

import numpy as np
import pytest
from scipy import stats

from charjax.statistics import mean_interval, student_quantile
from charjax.units import bits_per_character


@pytest.mark.parametrize("level", [0.05, 0.01, 0.2])
def test_the_interval_of_a_mean(level):
    values = [2.1, 2.15, 2.07, 2.2]
    found = mean_interval(values, level)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(1 - level)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert (found.n, found.mean) == (4, np.mean(values))
    assert found.std == np.std(values, ddof=1)
    assert found.standard_error == pytest.approx(stats.sem(values), rel=1e-12)


def test_one_value_has_no_interval():
    assert mean_interval([2.5]) == (1, 2.5, None, None, None, None)


def test_the_quantile_is_scipys_to_the_bit():
    for n in (2, 3, 8, 64):
        assert student_quantile(n) == stats.t.ppf(0.975, n - 1)
        assert student_quantile(n, 0.05 / 3) == stats.t.ppf(1 - 0.025 / 3, n - 1)


def test_a_uniform_guess_over_256_symbols_is_8_bits():
    assert bits_per_character(np.log(256)) == pytest.approx(8.0, rel=1e-15)
