"""The tables of a sweep as pandas DataFrames, and as files of other programs."""

import json
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from charjax.config.values import value_text
from charjax.errors import UserError, did_you_mean
from charjax.files import replacing
from charjax.initlab.sweeps.axes import frozen

Table = Literal["runs", "curves", "layers", "measurements"]
Format = Literal["csv", "parquet"]
_WORDS = ("scheme", "layer", "role", "activation", "quantity", "place")


def read_frame(directory: Path, table: str = "runs") -> pd.DataFrame:
    """Read a table of a finished sweep.

    Args:
      directory: that `sweep` or `merge` wrote.
      table: runs, curves, layers or measurements; docs/initlab.md describes their columns.

    Returns:
      A row per run; per run and recorded step; per run, step and layer; or per run, step, quantity
      and place. A setting that is an axis has a column by its name, with the setting's values.
      What is not available is NaN. `attrs["sweep"]` holds sweep.json.

    Raises:
      UserError: no finished sweep there, no such table, or a damaged file.
    """
    if table not in get_args(Table):
        raise UserError(
            f"table: {table!r} given; must be one of {', '.join(get_args(Table))}"
            f"{did_you_mean(table, get_args(Table))}"
        )
    facts, path = read_facts(directory), directory / f"{table}.csv"
    settings = {
        name: {value_text(frozen(value)): frozen(value) for value in values}
        for name, values in facts.get("settings", ())
    }
    if table == "measurements" and not path.is_file():
        raise UserError(
            f"table: measurements given; the sweep in {str(directory)!r} measured nothing during "
            "training: give sweep --measure"
        )
    words = dict.fromkeys((*_WORDS, *settings), str)
    try:
        style: dict[str, Any] = {"dtype": words, "keep_default_na": False, "na_values": [""]}
        frame: pd.DataFrame = pd.read_csv(path, **style)
        for name, values in settings.items():
            frame[name] = frame[name].map(values)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{str(path)!r} is not as a sweep writes it: {error}; run the sweep again"
        ) from None
    frame.attrs["sweep"] = facts
    return frame


def read_facts(directory: Path) -> dict[str, Any]:
    """Read sweep.json.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = directory / "sweep.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(
            f"{str(directory)!r} holds no finished sweep: sweep.json is missing; give the "
            "directory that `python -m charjax.initlab sweep` or `merge` wrote"
        ) from None
    except ValueError as error:
        raise UserError(f"{str(path)!r} is not JSON ({error}); run the sweep again") from None
    if not isinstance(facts, dict) or facts.get("format") != 1:
        raise UserError(f"{str(path)!r} is not of a sweep of this version; run the sweep again")
    return facts


def require_parquet() -> None:
    """Raise a UserError unless pandas can write Parquet files."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(
            "--format: parquet needs pyarrow, which is not installed; pip install "
            '"charjax[parquet]", or give --format csv'
        ) from None


def write_frame(frame: pd.DataFrame, path: Path, kind: Format) -> None:
    """Write a table, in one move.

    Lists among the values of settings are text in both formats, as in the tables of the sweep.
    """
    frame = frame.copy()
    frame.attrs = {}
    for name in frame.columns:
        if frame[name].map(lambda value: isinstance(value, tuple)).any():
            frame[name] = frame[name].map(value_text)
    with replacing(path) as temporary:
        if kind == "parquet":
            frame.to_parquet(temporary, index=False, engine="pyarrow")
        else:
            frame.to_csv(temporary, index=False, lineterminator="\n")
