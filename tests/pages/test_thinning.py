"""Thinned curves keep every extreme of the lines that they stand for."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax.pages.curves import MOST_POINTS, curves
from charjax.pages.thinning import point_starts, thin

VALUES = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(-5, 5))


@settings(max_examples=200)
@given(st.lists(VALUES, max_size=400), st.integers(2, 60))
def test_extremes_are_kept(values: list[float], most: int) -> None:
    values_N = np.array(values, np.float64)
    starts_P = point_starts(len(values), most)
    thinned = thin(values_N, starts_P)
    assert len(starts_P) <= max(most, 0)
    assert len(thinned.mean_P) == len(starts_P)
    ends_P = [*starts_P[1:], len(values)][: len(starts_P)]
    for low, mean, high, begin, end in zip(*thinned, starts_P, ends_P, strict=True):
        finite = [value for value in values[begin:end] if math.isfinite(value)]
        if finite:
            assert (low, high) == (min(finite), max(finite))
            assert low <= mean <= high
        else:
            assert np.isnan([low, mean, high]).all()


@given(st.integers(0, 5000), st.integers(2, 300))
def test_every_line_is_in_one_point(lines: int, most: int) -> None:
    starts_P = point_starts(lines, most)
    assert len(starts_P) == (lines if lines <= most else len(starts_P)) <= most
    assert (np.diff(starts_P) > 0).all()
    assert lines == 0 or (starts_P[0], starts_P[-1] < lines) == (0, True)


def test_the_mean_is_the_mean() -> None:
    values_N = np.array([1.0, 2.0, 6.0, np.nan, 4.0, 8.0])
    thinned = thin(values_N, np.array([0, 3]))
    np.testing.assert_allclose(thinned.mean_P, [3.0, 6.0])


def lines_of(count: int) -> list[dict[str, object]]:
    return [
        {"step": step, "split": "train", "loss": 1.0 + (step == 54_321), "learning_rate": 0.1}
        for step in range(1, count + 1)
    ]


def test_a_single_high_value_among_many_lines_is_there() -> None:
    found = curves(lines_of(100_000))["train"]
    assert found["lines"] == 100_000
    assert len(found["step"]) <= MOST_POINTS
    assert max(found["loss"]["high"]) == 2.0
    place = found["loss"]["high"].index(2.0)
    assert abs(found["step"][place] - 54_321) < 60
    # Nothing to keep: a constant is one column.
    assert set(found["learning_rate"]) == {"mean"}
    assert found["grad_norm"]["mean"] == [None] * len(found["step"])


def test_short_curves_are_drawn_line_by_line() -> None:
    found = curves(lines_of(MOST_POINTS))["train"]
    assert found["step"] == list(range(1, MOST_POINTS + 1))
    assert set(found["loss"]) == {"mean"}


def test_damaged_lines_make_no_curve_impossible() -> None:
    lines: list[dict[str, object]] = [
        {"step": 5, "split": "train", "loss": 1.5, "grad_norm": "high", "learning_rate": True},
        {"step": 2, "split": "train", "loss": None, "grad_norm": [1], "tokens_per_second": 1e999},
        {"step": 5, "split": "train", "loss": 1.25},
        {"step": 10**30, "split": "train", "loss": 7.0},
    ]
    found = curves(lines)["train"]
    assert found["step"] == [2, 5]
    assert found["loss"]["mean"] == [None, 1.25]
    assert found["grad_norm"]["mean"] == [None, None]
    assert found["tokens_per_second"]["mean"] == [None, None]
