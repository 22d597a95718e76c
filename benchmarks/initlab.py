"""Runs of the names MLP trained together in a sweep's program, against the same loop in PyTorch.

    python -m benchmarks.initlab [--quick] [--out FILE.json]

Both train the MLP of nn-zero-to-hero part 3 (context 3, embedding 10, hidden 200, batch 32, plain
SGD) on the names, from the same weights: the losses of the first batches agree before the clock
starts. A run-step is one step of one run. PyTorch trains one network, as the lectures do, with a
vectorised gather and updates for all parameters at once; it is given the better of 1 and 2
threads. The two take turns, each in a process of its own (PyTorch may be of another Python, see
benchmarks.peers).
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.apart import Apart, find_torch
from benchmarks.section import Section
from benchmarks.timing import Slice, take_turns
from charjax import cli, parallel
from charjax.config import load_config
from charjax.data.datasets import load_dataset
from charjax.errors import UserError
from charjax.hardware import hardware, in_words
from charjax.initlab.sweeps.axes import Axes
from charjax.initlab.sweeps.grid import make_groups
from charjax.initlab.sweeps.program import GroupProgram
from charjax.initlab.sweeps.runner import open_group

CONFIG = "names-mlp-kaiming"
SCHEMES = ("naive", "naive_readout", "naive_hidden", "kaiming_tanh")
RATE = 0.1
REPEATS = 7


def main(argv: list[str]) -> int:
    """Measure, print and write down.

    Raises:
      UserError: there is no PyTorch.
    """
    parser = cli.Parser(
        prog="python -m benchmarks.initlab",
        usage="%(prog)s [--quick] [--out FILE.json]",
        description=__doc__ or "",
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats and shorter ones")
    parser.add_argument("--out", metavar="FILE.json", type=Path)
    args = parser.parse_args(argv)
    seconds = 0.3 if args.quick else 2.0
    parallel.make_device_of_every_core()
    programs = {count: sweep_program(count) for count in (16, 64, 256)}
    section = Section("cpu", args.quick)
    section.facts["hardware"] = hardware()
    python = find_torch(section)
    if python is None:
        raise UserError(f"PyTorch: {section.left_out[-1]['why']}")
    peer = Apart(python, "benchmarks.initlab_torch", count=64)
    try:
        works = {
            f"charjax, {count} runs": sweep_clock(program, seconds)
            for count, program in programs.items()
        }
        for threads in (1, 2):
            name = f"PyTorch, {threads} thread{'s' if threads > 1 else ''}"
            works[name] = _steps_a_second(Slice(peer.with_threads(threads), seconds))
        speeds = take_turns(works, 2 if args.quick else REPEATS)
    finally:
        peer.close()
    results = summarise(speeds) | peer.facts | {"hardware": section.facts["hardware"]}
    show(results)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _steps_a_second(work: Slice) -> Callable[[], float]:
    return lambda: 1 / work()


def sweep_program(count: int) -> GroupProgram:
    """What a sweep compiles for so many runs: four schemes, the seeds 0, 1, ..."""
    base = load_config(CONFIG, [f"optim.learning_rate={RATE}"])
    devices = parallel.start_backend(base.runtime)
    seeds = tuple(range(count // len(SCHEMES)))
    (group,) = make_groups(base, Axes(SCHEMES, (None,), (), (), (), seeds))
    session = open_group(group, load_dataset(base.data), devices)
    return GroupProgram(group, session, count)


def sweep_clock(program: GroupProgram, seconds: float) -> Callable[[], float]:
    """A function that trains for about so long and tells run-steps a second."""
    runs, numbers = program.begin(program.group.points)
    steps = 20

    def run() -> float:
        nonlocal runs, steps
        began = time.perf_counter()
        runs = program.stack.run(runs, numbers, steps)
        jax.block_until_ready(runs)
        taken = time.perf_counter() - began
        speed = steps * program.count / taken
        steps = max(20, int(steps * seconds / taken))
        return speed

    run()
    run()
    return run


def summarise(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Every repeat, medians, and the ratio of the best of each side."""
    rows = [
        {
            "name": name,
            "run_steps_per_second": values,
            "median": statistics.median(values),
            "quartiles": [float(np.quantile(values, q)) for q in (0.25, 0.75)],
        }
        for name, values in speeds.items()
    ]
    best = {
        side: max((row["median"], row["name"]) for row in rows if row["name"].startswith(side))
        for side in ("charjax", "PyTorch")
    }
    return {
        "command": "python -m benchmarks.initlab",
        "rows": rows,
        "ratio": best["charjax"][0] / best["PyTorch"][0],
        "best": {side: name for side, (_, name) in best.items()},
    }


def show(results: dict[str, Any]) -> None:
    """A table."""
    table = Table(title=f"names MLP, run-steps a second ({in_words(results['hardware'])})")
    for column in ("", "median", "quartiles"):
        table.add_column(column, justify="left" if not column else "right")
    for row in results["rows"]:
        low, high = row["quartiles"]
        table.add_row(row["name"], f"{row['median']:,.0f}", f"{low:,.0f} to {high:,.0f}")
    console = Console()
    console.print(table)
    console.print(f"best against best: {results['ratio']:.2f} x", highlight=False)


if __name__ == "__main__":
    cli.run(main)
