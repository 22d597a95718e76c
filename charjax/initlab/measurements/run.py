"""Measurements of a single run in training, and their table in its directory."""

import csv
import functools
import io
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from charjax import files
from charjax.data.batches import BatchSource
from charjax.errors import UserError
from charjax.initlab.measurements.catalogue import (
    MEASUREMENTS,
    Measuring,
    check_measurable,
    measure,
    place_names,
)
from charjax.initlab.measurements.moment import Moment
from charjax.random_streams import purpose_key
from charjax.training.session import Session, first_state
from charjax.training.state import TrainState

FILE = "measurements.csv"
_COLUMNS = ("step", "quantity", "place", "value")
# They compare with the state at step 0.
FROM_THE_START = ("ntk", "feature_change")


class RunMeasurements:
    """Measures a run at chosen steps, and writes measurements.csv after each; an `Instrument`."""

    def __init__(
        self, session: Session, measuring: Measuring, directory: Path, *, resumed: bool = False
    ):
        """Check what is measured; compiled when it is measured first.

        Args:
          session: of the run.
          measuring: the measurements, and their steps.
          directory: of the run. Rows of steps that a resumed run repeats are replaced.
          resumed: the run continues from a checkpoint. It may have begun with the parameters of
            another run, and only one that was measured before is known not to have.

        Raises:
          UserError: the run does not have a measurement.
        """
        if session.model.fitted:
            raise UserError(
                f"--measure: given, but model.kind={session.config.model.kind} counts and has no "
                "steps: leave it out"
            )
        check_measurable(measuring.names, session.model, session.config)
        compared = [name for name in measuring.names if name in FROM_THE_START]
        if compared and resumed and not (directory / FILE).is_file():
            raise UserError(
                f"--measure: {compared[0]} given with --resume; it compares with the run's start, "
                "and the run was not measured from there: leave it out"
            )
        self._compares = bool(compared)
        self._session, self._measuring, self._path = session, measuring, directory / FILE
        self._measure = jax.jit(functools.partial(measure_run, session, measuring.names))
        self._initial: TrainState | None = None

    def next_stop(self, step: int, goal: int) -> int:
        """Return the first step after `step` at which something is measured, at most `goal`."""
        return min((at for at in self._measuring.at if step < at < goal), default=goal)

    def reached(self, step: int, state: TrainState) -> None:
        """Measure the state, if it is one of the steps."""
        if self._initial is None and self._compares:
            # A copy: training donates the state itself.
            is_first = step == 0
            self._initial = (
                jax.tree.map(jnp.copy, state) if is_first else first_state(self._session)
            )
        if step not in self._measuring.at:
            return
        initial = state if self._initial is None else self._initial
        found = jax.device_get(self._measure(initial, state, self._session.source))
        rows = [row for row in self._earlier() if int(row[0]) < step]
        for name in self._measuring.names:
            one = MEASUREMENTS[name]
            places = place_names(one.places, self._session.model, state.params)
            for quantity in one.quantities:
                values = map(float, found[quantity])
                rows += [
                    [str(step), quantity, place, "" if math.isnan(value) else f"{value:.8g}"]
                    for place, value in zip(places, values, strict=True)
                ]
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *rows])
        files.replace(self._path, text.getvalue())

    def _earlier(self) -> list[list[str]]:
        if not self._path.is_file():
            return []
        with self._path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        if not rows or tuple(rows[0]) != _COLUMNS:
            raise UserError(
                f"{str(self._path)!r} is not as --measure writes it; move it out of the run's "
                "directory"
            )
        return rows[1:]


def measure_run(
    session: Session,
    names: tuple[str, ...],
    initial: TrainState,
    state: TrainState,
    source: BatchSource,
) -> dict[str, Any]:
    """Return quantities by name, (places,) float32 each; for use in jit.

    Args:
      session: of the run.
      names: of measurements.
      initial: the state at step 0.
      state: the state now.
      source: of the run's batches.
    """
    model, step = session.model, state.counters.step
    whole = model.clone(dropout=0.0) if getattr(model, "dropout", 0.0) else model
    dropout_key = purpose_key(session.config.train.seed, "dropout")
    moment = Moment(
        model=whole.clone(dtype=jnp.float32),
        trained_model=model,
        config=session.config,
        initial=initial,
        state=state,
        first=source.draw(jnp.int32(0)),
        batch=source.draw(step),
        key=jax.random.fold_in(dropout_key, step),
    )
    return measure(names, moment)
