"""The benchmark of counting writes what the page shows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import render_speed

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_small_text(tmp_path: Path):
    out = tmp_path / "counting-cpu.json"
    # By a process of its own: a child's peak is on Linux at least the memory of what started it.
    words = ["--megabytes", "1", "--order", "4", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "benchmarks.counting", *words], cwd=ROOT, check=True)
    tree = json.loads(out.read_text())
    whole, pruned = tree["rows"]
    assert whole["val_loss"] == pytest.approx(pruned["val_loss"], abs=0.1)
    assert 30_000_000 < whole["peak_bytes"] < 1_000_000_000
    assert whole["processor_seconds"] > 0
    assert "| every n-gram |" in render_speed.counting(tmp_path)
    assert "Order 4, 1 MB; `python -m benchmarks.counting --megabytes 1" in render_speed.counting(
        tmp_path
    )


def test_nothing_measured_is_said(tmp_path: Path):
    said = "Not run yet; `python -m benchmarks.counting`."
    assert render_speed.counting(tmp_path) == said
