"""A synthetic sweep in the files of `sweep`: values of the theory with noise."""

import csv
import functools
import itertools
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from charjax import theory

TANH = theory.find_activation("tanh")
HEAD = ["scheme", "gain", "depth", "width", "learning_rate", "seed"]
RUN = [
    *("parameters", "sigma_w2", "sigma_b2", "initial_loss", "initial_loss_theory"),
    *("train_loss", "val_loss", "diverged_step"),
]
CURVE = ["step", "train_loss", "val_loss", "grad_norm"]
LAYER = [
    *("step", "index", "layer", "role", "activation", "mean", "std", "theory_std"),
    *("preactivation_std", "theory_preactivation_std", "saturated", "dead", "gradient_std"),
    *("weight_std", "gradient_to_data", "update_to_data"),
]
# Each scheme's own gain, and what it adds to the loss.
SCHEMES = {"pytorch": (0.58, 0.05), "glorot": (1.0, 0.0), "kaiming": (5 / 3, 0.02)}


def write_sweep(
    directory: Path,
    *,
    schemes: dict[str, tuple[float, float]] = SCHEMES,
    gains: tuple[float | None, ...] = (None,),
    depths: tuple[int, ...] = (3,),
    widths: tuple[int, ...] = (64,),
    rates: tuple[float, ...] = (0.1,),
    seeds: int = 8,
    steps: int = 1000,
    diverges_above: float = math.inf,
    activation: str | None = "tanh",
    command: str = "python -m charjax.initlab sweep --arch mlp",
) -> Path:
    """Write the five files; runs diverge at learning rates above `diverges_above` · 64/width."""
    directory.mkdir(parents=True, exist_ok=True)
    recorded = sorted({0, 1, 10, steps})
    runs, curves, layers, histograms = [], [], [], []
    for name, gain, depth, width, rate, seed in itertools.product(
        schemes, gains, depths, widths, rates, range(seeds)
    ):
        settings, extra = schemes[name]
        rng = np.random.default_rng([depth, width, seed, zlib.crc32(name.encode())])
        head = [name, gain, depth, width, rate, seed]
        weight = (settings if gain is None else gain) ** 2
        stack = _stack(depth, weight)
        best = 0.1 * 64 / width
        loss = 1.9 + extra + 0.02 * math.log2(rate / best) ** 2
        loss += 0.05 * abs(math.log2(weight / 1.76)) * depth / 4 + 0.01 * rng.normal()
        diverged = 37 if rate > diverges_above * 64 / width else None
        logit_std = 0.5 * settings
        start = _initial_loss(logit_std, 27) + 0.01 * rng.normal()
        expected = _initial_loss(logit_std, 27) if activation else None
        # What a run froze at may be lower than all others: it counts as diverged all the same.
        ends = [1.0, 1.0] if diverged else [loss - 0.05, loss]
        measured = weight * (1 + 0.01 * rng.normal())
        parameters = 100 * depth * width
        runs.append([*head, parameters, measured, 0.05, start, expected, *ends, diverged])
        for step in recorded:
            now = loss + (start - loss) * math.exp(-step / (0.1 * steps))
            bad = diverged is not None and step >= diverged
            curves.append([*head, step, *([math.nan] * 3 if bad else [now - 0.05, now, 1.0])])
            for index in range(depth + 2):
                row, flows = _layer(rng, step, index, depth, stack, rate, activation)
                layers.append([*head, *row])
                if step in (0, steps):
                    histograms += [[*head, step, *one] for one in flows]
    _write(directory / "runs.csv", RUN, runs)
    _write(directory / "curves.csv", CURVE, curves)
    _write(directory / "layers.csv", LAYER, layers)
    np.savez(directory / "histograms.npz", **_arrays(histograms))
    facts = {
        "format": 1,
        "command": command,
        "config": {"model": {"kind": "mlp"}},
        "config_toml": '[model]\nkind = "mlp"\n',
        "arch": "mlp",
        "activation": activation,
        "schemes": list(schemes),
        "gains": list(gains),
        "depths": list(depths),
        "widths": list(widths),
        "learning_rates": list(rates),
        "seeds": list(range(seeds)),
        "steps": steps,
        "recorded": recorded,
        "vocabulary": 27,
        "unigram_entropy": 2.82,
        "hardware": {
            "processor": "a processor",
            "cores": 2,
            "accelerator": None,
            "python": "3.13.0",
            "versions": {"jax": "0.12.0"},
            "date": "2026-11-21",
        },
        "seconds": 12.5,
        "run_steps_per_second": 37000.0,
        "finished": "2026-11-21T18:00:00",
    }
    (directory / "sweep.json").write_text(json.dumps(facts), encoding="utf-8")
    return directory


@functools.cache
def _stack(depth: int, weight_variance: float) -> theory.Layers:
    return theory.propagate(depth, TANH, weight_variance, 0.05)


_initial_loss = functools.cache(theory.initial_loss)


def _layer(
    rng: np.random.Generator,
    step: int,
    index: int,
    depth: int,
    stack: theory.Layers,
    rate: float,
    activation: str | None,
) -> tuple[list[Any], list[list[Any]]]:
    """Return a row of layers.csv without its run, and the histograms of all layers."""
    is_hidden = 1 <= index <= depth
    q = float(stack.preactivation_D[index - 1]) if is_hidden else 1.0
    z = math.sqrt(q) * rng.normal(size=400)
    h = np.tanh(z) if is_hidden else z
    names = ["embedding", *(f"hidden_{k}" for k in range(depth)), "readout"]
    role = "embedding" if index == 0 else "hidden" if is_hidden else "readout"
    theory_std = float(stack.std_D[index - 1]) if is_hidden and step == 0 and activation else None
    slope_std = 1e-3 * 1.2 ** (depth - index)
    row = [step, index, names[index], role, "tanh" if is_hidden else "linear", h.mean(), h.std()]
    row += [theory_std, z.std(), math.sqrt(q) if theory_std else None, np.mean(np.abs(h) > 0.97)]
    row += [0.0, slope_std, 0.1, slope_std / 0.1]
    row += [None if step == 0 else rate * slope_std * 10 / (1 + step / 100) * rng.uniform(0.8, 1.2)]
    flows = []
    for kind, values in (("activation", h), ("gradient", slope_std * rng.normal(size=400))):
        low, high = float(values.min()), float(values.max())
        flows.append([names[index], kind, low, high, np.histogram(values, 64, (low, high))[0]])
    return row, flows


def _arrays(rows: list[list[Any]]) -> dict[str, np.ndarray]:
    names = [*HEAD, "step", "layer", "kind", "low", "high", "counts"]
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    gain = [math.nan if value is None else value for value in columns["gain"]]
    return {name: np.array(column) for name, column in columns.items()} | {"gain": np.array(gain)}


def _write(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*HEAD, *columns])
        writer.writerows(rows)
