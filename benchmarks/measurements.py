"""`python -m benchmarks.measurements`: the cost of each measurement during training.

python -m benchmarks.measurements [--quick] [--out FILE.json]

One run of each network is measured at its first step, and takes turns with its training steps, so
that a busy machine slows both. The rows are a table in docs/initlab.md (`make results`).
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks import results_file
from benchmarks.results_file import RESULTS
from charjax import backend
from charjax.config import load_config
from charjax.data.datasets import load_dataset
from charjax.hardware import machine_facts
from charjax.initlab.measurements.catalogue import MEASUREMENTS
from charjax.initlab.measurements.program import MeasuringProgram
from charjax.initlab.sweeps.axes import Axes
from charjax.initlab.sweeps.grid import make_groups
from charjax.initlab.sweeps.program import GroupProgram
from charjax.initlab.sweeps.runner import open_group
from charjax.performance.timing import Slice, take_turns

# Network in words, configuration and overrides.
NETWORKS = (
    (
        "names MLP, 200 hidden units, batch 32",
        "names-mlp-kaiming",
        ("optim.kind=adamw", "optim.schedule=constant"),
    ),
    (
        "GPT, 2 blocks of width 64, context 64, batch 12",
        None,
        (
            *("data.name=names", "data.layout=stream", "model.kind=transformer"),
            *("model.n_layer=2", "model.d_model=64", "model.n_head=2"),
            *("model.context_length=64", "train.batch_size=12"),
        ),
    ),
)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write the JSON; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measurements")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and shorter ones")
    parser.add_argument("--out", metavar="FILE", type=Path, help="(benchmarks/results/...)")
    args = parser.parse_args(argv)
    start, rows = time.monotonic(), []
    for title, source, words in NETWORKS:
        for row in costs(source, words, args.quick):
            rows.append({"network": title, **row})
            print(rows[-1], file=sys.stderr)
    section = {
        "device": "cpu",
        "hardware": machine_facts(),
        "load_average": round(os.getloadavg()[0], 1),
        "seconds": round(time.monotonic() - start, 1),
        "rows": rows,
    }
    flags = " --quick" if args.quick else ""
    command = f"python -m benchmarks.measurements{flags}"
    tree = results_file.document("measurements", command, args.quick, [section], [])
    results_file.write(args.out or RESULTS / "initlab-measurements-cpu.json", tree)
    return 0


def costs(source: str | None, words: tuple[str, ...], quick: bool) -> list[dict[str, Any]]:
    """Return the seconds of a step, and of each measurement of one run, with its compilation."""
    base = load_config(source, list(words))
    devices = backend.start_backend(base.runtime)
    axes = Axes(
        ("kaiming_tanh" if base.model.kind == "mlp" else "gpt2",), (None,), (), (), (), (0,)
    )
    (group,) = make_groups(base, axes)
    program = GroupProgram(group, open_group(group, load_dataset(base.data), devices), 1)
    runs, hyperparameters = program.start(group.points)
    initial, _ = program.start(group.points)
    model, config = program.session.model, group.config
    compiled, works = {}, {"step": Slice(_steps(program), 0.2 if quick else 1.0)}
    for name in MEASUREMENTS:
        if name == "attention_entropy" and not model.has_attention:
            continue
        began = time.monotonic()
        measure = MeasuringProgram((name,), model, config, program.ensemble, program.initial_shapes)
        compiled[name] = time.monotonic() - began

        def run(count: int, measure: MeasuringProgram = measure) -> None:
            for _ in range(count):
                jax.block_until_ready(measure(initial, runs, hyperparameters))

        works[name] = Slice(run, 0.2 if quick else 1.0)
    found = take_turns(works, 2 if quick else 5)
    step = statistics.median(found["step"])
    return [
        {
            "measurement": name,
            "seconds": statistics.median(found[name]),
            "all": found[name],
            "steps": statistics.median(found[name]) / step,
            "compile_seconds": round(seconds, 2),
        }
        for name, seconds in compiled.items()
    ]


def _steps(program: GroupProgram) -> Callable[[int], None]:
    runs, hyperparameters = program.start(program.group.points)

    def run(count: int) -> None:
        nonlocal runs
        runs = program.ensemble.run(runs, hyperparameters, count)
        jax.block_until_ready(runs)

    return run


if __name__ == "__main__":
    sys.exit(main())
