"""Tables of several sweeps put together, run by run, without reading their numbers.

A run's rows stand together in every table. They are copied as they are, so the tables of the parts
of a grid give the bytes that the whole grid gives in one go.
"""

import csv
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from charjax.errors import UserError
from charjax.files import replacing
from charjax.initlab.sweeps.tables import KEYS, MEASUREMENTS, TABLES

_HISTOGRAMS = "histograms.npz"
Rows = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Source:
    """Finished tables.

    Attributes:
      directory: that holds them.
      runs: how many, in their order.
    """

    directory: Path
    runs: int


def merge_tables(
    directory: Path, sources: Sequence[Source], order: Sequence[tuple[int, int]]
) -> None:
    """Write the tables and histograms of runs that several sources have.

    Args:
      directory: of the new tables; each is replaced in one move.
      sources: where the runs are.
      order: (source, run in it) for each run.

    Raises:
      UserError: a source is damaged.
    """
    measured = [MEASUREMENTS] * (sources[0].directory / MEASUREMENTS).is_file()
    for name in (*TABLES, *measured):
        _merge_table(directory / name, sources, order)
    _merge_histograms(directory / _HISTOGRAMS, sources, order)


def _merge_table(out: Path, sources: Sequence[Source], order: Sequence[tuple[int, int]]) -> None:
    found = [_table(source, out.name) for source in sources]
    if any(head != found[0][0] for head, _ in found):
        raise UserError(f"{out.name}: its columns differ from part to part; train them anew")
    with replacing(out) as temporary, temporary.open("wb") as file:
        file.write(found[0][0])
        for source, run in order:
            file.writelines(found[source][1][run])


def _table(source: Source, name: str) -> tuple[bytes, list[list[bytes]]]:
    """Return the head of a table, and the lines of each run."""
    path = source.directory / name
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}; train it anew") from None
    head, *rows = lines or [b""]
    columns = head.decode("utf-8", "replace").strip().split(",")
    if name == MEASUREMENTS:
        return head, _by_keys(path, rows, columns, source.runs)
    places = [columns.index(column) for column in ("step", "index") if column in columns]
    runs: list[list[bytes]] = []
    for line in rows:
        # Each run begins with step 0, of its first layer; of runs.csv it has one row.
        fields = _fields(line) if places else []
        if not places or [fields[place : place + 1] for place in places] == [["0"]] * len(places):
            runs.append([])
        if not runs:
            break
        runs[-1].append(line)
    if len(runs) != source.runs or columns[: len(KEYS)] != list(KEYS):
        raise _damaged(path, len(runs), source.runs)
    return head, runs


def _by_keys(path: Path, rows: list[bytes], columns: list[str], count: int) -> list[list[bytes]]:
    """Return the lines of each run, which differ from the next one's in the keys before `step`."""
    keys = columns.index("step") if "step" in columns else 0
    runs = [list(lines) for _, lines in itertools.groupby(rows, lambda line: _fields(line)[:keys])]
    if len(runs) != count:
        raise _damaged(path, len(runs), count)
    return runs


def _fields(line: bytes) -> list[str]:
    text = line.decode("utf-8", "replace")
    # The name of a file of the user's own may have commas, and is then in quotes.
    return next(csv.reader([text])) if '"' in text else text.split(",")


def _merge_histograms(
    out: Path, sources: Sequence[Source], order: Sequence[tuple[int, int]]
) -> None:
    found = [_histograms(source) for source in sources]

    def place(source: int, run: int) -> slice:
        return found[source][1][run]

    arrays = {
        name: np.concatenate([found[source][0][name][place(source, run)] for source, run in order])
        for name in found[0][0]
    }
    with replacing(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _histograms(source: Source) -> tuple[Rows, list[slice]]:
    """Return the arrays of a file of histograms, and the rows of each run."""
    path = source.directory / _HISTOGRAMS
    try:
        with np.load(path) as file:
            rows = {name: file[name] for name in file.files}
        is_activation = rows["kind"] == "activation"
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{str(path)!r} cannot be read: {error}; train it anew") from None
    starts = np.flatnonzero(is_activation & ~np.concatenate([[False], is_activation[:-1]]))
    ends = [*starts[1:], len(is_activation)]
    if len(starts) != source.runs:
        raise _damaged(path, len(starts), source.runs)
    return rows, [slice(start, end) for start, end in zip(starts, ends, strict=True)]


def _damaged(path: Path, found: int, wanted: int) -> UserError:
    return UserError(f"{str(path)!r} holds {found} runs, and not {wanted}; train it anew")
