"""The memory of long runs and of large saves does not grow with them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

# Prints the bytes that each part adds to the process's peak, for a state of 400 MB.
_SAVE_AND_RESTORE = """
import sys
import jax, numpy as np
from charjax.run.checkpoint import Checkpoints

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

def small():
    return {"step": np.int32(3)}

store = Checkpoints(sys.argv[1], keep=1)
store.save(1, small(), {})
store.wait()
state = {f"leaf{i}": np.full((2_500_000,), i, np.float32) for i in range(40)}
like = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in state.items()}
before = peak()
store.save(2, state, {})
store.close()
saving = peak() - before
del state, store
before = peak()
found, _, _ = Checkpoints(sys.argv[1]).restore("latest", like)
print(saving, peak() - before)
assert float(found["leaf39"][-1]) == 39.0
"""


@LINUX
@pytest.mark.slow
def test_a_save_adds_one_copy_of_the_state_and_a_restore_less(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", _SAVE_AND_RESTORE, str(tmp_path)],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    saving, restoring = map(int, done.stdout.split())
    # The copy that lets training go on, a piece that is joined and what is being written; and 14
    # bytes per parameter where 12 are saved.
    assert 350e6 < saving < 400e6 * 14 / 12 + 50e6
    # The state was freed before: so the peak, twice its size, is not reached again.
    assert restoring < 100e6


@LINUX
@pytest.mark.slow
@pytest.mark.longest
def test_a_hundred_thousand_steps_take_no_more_memory_than_twenty_thousand(tmp_path: Path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    words = ["model.kind=bigram", "data.path=text.txt", "train.log_every=1", "eval.every=5000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "charjax.train", *words, "train.steps=100000", "--workdir", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
    )
    sizes: list[tuple[int, int]] = []
    while process.poll() is None:
        if (step := _last_step(tmp_path / "run" / "metrics.jsonl")) is not None:
            sizes.append((step, _resident(process.pid)))
        time.sleep(0.1)
    assert process.returncode == 0
    early = [size for step, size in sizes if 10_000 <= step <= 20_000]
    late = [size for step, size in sizes if 90_000 <= step < 100_000]
    assert early, sizes
    assert late, sizes
    assert max(late) - min(early) < 10e6


def _last_step(metrics: Path) -> int | None:
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 2000))
            return int(json.loads(file.read().splitlines()[-1])["step"])
    except (OSError, ValueError, IndexError):
        return None


def _resident(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmRSS")), 0)
