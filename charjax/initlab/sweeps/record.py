"""The record of a group's runs at the recorded steps, and its file.

Letters: S recorded steps, R runs, L layers.
"""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from charjax.files import replacing
from charjax.initlab.sweeps.program import Measured
from charjax.training.ensemble import EnsembleState

Record = dict[str, np.ndarray]
# Of the names of measurements during training, whose steps are their own.
MEASURED = "measured."


def recorded_steps(steps: int) -> tuple[int, ...]:
    """Return 0, 1, 2, 5, 10, 20, 50, ... and the last step."""
    found, decade = [0], 1
    while decade < steps:
        found += [decade * digit for digit in (1, 2, 5) if decade * digit < steps]
        decade *= 10
    return (*found, steps)


def empty_record(measured: Any, recorded: int) -> Record:
    """Return arrays (S, R, ...) for the fields of `Measured`, mean training losses and divergences.

    Args:
      measured: a Measured, or its shapes.
      recorded: S.
    """
    leaves = _named(measured)
    record = {name: np.zeros((recorded, *x.shape), x.dtype) for name, x in leaves.items()}
    runs = measured.val_loss.shape
    record["diverged"] = np.full((recorded, *runs), -1, np.int32)
    return record | {"train_loss": np.full((recorded, *runs), np.nan)}


def empty_measurements(shapes: dict[str, Any], count: int) -> Record:
    """Return arrays (M, R, places) for measurements at M steps, NaN until they are made."""
    return {
        f"{MEASURED}{name}": np.full((count, *x.shape), np.nan, np.float32)
        for name, x in shapes.items()
    }


def note_measurements(record: Record, place: int, found: dict[str, Any]) -> None:
    """Store the measurements of one step, the `place`-th of theirs."""
    for name, values in found.items():
        record[f"{MEASURED}{name}"][place] = np.asarray(values)


def note(
    record: Record, place: int, measured: Measured, runs: EnsembleState, sums_2R: np.ndarray
) -> None:
    """Store one recorded step.

    Args:
      record: updated in place.
      place: index of the step among the S.
      measured: at this step.
      runs: at this step.
      sums_2R: losses and targets since the previous recorded step.
    """
    for name, leaf in _named(measured).items():
        record[name][place] = np.asarray(leaf)
    record["diverged"][place] = np.asarray(runs.diverged)
    # No targets at step 0, nor for a run that has diverged: NaN.
    with np.errstate(invalid="ignore"):
        record["train_loss"][place] = sums_2R[0] / sums_2R[1]


def cut(record: Record, count: int) -> Record:
    """Return the record of the first runs of a program."""
    return {name: x[:, :count] for name, x in record.items()}


def _named(measured: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(measured)
    return {".".join(part.name for part in path): leaf for path, leaf in leaves}


def write_part(path: Path, record: Record) -> None:
    """Write a record, in one move, once it is on the disk."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **record)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())


def read_part(path: Path) -> Record:
    """Read a record that `write_part` wrote.

    Raises:
      OSError, ValueError: it cannot be read.
    """
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}
