"""measurements.csv: a row for each run, step, quantity and place that was measured.

Letters: M steps, R runs.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import pandas as pd

from charjax.files import replacing
from charjax.initlab.measurements.catalogue import MEASUREMENTS, Measuring, place_names
from charjax.initlab.sweeps import tables
from charjax.initlab.sweeps.grid import Point
from charjax.initlab.sweeps.record import MEASURED, Record


def write_measurements(
    directory: Path, groups: list[tables.Finished], measuring: Measuring
) -> None:
    """Write the measurements of runs, in one move."""
    chunks = ((group, *chunk) for group in groups for chunk in group.chunks)
    with (
        replacing(directory / tables.MEASUREMENTS) as path,
        path.open("w", encoding="utf-8") as file,
    ):
        for place, chunk in enumerate(chunks):
            _rows(measuring, *chunk).to_csv(file, header=place == 0, **tables.STYLE)


def _rows(
    measuring: Measuring, group: tables.Finished, points: tuple[Point, ...], record: Record
) -> pd.DataFrame:
    """Return the rows of some runs, run by run; of each quantity by quantity, step by step."""
    tokens_BT = jnp.zeros((1, group.model.lookback + 1), jnp.int32)
    params = jax.eval_shape(group.model.init, jax.random.key(0), tokens_BT)["params"]
    parts = []
    for name in measuring.names:
        one = MEASUREMENTS[name]
        places = place_names(one.places, group.model, params)
        for quantity in one.quantities:
            rows = tables.keyed_rows(points, group.group.names, step=measuring.at, place=places)
            rows["quantity"] = quantity
            rows["value"] = tables.flattened(record[f"{MEASURED}{quantity}"])
            rows["run"] = [
                run for run in range(len(points)) for _ in range(len(rows) // len(points))
            ]
            parts.append(rows)
    together = pd.concat(parts, ignore_index=True).sort_values("run", kind="stable")
    keys = [*tables.KEYS, *group.group.names]
    return together[[*keys, "step", "quantity", "place", "value"]]
