"""Runs of the names MLP trained together in a sweep's program, against the same loop in PyTorch.

    python -m benchmarks.initlab [--quick] [--out FILE.json]

Both train the MLP of nn-zero-to-hero part 3 (context 3, embedding 10, hidden 200, batch 32, plain
SGD) on the names, from the same weights: the losses of the first batches agree before the clock
starts. A run-step is one step of one run. PyTorch trains one network, as the lectures do, with a
vectorised gather and updates for all parameters at once; it is given the better of 1 and 2
threads. The two take turns.

Needs the extra "torch".
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from charjax import parallel
from charjax.config import load_config
from charjax.data.datasets import load_dataset
from charjax.hardware import hardware, in_words
from charjax.initlab.sweeps.axes import Axes
from charjax.initlab.sweeps.grid import make_groups
from charjax.initlab.sweeps.program import GroupProgram
from charjax.initlab.sweeps.runner import open_group
from charjax.training.state import variables_of

RESULTS = Path(__file__).parent / "results"
CONFIG = "names-mlp-kaiming"
SCHEMES = ("naive", "naive_readout", "naive_hidden", "kaiming_tanh")
RATE = 0.1
REPEATS = 7


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats and shorter ones")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    parallel.make_device_of_every_core()
    programs = {count: sweep_program(count) for count in (16, 64, 256)}
    contestants: dict[str, Callable[[], float]] = {}
    for count, program in programs.items():
        contestants[f"charjax, {count} runs"] = sweep_clock(program, 0.3 if args.quick else 2.0)
    peer = Peer(programs[64])
    difference = peer.check()
    for threads in (1, 2):
        name = f"PyTorch, {threads} thread{'s' if threads > 1 else ''}"
        contestants[name] = peer.clock(threads, 0.3 if args.quick else 2.0)
    repeats = 2 if args.quick else REPEATS
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            speeds[name].append(run())
    results = summarise(speeds)
    results |= {"loss_difference": difference, "hardware": facts()}
    show(results)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def facts() -> dict[str, Any]:
    """The hardware, and PyTorch's version."""
    here = hardware()
    here["versions"] |= {"torch": torch.__version__}
    return here


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


class Peer:
    """The lectures' network and loop."""

    def __init__(self, program: GroupProgram):
        """Take the last run's weights, and all pairs of the training names."""
        session = program.session
        assert session.source is not None
        self.program, self.source = program, session.source
        tokens = np.asarray(session.dataset.splits["train"].tokens).astype(np.int64)
        contexts = np.zeros((len(tokens) - 1, 3), np.int64)
        seen = np.zeros(3, np.int64)
        for place, token in enumerate(tokens[:-1]):
            seen = np.array([0, 0, 0]) if token == 0 else np.append(seen[1:], token)
            contexts[place] = seen
        self.contexts, self.targets = torch.tensor(contexts), torch.tensor(tokens[1:])
        runs, self.numbers = program.begin(program.group.points)
        own = jax.tree.map(lambda leaf: np.array(leaf[-1]), variables_of(runs.states)["params"])
        names = ("token_embedding/embedding", "hidden_0/kernel", "hidden_0/bias")
        names += ("readout/kernel", "readout/bias")
        found = [own[name.split("/")[0]][name.split("/")[1]] for name in names]
        self.weights = [torch.tensor(array, requires_grad=True) for array in found]

    def check(self) -> float:
        """Ten steps over the sweep's own batches: the largest difference of the losses.

        Raises:
          ValueError: it is above 1e-5 of the loss.
        """
        runs, numbers = self.program.begin(self.program.group.points)
        key = numbers.batch_key[-1]
        weights = [w.detach().clone().requires_grad_() for w in self.weights]
        worst = 0.0
        for step in range(10):
            batch = draw(self.source, key, step)
            runs = self.program.stack.run(runs.emptied(), numbers, 1)
            ours = float(runs.losses[-1] / runs.targets[-1])
            inputs = torch.tensor(np.asarray(batch.inputs).astype(np.int64))
            targets = torch.tensor(np.asarray(batch.targets)[:, 0].astype(np.int64))
            theirs = float(one_step(weights, inputs, targets))
            worst = max(worst, abs(ours - theirs) / theirs)
        if worst > 1e-5:
            raise ValueError(f"the losses differ by {worst:.1e} of themselves")
        return worst

    def clock(self, threads: int, seconds: float) -> Callable[[], float]:
        """A function that trains for about so long and tells steps a second."""
        weights = [w.detach().clone().requires_grad_() for w in self.weights]

        def run() -> float:
            torch.set_num_threads(threads)
            steps, began = 0, time.perf_counter()
            while time.perf_counter() - began < seconds:
                for _ in range(20):
                    picked = torch.randint(0, len(self.targets), (32,))
                    one_step(weights, self.contexts[picked], self.targets[picked])
                steps += 20
            return steps / (time.perf_counter() - began)

        run()
        return run


def draw(source: Any, key: Any, step: int) -> Any:
    """The batch of a run's step."""
    import dataclasses

    return jax.jit(dataclasses.replace(source, key=key).draw)(jnp.int32(step))


def one_step(weights: list[torch.Tensor], contexts: torch.Tensor, targets: torch.Tensor) -> Any:
    """Forth, back, and theta - rate * slope; the loss stays a tensor, so nothing waits for it."""
    table, w1, b1, w2, b2 = weights
    hidden = torch.tanh(functional.embedding(contexts, table).view(len(contexts), -1) @ w1 + b1)
    loss = functional.cross_entropy(hidden @ w2 + b2, targets)
    slopes = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        torch._foreach_add_(weights, slopes, alpha=-RATE)
    return loss.detach()


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
    main()
