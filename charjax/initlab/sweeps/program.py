"""The compiled programs of a sweep's group: its runs at step 0, their training, measurements.

Letters: R runs, L layers.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from charjax import parallel
from charjax.config import Config
from charjax.data.batches import Batch, BatchSource
from charjax.initlab.activations.layers import (
    Layer,
    LayerStats,
    ParameterStats,
    find_layers,
    measure_layers,
)
from charjax.initlab.predictions import WeightMoments, weight_moments
from charjax.initlab.sweeps.grid import Group, Point
from charjax.models.contract import CharModel
from charjax.training.ensemble import (
    Ensemble,
    EnsembleState,
    RunHyperparameters,
    initial_ensemble,
    initial_run,
    with_hyperparameters,
)
from charjax.training.feed import device_source
from charjax.training.session import Session
from charjax.training.state import TrainState, variables_of
from charjax.training.step import cross_entropy, make_train_step


class Measured(NamedTuple):
    """Measurements of every run at a step: (R,), and of every layer (R, L); float32.

    Attributes:
      val_loss: nats per target, over fixed windows of the validation split, the same for all runs.
      grad_norm: on the batch of the next step.
      layers: activations and gradients of the layers, on that batch.
      kernels: statistics of their kernels.
      update_to_data: standard deviation of that step's change of a kernel over the kernel's, as in
        Building makemore Part 3; NaN without a kernel.
      moments: the variances that theory starts from.
    """

    val_loss: Array
    grad_norm: Array
    layers: LayerStats
    kernels: ParameterStats
    update_to_data: Array
    moments: WeightMoments


class GroupProgram:
    """The programs that train and measure `count` runs of a group at once."""

    def __init__(self, group: Group, session: Session, count: int, *, uses_kernels: bool = True):
        """Compile; `session` is of one of the group's configs, with random validation batches.

        `uses_kernels` is that of `Ensemble`.
        """
        source = device_source(session.source)
        self.group, self.session = group, session
        self.layers = find_layers(session.model)
        self._starts = {
            scheme: jax.jit(functools.partial(_start, dataclasses.replace(session, config=config)))
            for scheme, config in group.configs.items()
        }
        points = group.points[:1] * count
        self.initial_shapes = initial = jax.eval_shape(lambda: self._start(source, points))
        config = _stopping(group.config)
        uses_kernels = uses_kernels and group.config.runtime.dtype != "auto"
        self.ensemble = Ensemble(
            dataclasses.replace(session, config=config), count, initial, uses_kernels=uses_kernels
        )
        self._measure = self._compile_measure(config, initial)

    @property
    def count(self) -> int:
        """R."""
        return self.ensemble.count

    @property
    def memory(self) -> int:
        """Bytes in use while it trains or measures, per device."""
        sizes = self._measure.memory_analysis()
        measuring = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes
        return max(self.ensemble.memory, int(measuring))

    @property
    def measured_shapes(self) -> Any:
        """The shapes of what `measure` returns."""
        return self._measure.out_info

    def val_batches(self, targets: int) -> int:
        """Return the number of validation batches that hold at least so many targets."""
        return -(-targets // (self._val_source.batch_size * self._val_source.window))

    def start(self, points: Sequence[Point]) -> tuple[EnsembleState, RunHyperparameters]:
        """Return the runs of up to R points at step 0; the last one fills up the others' places."""
        filled = (*points, *[points[-1]] * (self.count - len(points)))
        return self.ensemble.place(self._start(self.ensemble.source, filled))

    def measure(
        self, state: EnsembleState, hyperparameters: RunHyperparameters, batches: int
    ) -> Measured:
        """Measure every run; the validation loss is the mean over the first `batches` batches."""
        arguments = (state, self.ensemble.source, self._val_source, hyperparameters)
        return self._measure(*arguments, jnp.int32(batches))

    def _start(
        self, source: BatchSource, points: tuple[Point, ...]
    ) -> tuple[EnsembleState, RunHyperparameters]:
        parts = []
        for scheme, group in itertools.groupby(points, key=lambda point: point.scheme):
            points_R = list(group)
            # Always R of them: a run's bits do not depend on how many others have its scheme.
            filled = [*points_R, *[points_R[-1]] * (len(points) - len(points_R))]
            seeds_R = jnp.asarray([point.seed for point in filled], jnp.uint32)
            rates_R = jnp.asarray([point.rate for point in filled], jnp.float32)
            gains_R = jnp.asarray([point.gain or 1.0 for point in filled], jnp.float32)
            states, hyperparameters = self._starts[scheme](source, seeds_R, rates_R, gains_R)
            drawn = states, hyperparameters._replace(settings=self._traced(filled))
            parts.append(jax.tree.map(operator.itemgetter(slice(len(points_R))), drawn))
        states, hyperparameters = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        return initial_ensemble(states), hyperparameters

    def _traced(self, points: Sequence[Point]) -> dict[str, Array] | tuple[()]:
        """Return the values of settings in which the runs differ, (R,) float32 each."""
        places = {name: self.group.names.index(name) for name in sorted(self.group.traced)}
        return {
            name: jnp.asarray([point.settings[place] for point in points], jnp.float32)
            for name, place in places.items()
        } or ()

    def _compile_measure(self, config: Config, initial: Any) -> Any:
        model, layers = self.session.model, self.layers
        replicated = parallel.replicated(self.ensemble.mesh)
        self._val_source = parallel.place(device_source(self.session.val_source), replicated)
        one = functools.partial(_measure_run, model, config, layers)

        def measure(
            state: EnsembleState,
            source: BatchSource,
            val: BatchSource,
            hyperparameters: RunHyperparameters,
            batches: Array,
        ) -> Measured:
            return jax.vmap(one, in_axes=(0, None, None, 0, None))(
                state, source, val, hyperparameters, batches
            )

        state, hyperparameters = self.ensemble.shaped(initial)
        program = jax.jit(measure, out_shardings=self.ensemble.split)
        arguments = (state, self.ensemble.source, self._val_source, hyperparameters)
        return program.lower(*arguments, jnp.int32(1)).compile()


def _stopping(config: Config) -> Config:
    """Return the config under which a run has diverged at its first step that is not finite."""
    return config.model_copy(update={"train": config.train.model_copy(update={"max_skipped": 1})})


def _start(
    session: Session, source: BatchSource, seeds_R: Array, rates_R: Array, gains_R: Array
) -> tuple[TrainState, RunHyperparameters]:
    """Return the runs of one scheme at step 0; for use in jit."""

    def one(
        seed: Array, learning_rate: Array, gain: Array
    ) -> tuple[TrainState, RunHyperparameters]:
        of_gain = dataclasses.replace(session, config=_with_gain(session.config, gain))
        return initial_run(of_gain, source, seed, learning_rate, with_scales=True)

    return jax.vmap(one)(seeds_R, rates_R, gains_R)


def _with_gain(config: Config, gain: Array) -> Config:
    """Return the config with a traced gain, if it has a gain."""
    if config.init.gain is None:
        return config
    return config.model_copy(update={"init": config.init.model_copy(update={"gain": gain})})


def _measure_run(
    model: CharModel,
    config: Config,
    layers: tuple[Layer, ...],
    run: EnsembleState,
    source: BatchSource,
    val_source: BatchSource,
    hyperparameters: RunHyperparameters,
    batches: Array,
) -> Measured:
    """Measure one run, which is not changed."""
    state, step = run.states, run.states.counters.step
    batch = dataclasses.replace(source, key=hyperparameters.batch_key).draw(step)
    _, flow, kernels = measure_layers(
        model, variables_of(state), batch.inputs, batch.targets, batch.weights, train=True
    )
    run_config = with_hyperparameters(config, hyperparameters)
    train_step = make_train_step(model, run_config)
    dropout_key = jax.random.fold_in(hyperparameters.dropout_key, step)
    after, metrics = train_step(state, batch, dropout_key)
    return Measured(
        val_loss=_val_loss(model, variables_of(state, "averaged"), val_source, batches),
        grad_norm=metrics.grad_norm,
        layers=flow,
        kernels=kernels,
        update_to_data=jnp.stack([_change(layer, state.params, after.params) for layer in layers]),
        moments=weight_moments(model, variables_of(state)["params"]),
    )


def _change(layer: Layer, before: Any, after: Any) -> Array:
    """Return the standard deviation of a kernel's change over the kernel's; multipliers cancel."""
    if layer.kernel is None:
        return jnp.float32(jnp.nan)
    old, new = (_kernel(layer.kernel, params) for params in (before, after))
    return jnp.std(new - old) / jnp.std(old)


def _kernel(path: str, params: Any) -> Array:
    for name in path.split("/"):
        params = params[name]
    return params


def _val_loss(model: CharModel, variables: Any, source: BatchSource, batches: Array) -> Array:
    """Return the mean loss over the first batches of a source."""

    def add(index: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        batch: Batch = source.draw(index)
        logits_BTV, _ = model.apply(
            variables, batch.inputs, num_outputs=batch.targets.shape[1], train=False
        )
        losses_BT = cross_entropy(logits_BTV, batch.targets)
        # A NaN with weight 0 gives NaN; but then every loss is NaN.
        return sums[0] + jnp.sum(losses_BT * batch.weights), sums[1] + jnp.sum(batch.weights)

    loss, targets = jax.lax.fori_loop(0, batches, add, (jnp.float32(0.0), jnp.float32(0.0)))
    return loss / jnp.maximum(targets, 1.0)
