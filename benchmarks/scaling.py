"""Weak scaling: one process on one core against several with a core and a batch each.

    python -m benchmarks.scaling [--processes N] [--repeats N] [--steps N] [--out FILE.json]

The GPT of `nanogpt-cpu` (4 layers) is trained by `charjax train`: by one process of
one core, and by N processes of one core each, with N times the batch. Each has the same work,
and they add up gradients once per step. The two take turns. Efficiency is the time per step of one
process over that of N: the median of the rates that the run writes after its first 100 steps, in
which the processes wait for the slowest to compile, and connect. What they agree on between chunks
counts.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import results_file
from charjax.config import load_config
from charjax.hardware import in_words, machine_facts
from charjax.performance.timing import summary

_CONFIG, _ROWS = "nanogpt-cpu", 12
_SECONDS = 1800
# Steps that are not measured.
_FIRST = 100
_WORDS = (
    *("eval.protocol=random", "eval.batches=1", "eval.every=0", "checkpoint.every=0"),
    *("train.sample_every=0", "train.log_every=20"),
)


def main(argv: list[str]) -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=results_file.RESULTS / "scaling-cpu.json")
    args = parser.parse_args(argv)
    if args.steps < 2 * _FIRST:
        parser.error(f"--steps: {args.steps} given; at least {2 * _FIRST} are needed")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < args.processes:
        parser.error(f"--processes: {args.processes} given, and there are {len(cores)} cores")
    found: dict[int, list[float]] = {1: [], args.processes: []}
    for turn in range(args.repeats):
        for count, seconds in found.items():
            seconds.append(seconds_per_step(cores[:count], args.steps))
            print(f"{turn + 1}: {count} processes, {seconds[-1]:.4f} s per step", flush=True)
    one, several = found.values()
    tree = result(args, argv, one, several)
    results_file.write(args.out, tree)
    efficiency = tree["efficiency"]
    print(f"efficiency {efficiency['median']:.3f} on {in_words(tree['hardware'])}: {args.out}")


def result(
    args: argparse.Namespace, argv: list[str], one: list[float], several: list[float]
) -> dict[str, Any]:
    """Return the JSON of a measurement; the efficiency is that of each turn."""
    return {
        "benchmark": "scaling",
        "command": " ".join(["python -m benchmarks.scaling", *argv]),
        "hardware": machine_facts(),
        "config": _CONFIG,
        "rows_per_process": _ROWS,
        "steps": args.steps,
        "processes": args.processes,
        "seconds_per_step": {"1": summary(one), str(args.processes): summary(several)},
        "efficiency": summary([a / b for a, b in zip(one, several, strict=True)]),
    }


def seconds_per_step(cores: list[int], steps: int) -> float:
    """Train once with a process on each of some cores; return the time per step."""
    count = len(cores)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{opened.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        words = [_CONFIG, *_WORDS, f"train.steps={steps}", f"train.batch_size={_ROWS * count}"]
        started = []
        for index, core in enumerate(cores):
            flags = ["--processes", count, "--process", index, "--coordinator", address]
            command = [*words, "--workdir", directory, *(flags if count > 1 else [])]
            started.append(_start(command, core))
        statuses = [process.wait(_SECONDS) for process in started]
        if any(statuses):
            raise SystemExit(f"a run of {count} processes ended with {statuses}")
        text = (directory / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    rates = [
        line["tokens_per_second"]
        for line in lines
        if line["split"] == "train" and line["step"] > _FIRST
    ]
    # Every window is full.
    context = load_config(_CONFIG, []).model.context_length
    assert context is not None
    targets = context * _ROWS * count
    return float(targets / statistics.median(rates))


def _start(words: list[Any], core: int) -> subprocess.Popen[bytes]:
    """Start `charjax train` on one core."""
    command = [sys.executable, "-m", "charjax.train", *map(str, words)]
    before = os.sched_getaffinity(0)
    # A child inherits the cores.
    os.sched_setaffinity(0, {core})
    try:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    main(sys.argv[1:])
