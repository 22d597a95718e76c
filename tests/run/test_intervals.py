"""Metrics: means do not depend on the chunks of steps; and their file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charjax.run.metrics import Interval, MetricsFile
from charjax.training.step import Metrics
from charjax.units import TextSize


@given(cuts=st.sets(st.integers(0, 40)), skipped=st.sets(st.integers(0, 39)))
def test_any_cuts_give_the_bits_of_one_step_after_the_other(cuts: set[int], skipped: set[int]):
    rows = np.random.default_rng(0).lognormal(0, 3, (40, 6)).astype(np.float32)
    rows[:, Metrics._fields.index("skipped")] = [step in skipped for step in range(40)]
    interval, plain = Interval(), Interval()
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        interval.add(rows[first:last])
    for row in rows.tolist():
        step = Metrics(*row)
        plain.steps, plain.learning_rate = plain.steps + 1, step.learning_rate
        if step.skipped:
            plain.skipped += 1
            continue
        plain.loss += step.loss * step.targets
        plain.targets += step.targets
        plain.grad_norm += step.grad_norm
        plain.penalty += step.penalty
    assert interval == plain


def test_a_skipped_step_leaves_no_trace_of_its_numbers():
    steps = [
        Metrics(loss=2, grad_norm=1, learning_rate=0.1, targets=4, skipped=0, penalty=0),
        Metrics(np.nan, np.inf, learning_rate=0.2, targets=4, skipped=1, penalty=np.nan),
    ]
    rows = np.array(steps, np.float32)
    interval = Interval()
    interval.add(rows)
    line = interval.line(TextSize(1, 1, 1))
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
