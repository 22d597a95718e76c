"""Lines of metrics: their means do not depend on how steps were cut into chunks; their file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charjax.run.metrics import Interval, MetricsFile


@given(cuts=st.sets(st.integers(0, 40)), skipped=st.sets(st.integers(0, 39)))
def test_any_cuts_give_the_bits_of_one_step_after_the_other(cuts: set[int], skipped: set[int]):
    rows = np.random.default_rng(0).lognormal(0, 3, (40, 6)).astype(np.float32)
    rows[:, 4] = [step in skipped for step in range(40)]
    interval, plain = Interval(), Interval()
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        interval.add(rows[first:last])
    for loss, grad_norm, rate, targets, is_skipped, penalty in rows.tolist():
        plain.steps, plain.learning_rate = plain.steps + 1, rate
        if is_skipped:
            plain.skipped += 1
            continue
        plain.loss += loss * targets
        plain.targets += targets
        plain.grad_norm += grad_norm
        plain.penalty += penalty
    assert interval == plain


def test_a_skipped_step_leaves_no_trace_of_its_numbers():
    rows = np.array([[2, 1, 0.1, 4, 0, 0], [np.nan, np.inf, 0.2, 4, 1, np.nan]], np.float32)
    interval = Interval()
    interval.add(rows)
    line = interval.line()
    assert (line["loss"], line["grad_norm"], line["skipped"]) == (2.0, 1.0, 1)
    assert line["learning_rate"] == pytest.approx(0.2)


def test_a_file_that_has_gone_is_not_begun_again(tmp_path: Path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.cut(0, 0)
    metrics.write(1, "train", loss=1.0)
    assert metrics.read() == [{"step": 1, "split": "train", "loss": 1.0}]
    metrics.path.unlink()
    with pytest.raises(FileNotFoundError):
        metrics.write(2, "train", loss=1.0)
    assert not metrics.path.exists()
