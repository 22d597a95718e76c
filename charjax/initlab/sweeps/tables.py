"""A sweep's results as tidy tables: one row per run, per recorded step, per layer and step.

runs.csv, curves.csv, layers.csv, histograms.npz and sweep.json are each replaced in one move.
sweep.json is written last: a directory that has it is complete. Values that are not available (a
theory that does not apply, the update of a layer without a kernel) are empty fields.

Letters: S recorded steps, R runs, L layers.
"""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from charjax.config.values import value_text
from charjax.data.datasets import Dataset
from charjax.data.splits import target_counts
from charjax.files import replacing
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
TABLES = ("runs.csv", "curves.csv", "layers.csv")
# Of sweeps with measurements during training.
MEASUREMENTS = "measurements.csv"
# Eight digits are enough for a float32; NaN is an empty field.
STYLE: dict[str, Any] = {"index": False, "float_format": "%.8g", "lineterminator": "\n"}
KEYS = ("scheme", "gain", "depth", "width", "learning_rate", "seed")
RUNS = (
    *("parameters", "sigma_w2", "sigma_b2", "initial_loss", "initial_loss_theory"),
    *("train_loss", "val_loss", "diverged_step"),
)
CURVES = ("step", "train_loss", "val_loss", "grad_norm")
LAYERS = (
    *("step", "index", "layer", "role", "activation", "mean", "std", "theory_std"),
    *("preactivation_std", "theory_preactivation_std", "saturated", "dead", "gradient_std"),
    *("weight_std", "gradient_to_data", "update_to_data"),
)
# The columns of layers.csv that a record holds, by the name of their part of it.
_RECORDED = {
    "layers.": ("mean", "std", "preactivation_std", "saturated", "dead", "gradient_std"),
    "kernels.": ("weight_std", "gradient_to_data"),
    "": ("update_to_data",),
}


@dataclasses.dataclass(frozen=True)
class Finished:
    """The measured runs of a group.

    Attributes:
      group: the group.
      model: of all its runs.
      repeats: share of the text's targets that equal the character before them.
      parameters: number of parameters of each run.
      chunks: (points, record) one after the other.
    """

    group: Group
    model: CharModel
    repeats: float
    parameters: int
    chunks: list[tuple[tuple[Point, ...], Record]]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the model."""
        return find_layers(self.model)

    @property
    def recorded(self) -> tuple[int, ...]:
        """The recorded steps."""
        return recorded_steps(self.group.config.train.steps)

    def theory(self, point: Point, record: Record, index: int) -> tuple[Prediction, float]:
        """Predict a run's layers and initial loss from its variances and mean squares at step 0."""
        parts = (record[f"moments.{name}"][0, index] for name in WeightMoments._fields)
        moments = WeightMoments(*parts)
        squares_L = record["layers.mean"][0, index] ** 2 + record["layers.std"][0, index] ** 2
        times = self.group.config.model.context_length or 1
        layers = predict_layers(self.model, moments, squares_L, times)
        scheme = find_scheme(self.group.configs[point.scheme].init)
        loss = predict_loss(self.model, scheme, moments, layers, squares_L, self.repeats)
        return layers, loss


def write_tables(directory: Path, groups: list[Finished]) -> None:
    """Write the three tables and the histograms."""
    for name, columns, rows in zip(
        TABLES, (RUNS, CURVES, LAYERS), (_run_rows, _curve_rows, _layer_rows), strict=True
    ):
        chunks = ((group, *chunk) for group in groups for chunk in group.chunks)
        with replacing(directory / name) as path, path.open("w", encoding="utf-8") as file:
            for place, chunk in enumerate(chunks):
                keys = (*KEYS, *chunk[0].group.names)
                rows(*chunk).to_csv(file, columns=[*keys, *columns], header=place == 0, **STYLE)
    _write_histograms(directory / "histograms.npz", groups)


def repeats(dataset: Dataset) -> float:
    """Return the share of the training split's characters that equal the one before them."""
    tokens = dataset.splits["train"].tokens
    return float(np.mean(tokens[1:] == tokens[:-1]))


def hidden_activation(layers: tuple[Layer, ...]) -> str | None:
    """Return the only activation of the hidden layers; None for none or several."""
    found = {layer.activation for layer in layers} - {"linear"}
    return found.pop() if len(found) == 1 else None


def unigram_entropy(dataset: Dataset) -> float:
    """Return the entropy of the training split's targets by frequency alone, in nats."""
    counts_V = target_counts(dataset.splits["train"], dataset.tokenizer.vocab_size)
    shares = counts_V[counts_V > 0] / counts_V.sum()
    return float(-np.sum(shares * np.log(shares)))


def keyed_rows(
    points: tuple[Point, ...], names: tuple[str, ...], **axes: Iterable[Any]
) -> pd.DataFrame:
    """Return the keys of the runs times further columns, of which the last varies fastest.

    The keys include the settings `names` that are axes of the grid.
    """
    runs = [(p.scheme, p.gain, p.depth, p.width, p.rate, p.seed) for p in points]
    rows = pd.DataFrame(runs, columns=list(KEYS))
    for place, name in enumerate(names):
        rows[name] = [value_text(point.settings[place]) for point in points]
    for name, values in axes.items():
        rows = rows.merge(pd.Series(list(values), name=name), how="cross")
    return rows


def flattened(x_SR: NDArray[Any]) -> NDArray[Any]:
    """Flatten (S, R, ...), run by run."""
    return x_SR.swapaxes(0, 1).ravel()


def _run_rows(group: Finished, points: tuple[Point, ...], record: Record) -> pd.DataFrame:
    hidden = [i for i, layer in enumerate(group.layers) if layer.role in _HIDDEN]
    rows = keyed_rows(points, group.group.names)
    rows["parameters"] = group.parameters
    for column, name in (("sigma_w2", "weights"), ("sigma_b2", "biases")):
        # At step 0, the mean over the hidden kernels.
        moments_RL = record[f"moments.{name}"][0]
        rows[column] = [float(x_L[hidden].mean()) if hidden else math.nan for x_L in moments_RL]
    rows["initial_loss"] = record["val_loss"][0]
    rows["initial_loss_theory"] = [
        group.theory(point, record, index)[1] for index, point in enumerate(points)
    ]
    rows["train_loss"], rows["val_loss"] = record["train_loss"][-1], record["val_loss"][-1]
    diverged = pd.Series(record["diverged"][-1])
    rows["diverged_step"] = diverged.where(diverged >= 0).astype("Int64")
    return rows


def _curve_rows(group: Finished, points: tuple[Point, ...], record: Record) -> pd.DataFrame:
    rows = keyed_rows(points, group.group.names, step=group.recorded)
    return rows.assign(**{name: flattened(record[name]) for name in CURVES[1:]})


def _layer_rows(group: Finished, points: tuple[Point, ...], record: Record) -> pd.DataFrame:
    places = range(len(group.layers))
    rows = keyed_rows(points, group.group.names, step=group.recorded, index=places)
    rows["layer"], rows["role"], rows["activation"] = (
        [str(x or "") for x in column] * (len(rows) // len(column))
        for column in zip(*((x.name, x.role, x.activation) for x in group.layers), strict=True)
    )
    for part, columns in _RECORDED.items():
        for name in columns:
            rows[name] = flattened(record[part + name])
    # Theory is of step 0 alone.
    theory = [group.theory(point, record, index)[0] for index, point in enumerate(points)]
    for name in ("std", "preactivation_std"):
        predicted_SRL = np.full(record["layers.std"].shape, math.nan)
        predicted_SRL[0] = [getattr(one, name) for one in theory]
        rows[f"theory_{name}"] = flattened(predicted_SRL)
    return rows


def _write_histograms(path: Path, groups: list[Finished]) -> None:
    kinds = ("activation", "gradient")
    rows, flows = [], []
    for group in groups:
        layers = [layer.name for layer in group.layers]
        names = group.group.names
        for points, record in group.chunks:
            rows.append(keyed_rows(points, names, kind=kinds, step=group.recorded, layer=layers))
            # Arrays (kinds, S, R, L, ...) in the order of the rows: R, kinds, S, L.
            stacks = (
                np.stack([record[f"layers.{kind}_{name}"] for kind in kinds])
                for name in ("low", "high", "counts")
            )
            flows.append([np.moveaxis(x, 2, 0).reshape(len(rows[-1]), -1) for x in stacks])
    keys = pd.concat(rows, ignore_index=True).astype({"gain": np.float64})
    low, high, counts = (np.concatenate(parts) for parts in zip(*flows, strict=True))
    names = groups[0].group.names
    arrays = {name: keys[name].to_numpy() for name in (*KEYS, *names, "step", "layer", "kind")}
    arrays |= {name: arrays[name].astype(str) for name in ("scheme", *names, "layer", "kind")}
    arrays |= {"low": low[:, 0], "high": high[:, 0], "counts": counts.astype(np.uint32)}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
