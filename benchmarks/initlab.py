"""Speed of a sweep's program: runs of the names MLP at once, against the loop in PyTorch.

    python -m benchmarks.initlab [--quick] [--out FILE.json]

Both train the MLP of Building makemore Part 3 (context 3, embedding 10, hidden 200, batch 32, plain
SGD) on the names, from the same weights: the losses of the first batches agree before the clock
starts. A run-step is one step of one run. PyTorch trains one network, as the makemore lectures do,
with a vectorised gather and one update of all parameters, by the better of 1 and 2 threads. The two
take turns in separate processes (PyTorch may be another Python's, see benchmarks.peers). Where
charjax-kernels is installed, the programs that it trains have rows of their own.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from benchmarks import results_file
from benchmarks.section import Section
from benchmarks.subprocess_worker import find_torch, start
from charjax import backend, cli
from charjax.config import load_config
from charjax.data.datasets import load_dataset
from charjax.errors import UserError
from charjax.hardware import in_words, machine_facts
from charjax.initlab.sweeps.axes import Axes
from charjax.initlab.sweeps.grid import make_groups
from charjax.initlab.sweeps.program import GroupProgram
from charjax.initlab.sweeps.runner import open_group
from charjax.ops.kernels import kernels_in_words
from charjax.performance.show import make_table
from charjax.performance.timing import Slice, take_turns

CONFIG = "names-mlp-kaiming"
SCHEMES = ("naive", "naive_readout", "naive_hidden", "kaiming_tanh")
RATE = 0.1
REPEATS = 7
# Steps whose losses must agree, and the relative tolerance.
COMPARED, TOLERANCE = 10, 1e-5
# Runs at once.
COUNTS = (16, 64, 256)
# PyTorch has the network of the last run of this sweep.
_COUNT = 64


def main(argv: list[str]) -> int:
    """Measure, print and save.

    Raises:
      UserError: PyTorch is not installed.
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
    kernels = kernels_in_words()
    programs = {
        ("charjax with kernels" if with_kernels else "charjax", count): sweep_program(
            count, uses_kernels=with_kernels
        )
        for with_kernels in ([False, True] if kernels else [False])
        for count in COUNTS
    }
    section = Section("cpu", args.quick)
    section.facts["hardware"] = machine_facts()
    python = find_torch(section)
    if python is None:
        raise UserError(f"PyTorch: {section.left_out[-1]['why']}")
    peer = start(python, "benchmarks.initlab_torch", count=_COUNT)
    try:
        difference = max(
            compare(first_losses(program), peer.facts["losses"])
            for (_, count), program in programs.items()
            if count == _COUNT
        )
        works, at_once = {}, {}
        for (side, count), program in programs.items():
            name = f"{side}, {count} runs"
            works[name], at_once[name] = Slice(sweeping(program), seconds), count
        for threads in (1, 2):
            name = f"PyTorch, {threads} thread{'s' if threads > 1 else ''}"
            works[name], at_once[name] = Slice(peer.with_threads(threads), seconds), 1
        seconds_per_step = take_turns(works, 2 if args.quick else REPEATS)
    finally:
        peer.close()
    speeds = {
        name: [at_once[name] / each for each in values] for name, values in seconds_per_step.items()
    }
    results = summarise(speeds)
    results |= {"loss_difference": difference, "hardware": section.facts["hardware"]}
    if kernels:
        results["kernels"] = kernels
    show(results)
    if args.out:
        results_file.write(args.out, results)
    return 0


def sweep_program(count: int, *, uses_kernels: bool = False) -> GroupProgram:
    """Compile a sweep's program for so many runs: four schemes, the seeds 0, 1, ..."""
    base = load_config(CONFIG, [f"optim.learning_rate={RATE}"])
    devices = backend.start_backend(base.runtime)
    seeds = tuple(range(count // len(SCHEMES)))
    (group,) = make_groups(base, Axes(SCHEMES, (None,), (), (), (), seeds))
    session = open_group(group, load_dataset(base.data), devices)
    return GroupProgram(group, session, count, uses_kernels=uses_kernels)


def sweeping(program: GroupProgram) -> Callable[[int], None]:
    """Return a function that does n steps of all runs."""
    runs, numbers = program.start(program.group.points)

    def run(count: int) -> None:
        nonlocal runs
        runs = program.ensemble.run(runs, numbers, count)
        jax.block_until_ready(runs)

    return run


def first_losses(program: GroupProgram) -> list[float]:
    """Return the last run's loss in each of the first steps."""
    runs, numbers = program.start(program.group.points)
    losses = []
    for _ in range(COMPARED):
        runs = program.ensemble.run(runs.emptied(), numbers, 1)
        losses.append(float(runs.losses[-1] / runs.targets[-1]))
    return losses


def compare(ours: list[float], theirs: list[float]) -> float:
    """Return the largest relative difference of two lists of losses.

    Raises:
      ValueError: it is above 1e-5, or not a number.
    """
    worst = float(np.max(np.abs(np.subtract(ours, theirs)) / theirs))
    if not worst <= TOLERANCE:
        raise ValueError(f"the losses differ by {worst:.1e}, relatively")
    return worst


def summarise(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Return every repeat, medians, and the ratio of the best of each side to PyTorch's best."""
    rows = [
        {
            "name": name,
            "run_steps_per_second": values,
            "median": statistics.median(values),
            "quartiles": [float(np.quantile(values, q)) for q in (0.25, 0.75)],
        }
        for name, values in speeds.items()
    ]
    best: dict[str, tuple[float, str]] = {}
    for row in rows:
        side = row["name"].partition(",")[0]
        best[side] = max(best.get(side, (0.0, "")), (row["median"], row["name"]))
    results = {
        "command": "python -m benchmarks.initlab",
        "rows": rows,
        "ratio": best["charjax"][0] / best["PyTorch"][0],
        "best": {side: name for side, (_, name) in best.items()},
    }
    if "charjax with kernels" in best:
        results["ratio_with_kernels"] = best["charjax with kernels"][0] / best["PyTorch"][0]
    return results


def show(results: dict[str, Any]) -> None:
    """Print the table and the ratio."""
    columns = (
        ("", lambda row: row["name"]),
        ("median", lambda row: f"{row['median']:,.0f}"),
        ("quartiles", lambda row: "{:,.0f} to {:,.0f}".format(*row["quartiles"])),
    )
    title = f"names MLP, run-steps per second ({in_words(results['hardware'])})"
    console = Console()
    console.print(make_table(title, columns, results["rows"]))
    console.print(f"best against best: {results['ratio']:.2f} x", highlight=False)
    if "kernels" in results:
        ratio, kernels = results["ratio_with_kernels"], results["kernels"]
        console.print(f"with charjax-kernels {kernels}: {ratio:.2f} x", highlight=False)


if __name__ == "__main__":
    cli.run(main)
