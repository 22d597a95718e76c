"""The compiled measurements of several runs.

Letters: R runs.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from charjax import parallel
from charjax.config import Config
from charjax.data.batches import BatchSource
from charjax.initlab.measurements.catalogue import check_measurable, measure
from charjax.initlab.measurements.moment import Moment
from charjax.models.contract import CharModel
from charjax.parallel import ROWS, WHOLE
from charjax.training.ensemble import (
    Ensemble,
    EnsembleState,
    RunHyperparameters,
    with_hyperparameters,
)


class MeasuringProgram:
    """Measures the runs of an ensemble, one after the other on each device."""

    def __init__(
        self,
        names: tuple[str, ...],
        model: CharModel,
        config: Config,
        ensemble: Ensemble,
        initial: Any,
    ):
        """Compile.

        Args:
          names: of measurements.
          model: of the runs.
          config: of the runs, which differ in their hyperparameters.
          ensemble: that trains them.
          initial: (EnsembleState, RunHyperparameters) at step 0, or their shapes.

        Raises:
          UserError: the runs do not have a measurement.
        """
        check_measurable(names, model, config)
        self._source = ensemble.source
        state, hyperparameters = ensemble.shaped(initial)

        def of_device(
            initial: EnsembleState,
            state: EnsembleState,
            source: BatchSource,
            hyperparameters: RunHyperparameters,
        ) -> dict[str, Array]:
            def one(run: Any) -> dict[str, Array]:
                initial, state, hyperparameters = run
                moment = _moment(model, config, initial, state, source, hyperparameters)
                return measure(names, moment)

            return jax.lax.map(one, (initial, state, hyperparameters))

        divided = parallel.on_each_device(of_device, ensemble.mesh, ROWS, ROWS, WHOLE, ROWS)
        program = jax.jit(divided, out_shardings=ensemble.split)
        with parallel.target(ensemble.mesh):
            lowered = program.lower(state, state, self._source, hyperparameters)
        self._compiled = lowered.compile()

    @property
    def shapes(self) -> dict[str, Any]:
        """The shapes of what it returns."""
        found: dict[str, Any] = self._compiled.out_info
        return found

    @property
    def memory(self) -> int:
        """Bytes in use while it measures, as the compiler counts them, per device."""
        sizes: Any = self._compiled.memory_analysis()
        return int(sizes.temp_size_in_bytes + sizes.argument_size_in_bytes)

    def __call__(
        self, initial: EnsembleState, state: EnsembleState, hyperparameters: RunHyperparameters
    ) -> dict[str, Array]:
        """Return quantities by name, (R, places) float32 each; nothing is changed or donated.

        Args:
          initial: the runs at step 0.
          state: the runs now.
          hyperparameters: of the runs.
        """
        found: dict[str, Array] = self._compiled(initial, state, self._source, hyperparameters)
        return found


def _moment(
    model: CharModel,
    config: Config,
    initial: EnsembleState,
    run: EnsembleState,
    source: BatchSource,
    hyperparameters: RunHyperparameters,
) -> Moment:
    step = run.states.counters.step
    drawn = dataclasses.replace(source, key=hyperparameters.batch_key)
    whole = model.clone(dropout=0.0) if getattr(model, "dropout", 0.0) else model
    return Moment(
        model=whole.clone(dtype=jnp.float32),
        trained_model=model,
        config=with_hyperparameters(config, hyperparameters),
        initial=initial.states,
        state=run.states,
        first=drawn.draw(jnp.int32(0)),
        batch=drawn.draw(step),
        key=jax.random.fold_in(hyperparameters.dropout_key, step),
    )
