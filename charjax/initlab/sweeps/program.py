"""The compiled programs of a group: how its runs begin, move and are measured.

Letters: R runs, L layers.
"""

import dataclasses
import functools
import itertools
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
from charjax.random_streams import purpose_key
from charjax.training.ensemble import (
    Ensemble,
    EnsembleState,
    RunHyperparameters,
    initial_ensemble,
    with_rate,
)
from charjax.training.session import Session, seed_state
from charjax.training.state import TrainState, variables_of
from charjax.training.step import cross_entropy, make_train_step


class Measured(NamedTuple):
    """What is recorded of every run at a step: (R,), and of every layer (R, L); float32.

    Attributes:
      val_loss: nats a target, over fixed windows of the validation split, the same for all runs.
      grad_norm: of the batch that the next step will take.
      layers: what flows through the layers, on that batch.
      kernels: their kernels.
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
    """What is compiled for `count` runs at once of a group."""

    def __init__(self, group: Group, session: Session, count: int):
        """Compile; `session` is of one of the group's configs, with random validation batches."""
        assert session.source is not None
        assert session.val_source is not None
        self.group, self.session = group, session
        self.layers = find_layers(session.model)
        self._begins = {
            scheme: jax.jit(functools.partial(_begin, dataclasses.replace(session, config=config)))
            for scheme, config in group.configs.items()
        }
        source, some = session.source, group.points[:1] * count
        begun = jax.eval_shape(lambda: self._begin(source, some))
        config = _stopping(group.config)
        self.stack = Ensemble(session.model, config, session.source, session.devices, count, begun)
        self._measure = self._compile_measure(config, begun)

    @property
    def count(self) -> int:
        """R."""
        return self.stack.count

    @property
    def memory(self) -> int:
        """Bytes it takes while it runs, of each device."""
        sizes = self._measure.memory_analysis()
        measuring = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes
        return max(self.stack.memory, int(measuring))

    @property
    def measured_shapes(self) -> Any:
        """The shapes of what `measure` returns."""
        return self._measure.out_info

    def val_batches(self, targets: int) -> int:
        """Validation batches that hold about so many targets."""
        return -(-targets // (self._val_source.batch_size * self._val_source.window))

    def begin(self, points: Sequence[Point]) -> tuple[EnsembleState, RunHyperparameters]:
        """The runs of R points at step 0, and what tells them apart."""
        return self.stack.place(self._begin(self.stack.source, tuple(points)))

    def measure(self, runs: EnsembleState, numbers: RunHyperparameters, batches: int) -> Measured:
        """Record; the validation loss is the mean over so many batches, from the first one on."""
        return self._measure(runs, self.stack.source, self._val_source, numbers, jnp.int32(batches))

    def _begin(
        self, source: BatchSource, points: tuple[Point, ...]
    ) -> tuple[EnsembleState, RunHyperparameters]:
        parts = []
        for scheme, run in itertools.groupby(points, key=lambda point: point.scheme):
            own = list(run)
            seeds_R = jnp.asarray([point.seed for point in own], jnp.uint32)
            gains_R = jnp.asarray([point.gain or 1.0 for point in own], jnp.float32)
            parts.append(self._begins[scheme](source, seeds_R, gains_R))
        states, batch_keys, dropout_keys = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        rates_R = jnp.asarray([point.rate for point in points], jnp.float32)
        no_limit_R = jnp.full(len(points), jnp.inf, jnp.float32)
        return initial_ensemble(states), RunHyperparameters(
            batch_keys, dropout_keys, rates_R, no_limit_R
        )

    def _compile_measure(self, config: Config, begun: Any) -> Any:
        model, layers = self.session.model, self.layers
        replicated = parallel.replicated(self.stack.mesh)
        self._val_source = jax.device_put(self.session.val_source, replicated)
        one = functools.partial(_measure_run, model, config, layers)

        def measure(
            runs: EnsembleState,
            source: BatchSource,
            val: BatchSource,
            numbers: RunHyperparameters,
            batches: Array,
        ) -> Measured:
            return jax.vmap(one, in_axes=(0, None, None, 0, None))(
                runs, source, val, numbers, batches
            )

        runs, numbers = self.stack.shaped(begun)
        program = jax.jit(measure, out_shardings=self.stack.split)
        val = self._val_source
        return program.lower(runs, self.stack.source, val, numbers, jnp.int32(1)).compile()


def _stopping(config: Config) -> Config:
    """One step that is not finite, and a run has diverged."""
    return config.model_copy(update={"train": config.train.model_copy(update={"max_skipped": 1})})


def _begin(
    session: Session, source: BatchSource, seeds_R: Array, gains_R: Array
) -> tuple[TrainState, Array, Array]:
    """States of one scheme's runs and their keys of batches and dropout; for use in jit."""

    def one(seed: Array, gain: Array) -> tuple[TrainState, Array, Array]:
        batch_key = purpose_key(seed, "batches")
        own = dataclasses.replace(source, key=batch_key)
        here = dataclasses.replace(session, config=_with_gain(session.config, gain))
        state = seed_state(here, purpose_key(seed, "init"), own, with_scales=True)
        return state, batch_key, purpose_key(seed, "dropout")

    return jax.vmap(one)(seeds_R, gains_R)


def _with_gain(config: Config, gain: Array) -> Config:
    """The config with a gain that is data, where it has one."""
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
    numbers: RunHyperparameters,
    batches: Array,
) -> Measured:
    """Measure one run; nothing of it is changed."""
    state, step = run.states, run.states.counters.step
    batch = dataclasses.replace(source, key=numbers.batch_key).draw(step)
    _, flow, kernels = measure_layers(
        model, variables_of(state), batch.inputs, batch.targets, batch.weights, train=True
    )
    train_step = make_train_step(model, with_rate(config, numbers.rate))
    after, told = train_step(state, batch, jax.random.fold_in(numbers.dropout_key, step))
    return Measured(
        val_loss=_val_loss(model, variables_of(state), val_source, batches),
        grad_norm=told.grad_norm,
        layers=flow,
        kernels=kernels,
        update_to_data=jnp.stack([_moved(layer, state.params, after.params) for layer in layers]),
        moments=weight_moments(model, variables_of(state)["params"]),
    )


def _moved(layer: Layer, before: Any, after: Any) -> Array:
    """Standard deviation of a kernel's change over its own; multipliers cancel."""
    if layer.kernel is None:
        return jnp.float32(jnp.nan)
    old, new = (_kernel(layer.kernel, params) for params in (before, after))
    return jnp.std(new - old) / jnp.std(old)


def _kernel(path: str, params: Any) -> Array:
    for name in path.split("/"):
        params = params[name]
    return params


def _val_loss(model: CharModel, variables: Any, source: BatchSource, batches: Array) -> Array:
    """Mean loss over the first batches of a source."""

    def add(index: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        batch: Batch = source.draw(index)
        logits_BTV, _ = model.apply(
            variables, batch.inputs, num_outputs=batch.targets.shape[1], train=False
        )
        losses_BT = cross_entropy(logits_BTV, batch.targets)
        # NaN times a weight of 0 is NaN; but then it is one everywhere.
        return sums[0] + jnp.sum(losses_BT * batch.weights), sums[1] + jnp.sum(batch.weights)

    loss, targets = jax.lax.fori_loop(0, batches, add, (jnp.float32(0.0), jnp.float32(0.0)))
    return loss / jnp.maximum(targets, 1.0)
