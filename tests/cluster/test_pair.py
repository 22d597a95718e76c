"""A run of two real processes: the files of one process, a stop, and a resumed run."""

import json
import signal
from pathlib import Path

from charjax import train
from tests.several import Several, largest_difference, last_step


def test_a_pair_trains_stops_and_is_resumed_by_one(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat and ran off\n" * 60)
    words = [
        *("model.kind=bigram", "train.steps=20000", "train.log_every=500", "train.batch_size=4"),
        *("checkpoint.every=10000", "eval.every=10000", "model.context_length=8"),
        f"data.path={tmp_path / 'text.txt'}",
    ]
    pair, alone = tmp_path / "pair", tmp_path / "alone"
    with Several(tmp_path, 2, [*words, "--workdir", pair]) as several:
        several.until(lambda: last_step(pair) >= 2000)
        several.started[1].process.send_signal(signal.SIGTERM)
        assert several.wait(60) == [143, 143], several.report()
        first, second = several.started
        assert "stopped by SIGTERM" in first.out.read_text()
        assert (second.out.read_text(), first.errors, second.errors) == ("", [], [])
    steps = {path.name for path in (pair / "checkpoints").iterdir()}
    assert steps == {str(last) for last in [max(map(int, steps))]} != {"20000"}
    assert train.main([*words, "--workdir", str(pair), "--resume"]) == 0
    assert train.main([*words, "--workdir", str(alone)]) == 0
    assert largest_difference(pair, alone) < 1e-5
    assert json.loads((pair / "summary.json").read_text())["steps"] == 20000
