"""A sweep's tables, read and checked.

Axes of a cube of runs, in this order: C schemes, G gains, D depths, W widths, R learning rates,
S seeds. In every table the columns of these names hold places on the axes, counted from 0.
Where a grid has axes of other settings, each scheme with each combination of their values has a
place on the axis of schemes.
"""

import csv
import dataclasses
import functools
import itertools
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
from numpy.typing import NDArray

from charjax.config.values import value_text
from charjax.errors import UserError, printable
from charjax.initlab.sweeps.axes import frozen

Array = NDArray[np.float64]

AXES = ("scheme", "gain", "depth", "width", "learning_rate", "seed")
# The columns that are read, of those that a sweep writes.
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
_HISTOGRAM = (*AXES, "step", "layer", "kind", "low", "high", "counts")
_MEASURED = ("step", "quantity", "place", "value")
_TEXT = ("scheme", "layer", "activation", "kind", "quantity", "place")
_FILES = ("sweep.json", *_COLUMNS, "histograms.npz")
_ROWS_AT_ONCE = 50_000


class _Facts(pydantic.BaseModel, strict=True):
    """The keys of sweep.json that are read."""

    command: str
    config: dict[str, dict[str, Any]]
    config_toml: str
    arch: str
    activation: str | None
    schemes: list[str] = pydantic.Field(min_length=1)
    gains: list[float | None] = pydantic.Field(min_length=1)
    depths: list[int] = pydantic.Field(min_length=1)
    widths: list[int] = pydantic.Field(min_length=1)
    learning_rates: list[float] = pydantic.Field(min_length=1)
    seeds: list[int] = pydantic.Field(min_length=1)
    settings: list[list[Any]] = []
    steps: int
    recorded: list[int] = pydantic.Field(min_length=1)
    vocabulary: int
    unigram_entropy: float
    hardware: dict[str, Any]
    seconds: float
    run_steps_per_second: float
    finished: str


def select(table: pd.DataFrame, **places: int) -> pd.DataFrame:
    """Return the rows at places of the grid, named by axis: `select(runs, scheme=0, seed=2)`."""
    is_there = np.ones(len(table), bool)
    for name, place in places.items():
        is_there &= table[name] == place
    return table[is_there]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
      directory: where it was read from.
      facts: sweep.json; the axes of numbers ascend.
      schemes: in the order of the sweep; with the values of settings that are axes.
      gains: NaN for a scheme's default.
      depths: of the networks.
      widths: of the networks.
      rates: learning rates.
      seeds: of the runs.
      runs: runs.csv, one row per run.
      curves: curves.csv.
      layers: layers.csv.
      histograms: histograms.npz but its counts.
      measurements: measurements.csv, or None where nothing was measured during training.
      counts: of the histograms, (rows, bins); a histogram's row is its label in their index.
    """

    directory: Path
    facts: Mapping[str, Any]
    schemes: list[str]
    gains: Array
    depths: list[int]
    widths: list[int]
    rates: Array
    seeds: list[int]
    runs: pd.DataFrame
    curves: pd.DataFrame
    layers: pd.DataFrame
    histograms: pd.DataFrame
    counts: NDArray[Any]
    measurements: pd.DataFrame | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of schemes, gains, depths, widths, learning rates and seeds."""
        return tuple(map(len, _axes(self.facts)))

    @property
    def largest(self) -> str:
        """The deepest and widest network, in words."""
        return f"depth {self.depths[-1]}, width {self.widths[-1]}"

    @property
    def noun(self) -> str:
        """The word for what is compared."""
        return "variant" if settings_of(self.facts) else "scheme"

    def at_largest(self, table: pd.DataFrame, **places: int) -> pd.DataFrame:
        """Select the rows of the deepest and widest network at places of other axes."""
        return select(table, depth=len(self.depths) - 1, width=len(self.widths) - 1, **places)

    def cube(self, column: str) -> Array:
        """Return a column of the runs by place in the grid, (C, G, D, W, R, S)."""
        cube = np.full(self.shape, math.nan)
        cube[tuple(self.runs[name] for name in AXES)] = self.runs[column]
        return cube

    @functools.cached_property
    def diverged(self) -> NDArray[np.bool_]:
        """The runs that diverged, (C, G, D, W, R, S)."""
        return ~np.isnan(self.cube("diverged_step")) | ~np.isfinite(self.cube("train_loss"))

    def has_diverged(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Return for each row of a table whether its run diverged."""
        has: NDArray[np.bool_] = self.diverged[tuple(table[name] for name in AXES)]
        return has

    @functools.cached_property
    def losses(self) -> Array:
        """The validation losses after the last step, inf for a run that diverged; as the cube."""
        val = self.cube("val_loss")
        return np.where(self.diverged | ~np.isfinite(val), math.inf, val)

    def by_seed(self, table: pd.DataFrame, axis: str, x_X: Array, column: str) -> Array:
        """Return a column by seed and by the value of another, which is in x_X: (S, X)."""
        values_SX = np.full((len(self.seeds), len(x_X)), math.nan)
        values_SX[table["seed"], np.searchsorted(x_X, table[axis])] = table[column]
        return values_SX


def read_sweep(directory: Path) -> Sweep:
    """Read the results of a sweep from its directory.

    Raises:
      UserError: no sweep there, one that is not finished, or a file that is not a sweep's.
    """
    _require_files(directory)
    facts = _read_facts(directory / "sweep.json")
    names = [name for name, _ in settings_of(facts)]
    tables = {
        name: _read_csv(directory / name, columns, names) for name, columns in _COLUMNS.items()
    }
    tables["histograms.npz"], counts = _read_histograms(directory / "histograms.npz", names)
    runs, curves, layers, histograms = (
        _placed(directory / name, table, facts) for name, table in tables.items()
    )
    measurements = None
    if "measured" in facts:
        measurements = _read_measurements(directory, names, facts)
    facts["scheme_names"], facts["schemes"] = facts["schemes"], _variants(facts)
    schemes, gains, depths, widths, rates, seeds = _axes(facts)
    sweep = Sweep(
        directory,
        facts,
        schemes,
        np.array(gains, np.float64),
        depths,
        widths,
        np.array(rates, np.float64),
        seeds,
        runs,
        curves,
        layers,
        histograms,
        counts,
        measurements,
    )
    _require_runs(sweep)
    return sweep


def _require_files(directory: Path) -> None:
    shown = repr(str(directory))
    if not directory.is_dir():
        raise UserError(f"{shown} is no directory; give the directory of a finished sweep")
    missing = [name for name in _FILES if not (directory / name).is_file()]
    if "sweep.json" in missing and (directory / "part.json").is_file():
        raise UserError(
            f"{shown} holds a part of a sweep; put all parts together with `python -m "
            "charjax.initlab merge`"
        )
    if len(missing) == len(_FILES):
        raise UserError(
            f"{shown} holds no sweep: sweep.json is missing; give the directory that "
            "`python -m charjax.initlab sweep` wrote"
        )
    if missing:
        raise UserError(
            f"{shown}: {', '.join(missing)} missing; the sweep did not finish: continue it, or "
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
    try:
        _Facts.model_validate(facts)
    except pydantic.ValidationError as error:
        key = error.errors()[0]["loc"][0]
        found = repr(facts[key]) if key in facts else "missing"
        raise _broken(path, f"{key} is {found}"[:80]) from None
    for key in ("gains", "depths", "widths", "learning_rates", "seeds", "recorded"):
        facts[key] = sorted(facts[key], key=lambda item: -math.inf if item is None else item)
    return facts


def _read_measurements(directory: Path, names: list[str], facts: Mapping[str, Any]) -> pd.DataFrame:
    path = directory / "measurements.csv"
    if not path.is_file():
        raise _broken(path, "missing")
    return _placed(path, _read_csv(path, _MEASURED, names), facts)


def settings_of(facts: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the settings that are axes of the grid, and their values as the tables show them."""
    return [
        (name, [value_text(frozen(value)) for value in values])
        for name, values in facts.get("settings", ())
    ]


def combinations_of(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the combinations of those values; an empty one without such axes."""
    return list(itertools.product(*(values for _, values in settings_of(facts))))


def _variants(facts: Mapping[str, Any]) -> list[str]:
    """Return the names on the axis of schemes; of one scheme the settings alone."""
    settings = settings_of(facts)
    if not settings:
        return list(facts["schemes"])
    words = [
        ", ".join(f"{name}={value}" for (name, _), value in zip(settings, values, strict=True))
        for values in combinations_of(facts)
    ]
    if len(facts["schemes"]) == 1:
        return words
    return [f"{scheme}, {word}" for scheme in facts["schemes"] for word in words]


def _read_csv(path: Path, columns: tuple[str, ...], names: list[str]) -> pd.DataFrame:
    """Read columns: text unchanged, all others float64, NaN where a field is empty."""
    wanted = [*AXES, *names, *columns]
    row = 1
    try:
        # pandas fills up short rows and may cut long ones without an error.
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            head = next(reader, [])
            for row, fields in enumerate(reader, start=2):
                if len(fields) != len(head):
                    raise _broken(path, f"row {row} has {len(fields)} fields, not {len(head)}")
        if missing := [name for name in wanted if name not in head]:
            raise _broken(path, f"no column {', '.join(missing)}")
        # In blocks: as text a table may be larger than memory.
        style: Any = {"usecols": wanted, "dtype": str, "na_filter": False, "encoding": "utf-8"}
        with pd.read_csv(path, chunksize=_ROWS_AT_ONCE, **style) as blocks:
            return pd.concat([_parse(path, block, names) for block in blocks])
    except (csv.Error, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise _broken(path, f"after row {row}: {error}") from None


def _parse(path: Path, table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    for name in table.columns.difference([*_TEXT, *names]):
        texts = table[name].where(table[name] != "", "nan")
        try:
            table[name] = texts.to_numpy(str).astype(np.float64)
        except ValueError:
            is_bad = pd.to_numeric(texts, errors="coerce").isna() & (texts.str.lower() != "nan")
            row = is_bad.idxmax()
            raise _broken(path, f"row {row + 2}: {name} is {texts[row]!r}") from None
    return table


def _read_histograms(path: Path, names: list[str]) -> tuple[pd.DataFrame, NDArray[Any]]:
    wanted, words = (*_HISTOGRAM, *names), (*_TEXT, *names)
    try:
        # By default numpy refuses an array of objects, which would be a pickle.
        with np.load(path) as file:
            arrays = {name: file[name] for name in wanted if name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError, TypeError) as error:
        raise _broken(path, f"not an archive of plain arrays ({error})") from None
    if missing := [name for name in wanted if name not in arrays]:
        raise _broken(path, f"no array {', '.join(missing)}")
    rows = arrays["counts"].shape[:1]
    for name, array in arrays.items():
        kinds = "U" if name in words else "fiu"
        axes = 2 if name == "counts" else 1
        if array.ndim != axes or array.shape[:1] != rows or array.dtype.kind not in kinds:
            raise _broken(path, f"{name} has shape {array.shape} and type {array.dtype}")
    counts = arrays.pop("counts")
    columns = {name: x if name in words else x.astype(np.float64) for name, x in arrays.items()}
    return pd.DataFrame(columns), counts


def _axes(facts: Mapping[str, Any]) -> list[list[Any]]:
    """Return the values of AXES."""
    return [facts[f"{name}s"] for name in AXES]


def _placed(path: Path, table: pd.DataFrame, facts: Mapping[str, Any]) -> pd.DataFrame:
    """Replace the values of the axes by their indices there."""
    places = {
        name: _find(table[name].to_numpy(), axis)
        for name, axis in zip(AXES, _axes(facts), strict=True)
    }
    if settings := settings_of(facts):
        combinations = {values: place for place, values in enumerate(combinations_of(facts))}
        columns = (table[name] for name, _ in settings)
        place = np.array([combinations.get(values, -1) for values in zip(*columns, strict=True)])
        together = places["scheme"] * len(combinations) + place
        places["scheme"] = np.where((places["scheme"] < 0) | (place < 0), -1, together)
    outside = np.flatnonzero((np.stack(list(places.values())) < 0).any(0))
    if outside.size:
        raise _broken(path, f"row {outside[0] + 2} is of no run of sweep.json's grid")
    return table.assign(**places)


def _find(values: NDArray[Any], axis: list[Any]) -> NDArray[np.int64]:
    """Return each value's place on an axis, or -1; numbers may differ by rounding, NaN is None."""
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
    """Check that every point of the grid has exactly one run."""
    path, total = sweep.directory / "runs.csv", math.prod(sweep.shape)
    repeated = int(sweep.runs.duplicated([*AXES]).sum())
    if repeated:
        raise _broken(path, f"{repeated} runs are there more than once")
    if len(sweep.runs) < total:
        raise UserError(
            f"{str(path)!r} holds {len(sweep.runs)} of {total} runs; the sweep did not finish: "
            "continue it, or run it again"
        )


def _broken(path: Path, defect: str) -> UserError:
    return UserError(
        f"{str(path)!r} is not as a sweep writes it: {printable(defect)}; run the sweep again"
    )
