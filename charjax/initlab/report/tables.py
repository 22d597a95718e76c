"""A sweep's tables, read back and checked.

The axes of a cube of runs, in this order: C schemes, G gains, D depths, W widths, R learning
rates, S seeds.
"""

import csv
import dataclasses
import functools
import itertools
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charjax.errors import UserError, printable

Array = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]

AXES = ("scheme", "gain", "depth", "width", "learning_rate", "seed")
# Of the columns that a sweep writes, those that are read.
_COLUMNS = {
    "runs.csv": (
        *("parameters", "sigma_w2", "sigma_b2", "initial_loss", "initial_loss_theory"),
        *("train_loss", "val_loss", "diverged_step"),
    ),
    "curves.csv": ("step", "train_loss", "val_loss"),
    "layers.csv": (
        *("step", "index", "layer", "activation", "mean", "std", "theory_std"),
        *("preactivation_std", "theory_preactivation_std", "saturated", "gradient_std"),
        *("gradient_to_data", "update_to_data"),
    ),
}
_HISTOGRAM = ("step", "layer", "kind", "low", "high", "counts")
_TEXT = ("scheme", "layer", "activation", "kind")
_FILES = ("sweep.json", *_COLUMNS, "histograms.npz")
_ROWS_AT_ONCE = 50_000

# What sweep.json must hold, and what each value must be.
_NUMBER = (int, float)
_FACTS: dict[str, tuple[type, ...]] = {
    "format": (int,),
    "command": (str,),
    "config": (dict,),
    "config_toml": (str,),
    "arch": (str,),
    "activation": (str, type(None)),
    "schemes": (list,),
    "gains": (list,),
    "depths": (list,),
    "widths": (list,),
    "learning_rates": (list,),
    "seeds": (list,),
    "steps": (int,),
    "recorded": (list,),
    "vocabulary": (int,),
    "unigram_entropy": _NUMBER,
    "hardware": (dict,),
    "seconds": _NUMBER,
    "run_steps_per_second": _NUMBER,
    "finished": (str,),
}
_ITEMS: dict[str, tuple[type, ...]] = {
    "schemes": (str,),
    "gains": (int, float, type(None)),
    "depths": (int,),
    "widths": (int,),
    "learning_rates": _NUMBER,
    "seeds": (int,),
    "recorded": (int,),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of equal length, and for each row its run's place in the grid.

    Attributes:
      columns: by name; text, or float64 with NaN where the field was empty.
      places: (6, rows), the row's index on each of AXES.
    """

    columns: Columns
    places: NDArray[np.int64]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def __len__(self) -> int:
        return self.places.shape[1]

    def select(self, **at: int) -> "Table":
        """The rows at some places of the grid, named by axis: `select(scheme=0, seed=2)`."""
        rows = np.ones(len(self), bool)
        for name, place in at.items():
            rows &= self.places[AXES.index(name)] == place
        return self.where(rows)

    def where(self, rows: NDArray[np.bool_]) -> "Table":
        """The rows for which a mask is true."""
        kept = {name: column[rows] for name, column in self.columns.items()}
        return Table(kept, self.places[:, rows])


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
      directory: where it was read from.
      facts: sweep.json; the axes of numbers ascend.
      runs: runs.csv, one row a run.
      curves: curves.csv.
      layers: layers.csv.
      histograms: histograms.npz.
    """

    directory: Path
    facts: Mapping[str, Any]
    runs: Table
    curves: Table
    layers: Table
    histograms: Table

    @property
    def schemes(self) -> list[str]:
        """The schemes, in the order of the sweep."""
        return list(self.facts["schemes"])

    @functools.cached_property
    def gains(self) -> Array:
        """The gains; NaN where a scheme has its own."""
        return np.array([math.nan if g is None else g for g in self.facts["gains"]], np.float64)

    @property
    def depths(self) -> list[int]:
        """The depths."""
        return list(self.facts["depths"])

    @property
    def widths(self) -> list[int]:
        """The widths."""
        return list(self.facts["widths"])

    @functools.cached_property
    def rates(self) -> Array:
        """The learning rates."""
        return np.array(self.facts["learning_rates"], np.float64)

    @property
    def seeds(self) -> list[int]:
        """The seeds."""
        return list(self.facts["seeds"])

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """How many schemes, gains, depths, widths, learning rates and seeds."""
        return tuple(len(_axis(self.facts, name)) for name in AXES)

    def cube(self, column: str) -> Array:
        """A column of the runs by place in the grid, (C, G, D, W, R, S)."""
        cube = np.full(self.shape, math.nan)
        cube[tuple(self.runs.places)] = self.runs[column]
        return cube

    @functools.cached_property
    def diverged(self) -> NDArray[np.bool_]:
        """Which runs diverged, (C, G, D, W, R, S)."""
        return ~np.isnan(self.cube("diverged_step")) | ~np.isfinite(self.cube("train_loss"))

    @functools.cached_property
    def losses(self) -> Array:
        """The validation loss after the last step, inf of a run that diverged; as the cube."""
        val = self.cube("val_loss")
        return np.where(self.diverged | ~np.isfinite(val), math.inf, val)


def read_sweep(directory: Path) -> Sweep:
    """Read what a sweep left in a directory.

    Raises:
      UserError: no sweep there, or one that is not finished, or a file that is not a sweep's.
    """
    _require_files(directory)
    facts = _read_facts(directory / "sweep.json")
    columns = {name: _read_csv(directory / name, wanted) for name, wanted in _COLUMNS.items()}
    columns["histograms.npz"] = _read_histograms(directory / "histograms.npz")
    tables = [_placed(directory / name, table, facts) for name, table in columns.items()]
    sweep = Sweep(directory, facts, *tables)
    _require_runs(sweep)
    return sweep


def _require_files(directory: Path) -> None:
    shown = repr(str(directory))
    if not directory.is_dir():
        raise UserError(f"{shown} is no directory; give the directory of a finished sweep")
    missing = [name for name in _FILES if not (directory / name).is_file()]
    if len(missing) == len(_FILES):
        raise UserError(
            f"{shown} holds no sweep: sweep.json is missing; give the directory that "
            "`python -m charjax.initlab sweep` wrote"
        )
    if missing:
        raise UserError(
            f"{shown}: {', '.join(missing)} missing; the sweep did not finish: go on with it, or "
            "run it again"
        )


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _broken(path, f"not JSON ({error})") from None
    if not isinstance(facts, dict) or "format" not in facts:
        raise _broken(path, "not a sweep's: no 'format'")
    if facts["format"] != 1:
        raise UserError(
            f"{str(path)!r} has format {facts['format']!r}; this version of charjax reads 1"
        )
    for key, kinds in _FACTS.items():
        if not _is(facts.get(key, ...), kinds):
            found = "nothing" if key not in facts else repr(facts[key])[:60]
            raise _broken(path, f"{key} is {found}")
    for key, kinds in _ITEMS.items():
        if not facts[key] or not all(_is(item, kinds) for item in facts[key]):
            raise _broken(path, f"{key} is {facts[key]!r}"[:80])
    if not all(isinstance(section, dict) for section in facts["config"].values()):
        raise _broken(path, "config is not made of sections")
    for key in ("depths", "widths", "learning_rates", "seeds", "recorded"):
        facts[key] = sorted(facts[key])
    facts["gains"] = sorted(facts["gains"], key=lambda gain: -math.inf if gain is None else gain)
    return facts


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _read_csv(path: Path, columns: tuple[str, ...]) -> Columns:
    """The columns: text as it stands, all else float64, NaN where a field is empty."""
    wanted = [*AXES, *columns]
    blocks: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        head = next(reader, [])
        missing = [name for name in wanted if name not in head]
        if missing:
            raise _broken(path, f"no column {', '.join(missing)}")
        place = {name: head.index(name) for name in wanted}
        for first, rows in _blocks(path, reader, len(head)):
            for name in wanted:
                fields = [row[place[name]] for row in rows]
                blocks[name].append(_parse(path, name, fields, first))
    empty = {True: np.array([], str), False: np.array([], np.float64)}
    return {
        name: np.concatenate(parts) if parts else empty[name in _TEXT]
        for name, parts in blocks.items()
    }


def _blocks(path: Path, reader: Any, fields: int) -> Iterator[tuple[int, list[list[str]]]]:
    """Rows, many at once, with the number of the first; a table may be larger than memory."""
    first = 2
    try:
        while rows := list(itertools.islice(reader, _ROWS_AT_ONCE)):
            for number, row in enumerate(rows, start=first):
                if len(row) != fields:
                    raise _broken(path, f"row {number} has {len(row)} fields, not {fields}")
            yield first, rows
            first += len(rows)
    except (csv.Error, UnicodeDecodeError) as error:
        raise _broken(path, f"after row {first - 1}: {error}") from None


def _parse(path: Path, name: str, fields: list[str], first: int) -> NDArray[Any]:
    if name in _TEXT:
        return np.array(fields, str)
    try:
        return np.array([field or "nan" for field in fields], np.float64)
    except ValueError:
        for number, field in enumerate(fields, start=first):
            try:
                float(field or "nan")
            except ValueError:
                raise _broken(path, f"row {number}: {name} is {field!r}") from None
        raise


def _read_histograms(path: Path) -> Columns:
    try:
        # Unless told otherwise numpy refuses an array of objects, which would be a pickle.
        with np.load(path) as file:
            table = {name: file[name] for name in (*AXES, *_HISTOGRAM) if name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError, TypeError) as error:
        raise _broken(path, f"not an archive of plain arrays ({error})") from None
    missing = [name for name in (*AXES, *_HISTOGRAM) if name not in table]
    if missing:
        raise _broken(path, f"no array {', '.join(missing)}")
    rows = table["counts"].shape[:1]
    for name, array in table.items():
        kinds = "U" if name in _TEXT else "fiu"
        axes = 2 if name == "counts" else 1
        if array.ndim != axes or array.shape[:1] != rows or array.dtype.kind not in kinds:
            raise _broken(path, f"{name} has shape {array.shape} and type {array.dtype}")
    return table


def _axis(facts: Mapping[str, Any], name: str) -> list[Any]:
    values: list[Any] = facts["learning_rates" if name == "learning_rate" else f"{name}s"]
    return values


def _placed(path: Path, columns: Columns, facts: Mapping[str, Any]) -> Table:
    places = np.stack([_find(columns[name], _axis(facts, name)) for name in AXES])
    outside = np.flatnonzero((places < 0).any(0))
    if outside.size:
        raise _broken(path, f"row {outside[0] + 2} is of no run of sweep.json's grid")
    return Table(columns, places)


def _find(values: NDArray[Any], axis: list[Any]) -> NDArray[np.int64]:
    """The place of each value on an axis, or -1; numbers may differ by rounding, NaN is None."""
    found = np.full(len(values), -1)
    for place, item in enumerate(axis):
        if isinstance(item, str):
            found[values == item] = place
        elif item is None:
            found[np.isnan(values)] = place
        else:
            found[np.isclose(values, item, rtol=1e-6, atol=0.0)] = place
    return found


def _require_runs(sweep: Sweep) -> None:
    """Every point of the grid has exactly one run."""
    path, total = sweep.directory / "runs.csv", math.prod(sweep.shape)
    index = np.ravel_multi_index(tuple(sweep.runs.places), sweep.shape)
    counts = np.bincount(index, minlength=total)
    if (counts > 1).any():
        raise _broken(path, f"{int((counts > 1).sum())} runs are there more than once")
    if (counts == 0).any():
        raise UserError(
            f"{str(path)!r} holds {len(sweep.runs)} of {total} runs; the sweep did not finish: go "
            "on with it, or run it again"
        )


def _broken(path: Path, what: str) -> UserError:
    return UserError(
        f"{str(path)!r} is not as a sweep writes it: {printable(what)}; run the sweep again"
    )
