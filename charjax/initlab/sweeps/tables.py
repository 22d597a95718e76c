"""A sweep's results as tidy tables: one row a run, a recorded step of a run, a layer of that.

runs.csv, curves.csv, layers.csv, histograms.npz and sweep.json, each replaced in one move; the
last of them is written last, so that a directory that has it is whole. A number that there is not
(a theory where there is none, the update of a layer without a kernel) is an empty field.

Letters: S recorded steps, R runs, L layers.
"""

import csv
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from charjax.data.datasets import Dataset
from charjax.data.splits import target_counts
from charjax.init import find_scheme
from charjax.initlab.activations.layers import Layer, find_layers
from charjax.initlab.predictions import (
    Prediction,
    WeightMoments,
    predict_layers,
    predict_loss,
)
from charjax.initlab.sweeps.grid import Group, Point
from charjax.initlab.sweeps.record import Record, recorded_steps
from charjax.models.contract import CharModel
from charjax.models.roles import Role

_HIDDEN = (Role.HIDDEN, Role.RECURRENT, Role.RESIDUAL_OUTPUT)
KEYS = ("scheme", "gain", "depth", "width", "learning_rate", "seed")
RUNS = (
    *KEYS,
    "parameters",
    "sigma_w2",
    "sigma_b2",
    "initial_loss",
    "initial_loss_theory",
    "train_loss",
    "val_loss",
    "diverged_step",
)
CURVES = (*KEYS, "step", "train_loss", "val_loss", "grad_norm")
LAYERS = (
    *KEYS,
    "step",
    "index",
    "layer",
    "role",
    "activation",
    "mean",
    "std",
    "theory_std",
    "preactivation_std",
    "theory_preactivation_std",
    "saturated",
    "dead",
    "gradient_std",
    "weight_std",
    "gradient_to_data",
    "update_to_data",
)
_FLOW = ("mean", "std", "preactivation_std", "saturated", "dead", "gradient_std")
_KERNELS = ("weight_std", "gradient_to_data")


@dataclasses.dataclass(frozen=True)
class Finished:
    """A group's runs, measured.

    Attributes:
      group: the group.
      model: of all its runs.
      repeats: how often a target of the text is the character before it.
      parameters: how many each run has.
      chunks: (points, record) one after the other.
    """

    group: Group
    model: CharModel
    repeats: float
    parameters: int
    chunks: list[tuple[tuple[Point, ...], Record]]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Of the model."""
        return find_layers(self.model)

    @property
    def recorded(self) -> tuple[int, ...]:
        """The recorded steps."""
        return recorded_steps(self.group.config.train.steps)

    def runs(self) -> Iterator[tuple[Point, Record]]:
        """Every run with its own part of the record, (S, ...) each."""
        for points, record in self.chunks:
            for index, point in enumerate(points):
                yield point, {name: x[:, index] for name, x in record.items()}

    def theory(self, point: Point, record: Record) -> tuple[Prediction, float]:
        """What theory says of a run's layers and its loss, from its variances at step 0."""
        moments = WeightMoments(*(record[f"moments.{name}"][0] for name in WeightMoments._fields))
        squares_L = record["layers.mean"][0] ** 2 + record["layers.std"][0] ** 2
        times = self.group.config.model.context_length or 1
        layers = predict_layers(self.model, moments, squares_L, times)
        scheme = find_scheme(self.group.configs[point.scheme].init)
        loss = predict_loss(self.model, scheme, moments, layers, squares_L, self.repeats)
        return layers, loss


def write_tables(directory: Path, groups: list[Finished]) -> None:
    """Write the three tables and the histograms."""
    _write_csv(directory / "runs.csv", RUNS, _run_rows(groups))
    _write_csv(directory / "curves.csv", CURVES, _curve_rows(groups))
    _write_csv(directory / "layers.csv", LAYERS, _layer_rows(groups))
    _write_histograms(directory / "histograms.npz", groups)


def repeats(dataset: Dataset) -> float:
    """How often a character of the training split is the one before it."""
    tokens = dataset.splits["train"].tokens
    return float(np.mean(tokens[1:] == tokens[:-1]))


def hidden_activation(layers: tuple[Layer, ...]) -> str | None:
    """The one activation of the hidden layers, None where there is none, or several."""
    found = {layer.activation for layer in layers} - {"linear"}
    return found.pop() if len(found) == 1 else None


def unigram_entropy(dataset: Dataset) -> float:
    """Of the training split's targets, in nats: the loss of one that knows frequencies alone."""
    counts_V = target_counts(dataset.splits["train"], dataset.tokenizer.vocab_size)
    shares = counts_V[counts_V > 0] / counts_V.sum()
    return float(-np.sum(shares * np.log(shares)))


def _run_rows(groups: list[Finished]) -> Iterator[dict[str, Any]]:
    for group in groups:
        for point, record in group.runs():
            diverged = int(record["diverged"][-1])
            yield _keys(point) | {
                "parameters": group.parameters,
                **_variances(group.layers, record),
                "initial_loss": record["val_loss"][0],
                "initial_loss_theory": group.theory(point, record)[1],
                "train_loss": record["train_loss"][-1],
                "val_loss": record["val_loss"][-1],
                "diverged_step": None if diverged < 0 else diverged,
            }


def _variances(layers: tuple[Layer, ...], record: Record) -> dict[str, float]:
    """At step 0, the mean over the hidden kernels."""
    hidden = [i for i, layer in enumerate(layers) if layer.role in _HIDDEN]
    if not hidden:
        return {"sigma_w2": math.nan, "sigma_b2": math.nan}
    weights_L, biases_L = (record[f"moments.{name}"][0] for name in ("weights", "biases"))
    return {
        "sigma_w2": float(weights_L[hidden].mean()),
        "sigma_b2": float(biases_L[hidden].mean()),
    }


def _curve_rows(groups: list[Finished]) -> Iterator[dict[str, Any]]:
    for group in groups:
        for point, record in group.runs():
            for place, step in enumerate(group.recorded):
                told = {name: record[name][place] for name in CURVES[len(KEYS) + 1 :]}
                yield _keys(point) | {"step": step} | told


def _layer_rows(groups: list[Finished]) -> Iterator[dict[str, Any]]:
    for group in groups:
        layers = group.layers
        for point, record in group.runs():
            theory, _ = group.theory(point, record)
            for place, step in enumerate(group.recorded):
                for index, layer in enumerate(layers):
                    at = (place, index)
                    yield _keys(point) | {
                        "step": step,
                        "index": index,
                        "layer": layer.name,
                        "role": layer.role,
                        "activation": layer.activation,
                        **{name: record[f"layers.{name}"][at] for name in _FLOW},
                        **{name: record[f"kernels.{name}"][at] for name in _KERNELS},
                        "theory_std": None if step else theory.std[index],
                        "theory_preactivation_std": None
                        if step
                        else theory.preactivation_std[index],
                        "update_to_data": record["update_to_data"][at],
                    }


def _keys(point: Point) -> dict[str, Any]:
    values = (point.scheme, point.gain, point.depth, point.width, point.rate, point.seed)
    return dict(zip(KEYS, values, strict=True))


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterator[dict[str, Any]]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _field(value) for name, value in row.items()})
    temporary.replace(path)


def _field(value: Any) -> Any:
    """A number as briefly as its float32 allows; nothing for what is not there."""
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{value:.8g}"
    return "" if value is None else value


def _write_histograms(path: Path, groups: list[Finished]) -> None:
    keys: list[tuple[Any, ...]] = []
    lows, highs, counts = [], [], []
    for group in groups:
        names = [layer.name for layer in group.layers]
        for point, record in group.runs():
            gain = math.nan if point.gain is None else point.gain
            own = (point.scheme, gain, point.depth, point.width, point.rate, point.seed)
            for kind in ("activation", "gradient"):
                lows.append(record[f"layers.{kind}_low"].ravel())
                highs.append(record[f"layers.{kind}_high"].ravel())
                counts.append(record[f"layers.{kind}_counts"].reshape(-1, 64))
                for step in group.recorded:
                    keys += [(*own, step, name, kind) for name in names]
    columns = list(zip(*keys, strict=True))
    arrays = {
        name: np.asarray(column)
        for name, column in zip((*KEYS, "step", "layer", "kind"), columns, strict=True)
    }
    arrays |= {
        "low": np.concatenate(lows),
        "high": np.concatenate(highs),
        "counts": np.concatenate(counts).astype(np.uint32),
    }
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)
