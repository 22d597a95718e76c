"""Counting n-grams of a long text: time and memory of a whole run, and what pruning leaves.

    python -m benchmarks.counting [--megabytes N] [--order N] [--out FILE.json]

The text is Python's standard library over and over, with 3 % of the characters of every copy
replaced by others of the text at random, so that it keeps having n-grams that are new. `charjax
train model.kind=ngram` counts nine tenths of it, scores all of it and saves the tables. Memory is
the greatest resident set of that process; seconds of the processor are those of all its threads.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results_file
from charjax.config import DataConfig
from charjax.data.datasets import load_dataset
from charjax.hardware import in_words, machine_facts

_REPLACED = 0.03
_VARIANTS = {"every n-gram": (), "model.prune=[0, 0, 0, 1]": ("model.prune=[0, 0, 0, 1]",)}


def main(argv: list[str]) -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counting", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--order", type=int, default=6)
    parser.add_argument("--out", type=Path, default=results_file.RESULTS / "counting-cpu.json")
    args = parser.parse_args(argv)
    if args.order < 4:
        parser.error(f"--order: {args.order} given; at least 4 is needed")
    tree: dict[str, Any] = {
        "benchmark": "counting",
        "command": " ".join(["python -m benchmarks.counting", *argv]),
        "hardware": machine_facts(),
        "megabytes": args.megabytes,
        "order": args.order,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        write_text(text, args.megabytes * 1_000_000)
        for name, words in _VARIANTS.items():
            row = {"name": name, **counted(text, Path(folder) / "run", args.order, words)}
            tree["rows"].append(row)
            print(json.dumps(row), flush=True)
    results_file.write(args.out, tree)
    print(f"on {in_words(tree['hardware'])}: {args.out}")


def write_text(path: Path, size: int) -> None:
    """Write a text of so many bytes."""
    dataset = load_dataset(DataConfig(val_fraction=0.0))
    tokens = dataset.splits["train"].tokens
    symbols = np.frombuffer(
        dataset.tokenizer.decode(np.arange(dataset.tokenizer.vocab_size)).encode(), np.uint8
    )
    once, rng = symbols[tokens], np.random.default_rng(0)
    left = size
    with path.open("wb") as file:
        while left:
            copy = once[:left].copy()
            at = rng.integers(0, copy.size, int(_REPLACED * copy.size))
            copy[at] = rng.choice(once, at.size)
            left -= file.write(copy.tobytes())


def counted(text: Path, workdir: Path, order: int, words: tuple[str, ...]) -> dict[str, Any]:
    """Run `charjax train` on a text; return its costs and losses. The run is removed."""
    run = ["model.kind=ngram", f"model.order={order}", f"data.path={text}", *words]
    command = [sys.executable, "-m", "charjax.train", *run, "--workdir", str(workdir)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    files = [path for path in (workdir / "checkpoints").rglob("*") if path.is_file()]
    found = {
        "seconds": time.perf_counter() - began,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        # In kB on Linux, in bytes on macOS.
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "checkpoint_bytes": sum(path.stat().st_size for path in files),
        **{key: summary[key] for key in ("params", "val_loss", "tokens_per_second")},
    }
    shutil.rmtree(workdir)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
