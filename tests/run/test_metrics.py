"""metrics.jsonl as crashes, bad disks and editors leave it."""

from pathlib import Path

import pytest

from charjax.run.metrics import MetricsFile

BROKEN = {
    "nothing": "",
    "half": '{"step": 2, "spl',
    "zeros": "\0" * 100,
    "another object": "{}",
    "no object": "3",
    "a text for a step": '{"step": "2", "split": "train", "loss": 1.0}',
    "no loss": '{"step": 2, "split": "train"}',
    "a text for a loss": '{"step": 2, "split": "train", "loss": "1.0"}',
    "deep": "[" * 100_000,
    "a long number": '{"step": %s, "split": "train", "loss": 1.0}' % ("9" * 5000),
    "line separators": '{"step": 2, "split": "a\u2028b"',
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_line_costs_no_other(kind: str, tmp_path: Path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.cut(0, 0)
    metrics.write(1, "train", loss=1.0)
    with metrics.path.open("a") as file:
        file.write(f"{BROKEN[kind]}\n")
    metrics.write(3, "val", loss=None)
    metrics.write(4, "train", loss=2.0)
    metrics.cut(3, 3)
    whole = (
        '{"step": 1, "split": "train", "loss": 1.0}\n{"step": 3, "split": "val", "loss": null}\n'
    )
    assert metrics.path.read_text() == whole
