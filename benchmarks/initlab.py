"""Runs of the names MLP trained together in a sweep's program, against the same loop in PyTorch.

    python -m benchmarks.initlab [--quick] [--out FILE.json]

Both train the MLP of Building makemore Part 3 (context 3, embedding 10, hidden 200, batch 32, plain
SGD) on the names, from the same weights: the losses of the first batches agree before the clock
starts. A run-step is one step of one run. PyTorch trains one network, as the lectures do, with a
vectorised gather and updates for all parameters at once; it is given the better of 1 and 2
threads. The two take turns, each in a process of its own (PyTorch may be of another Python, see
benchmarks.peers).
"""

import json
import statistics
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
from charjax import backend, cli
from charjax.config import load_config
from charjax.data.datasets import load_dataset
from charjax.errors import UserError
from charjax.hardware import in_words, machine_facts
from charjax.initlab.sweeps.axes import Axes
from charjax.initlab.sweeps.grid import make_groups
from charjax.initlab.sweeps.program import GroupProgram
from charjax.initlab.sweeps.runner import open_group

CONFIG = "names-mlp-kaiming"
SCHEMES = ("naive", "naive_readout", "naive_hidden", "kaiming_tanh")
RATE = 0.1
REPEATS = 7
# Steps whose losses must be the same in both, and by how much of the loss.
COMPARED, TOLERANCE = 10, 1e-5
# The sweep of which PyTorch has the last run's network.
_COUNT = 64


def main(argv: list[str]) -> int:
    """Measure, print and write down.

    Raises:
      UserError: there is no PyTorch.
      ValueError: the two do not train the same network.
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
    backend.make_device_of_every_core()
    programs = {count: sweep_program(count) for count in (16, 64, 256)}
    section = Section("cpu", args.quick)
    section.facts["hardware"] = machine_facts()
    python = find_torch(section)
    if python is None:
        raise UserError(f"PyTorch: {section.left_out[-1]['why']}")
    peer = Apart(python, "benchmarks.initlab_torch", count=_COUNT)
    try:
        difference = compare(first_losses(programs[_COUNT]), peer.facts["losses"])
        works, at_once = {}, {}
        for count, program in programs.items():
            name = f"charjax, {count} runs"
            works[name], at_once[name] = Slice(sweeping(program), seconds), count
        for threads in (1, 2):
            name = f"PyTorch, {threads} thread{'s' if threads > 1 else ''}"
            works[name], at_once[name] = Slice(peer.with_threads(threads), seconds), 1
        taken = take_turns(works, 2 if args.quick else REPEATS)
    finally:
        peer.close()
    speeds = {name: [at_once[name] / each for each in values] for name, values in taken.items()}
    results = summarise(speeds)
    results |= {"loss_difference": difference, "hardware": section.facts["hardware"]}
    show(results)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def sweep_program(count: int) -> GroupProgram:
    """What a sweep compiles for so many runs: four schemes, the seeds 0, 1, ..."""
    base = load_config(CONFIG, [f"optim.learning_rate={RATE}"])
    devices = backend.start_backend(base.runtime)
    seeds = tuple(range(count // len(SCHEMES)))
    (group,) = make_groups(base, Axes(SCHEMES, (None,), (), (), (), seeds))
    session = open_group(group, load_dataset(base.data), devices)
    return GroupProgram(group, session, count)


def sweeping(program: GroupProgram) -> Callable[[int], None]:
    """n steps of all runs."""
    runs, numbers = program.start(program.group.points)

    def run(count: int) -> None:
        nonlocal runs
        runs = program.ensemble.run(runs, numbers, count)
        jax.block_until_ready(runs)

    return run


def first_losses(program: GroupProgram) -> list[float]:
    """The last run's loss in each of the first steps."""
    runs, numbers = program.start(program.group.points)
    losses = []
    for _ in range(COMPARED):
        runs = program.ensemble.run(runs.emptied(), numbers, 1)
        losses.append(float(runs.losses[-1] / runs.targets[-1]))
    return losses


def compare(ours: list[float], theirs: list[float]) -> float:
    """The largest difference of two lists of losses, as a part of the loss.

    Raises:
      ValueError: it is above 1e-5.
    """
    # NumPy's maximum of a NaN is one.
    worst = float(np.max(np.abs(np.subtract(ours, theirs)) / theirs))
    if not worst <= TOLERANCE:
        raise ValueError(f"the losses differ by {worst:.1e} of themselves")
    return worst


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
