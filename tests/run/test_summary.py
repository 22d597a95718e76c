"""The end of a run: summary.json, the last lines, the exit status."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from charjax.run.progress import Progress
from charjax.run.summary import Summary


def make(
    val: float | None = 1.0, test: float | None = None, skipped: int = 0, fitted: bool = False
) -> Summary:
    tokenizer = SimpleNamespace(vocab_size=5)
    session: Any = SimpleNamespace(
        model=SimpleNamespace(fitted=fitted),
        dataset=SimpleNamespace(tokenizer=tokenizer),
        steps_per_epoch=4.0,
    )
    state: Any = SimpleNamespace(counters=SimpleNamespace(skipped=np.int32(skipped)))
    progress = Progress(
        val_loss=val,
        best_val_loss=0.5,
        best_step=8,
        seconds=2.0,
        targets=4000.0,
        scored=900.0,
        scoring_seconds=3.0,
    )
    return Summary(session, 10, state, progress, test)


@pytest.mark.parametrize(
    ("val", "test", "status", "warned"),
    [
        (1.0, None, 0, None),
        (None, None, 0, None),
        (1.0, 1.0, 0, None),
        (2.0, None, 0, "the validation loss ended above ln V"),
        (1.0, 2.0, 0, "the test loss ended above ln V"),
        (math.nan, None, 1, "the validation loss is not finite"),
        (1.0, math.inf, 1, "the test loss is not finite"),
        (2.0, math.inf, 1, "the validation loss ended above ln V"),
    ],
)
def test_status_and_warning(val: float, test: float, status: int, warned: str | None):
    summary = make(val, test)
    assert summary.exit_status() == status
    warning = summary.warning()
    assert warning is None if warned is None else str(warning).startswith(warned)


def test_the_last_line_of_a_trained_run():
    line = "done: steps 10, epochs 2.50, best val 0.5000 at step 8, 2,000 tokens/s"
    assert make().describe() == line
    line = (
        "done: steps 10, 1,200 of them skipped (loss or gradient not finite), "
        "epochs 2.50, best val 0.5000 at step 8, test 1.2500, 2,000 tokens/s"
    )
    assert make(skipped=1200, test=1.25).describe() == line


def test_the_last_line_of_a_fitted_run():
    line = (
        "done: steps 10, best val 0.5000 at step 8, counting 2,000 tokens/s, scoring 300 tokens/s"
    )
    assert make(fitted=True).describe() == line
