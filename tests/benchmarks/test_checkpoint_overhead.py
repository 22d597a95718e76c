"""The benchmark of checkpoints runs the loop as a run does."""

from pathlib import Path

import pytest

from benchmarks.checkpoint_overhead import looping
from benchmarks.workloads import STREAM, make_config, prepare


@pytest.mark.slow
@pytest.mark.parametrize("every", [0, 10])
def test_the_loop_is_timed_with_and_without_checkpoints(tmp_path: Path, every: int):
    training = prepare(make_config(*STREAM, "model.kind=bigram", "train.batch_size=32"))
    before = int(training.state.counters.step)
    looping(training, tmp_path / "run", every)(40)
    assert int(training.state.counters.step) == before + 40
    saved = {path.name for path in (tmp_path / "run" / "checkpoints").glob("*")}
    last = (before + 40) // 10 * 10
    assert saved == ({str(last - 10), str(last)} if every else set())
