"""Several runs as one program: the step of a single run, vmapped.

The runs are split over the devices, which have nothing to tell each other. What differs between
them is data: the state (and so what a scheme drew, and its factors), the batches, dropout and the
learning rate. A run that diverges is left as it was, and its step is recorded.

Letters: R runs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from charjax import parallel
from charjax.config import Config
from charjax.data.batches import BatchSource
from charjax.models.contract import CharModel
from charjax.parallel import ROWS, WHOLE
from charjax.training.program import make_advance
from charjax.training.state import TrainState

# Part of the memory there is that one program may take.
MEMORY_SHARE = 0.6
# Of a CPU's core, its second level: 1 or 2 MiB on the servers of these years.
_CACHE = 2 * 2**20
T = TypeVar("T")


class RunHyperparameters(NamedTuple):
    """What makes one run of a stack another than the next, beside its state; (R,) each.

    Attributes:
      batch_key: typed; of its batches.
      dropout_key: typed.
      rate: float32, the learning rate.
      max_loss: float32; a step with a larger loss is one that is not finite.
    """

    batch_key: Array
    dropout_key: Array
    rate: Array
    max_loss: Array


class EnsembleState(NamedTuple):
    """R runs on their way, stacked.

    Attributes:
      states: where they are.
      diverged: (R,) int32, the step at which a run diverged and was stopped, or -1.
      losses: (R,) float32, sum of the losses of all targets since the sums were last emptied.
      targets: (R,) float32, how many those were.
    """

    states: TrainState
    diverged: Array
    losses: Array
    targets: Array

    def emptied(self) -> "EnsembleState":
        """The same with the sums at 0."""
        return self._replace(
            losses=jnp.zeros_like(self.losses), targets=jnp.zeros_like(self.targets)
        )


def initial_ensemble(states: TrainState) -> EnsembleState:
    """EnsembleState at step 0."""
    count = states.counters.step.shape[0]
    # Arrays of their own, so that they can be donated.
    losses_R, targets_R = jnp.zeros(count, jnp.float32), jnp.zeros(count, jnp.float32)
    return EnsembleState(states, jnp.full(count, -1, jnp.int32), losses_R, targets_R)


class Ensemble:
    """The compiled loop over a number of steps, for `count` runs of one model and text."""

    def __init__(
        self,
        model: CharModel,
        config: Config,
        source: BatchSource,
        devices: list[jax.Device],
        count: int,
        begun: Any,
    ):
        """Compile ahead of time.

        Args:
          model: the model.
          config: of all runs; the learning rate in it is not read.
          source: what batches are drawn from; each run has a key of its own.
          devices: over which the runs are split, as far as `count` can be divided.
          count: R.
          begun: (EnsembleState, RunHyperparameters), or their shapes.
        """
        self.count = count
        self.mesh = parallel.make_mesh(devices, count)
        self.split = parallel.split_over(self.mesh)
        self.source = jax.device_put(source, parallel.replicated(self.mesh))
        self._compiled = self._compile(model, config, begun)

    @property
    def memory(self) -> int:
        """Bytes it takes while it runs, as the compiler counts them; of each device."""
        sizes = self._compiled.memory_analysis()
        return int(sizes.temp_size_in_bytes + sizes.argument_size_in_bytes)

    def run(self, runs: EnsembleState, numbers: RunHyperparameters, steps: int) -> EnsembleState:
        """Start `steps` steps of every run, and return at once; the runs given are donated."""
        return self._compiled(runs, self.source, numbers, jnp.int32(steps))

    def place(self, tree: T) -> T:
        """Lay what has a leading axis R where this program wants it."""
        return jax.device_put(tree, jax.tree.map(lambda _: self.split, tree))

    def shaped(self, tree: Any) -> Any:
        """The shapes of what `place` gives."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.split), tree
        )

    def _compile(self, model: CharModel, config: Config, begun: Any) -> Any:
        advance = make_run_advance(model, config)
        runs, numbers = self.shaped(begun)
        local = self.count // self.mesh.size
        block = _block(runs.states, self.count, local) if _is_cpu(self.mesh) else local

        def run(
            runs: EnsembleState, source: BatchSource, numbers: RunHyperparameters, steps: Array
        ) -> EnsembleState:
            """The runs of one device, block after block."""

            def one(run: EnsembleState, numbers: RunHyperparameters) -> EnsembleState:
                def body(loop: tuple[Array, EnsembleState]) -> tuple[Array, EnsembleState]:
                    done, run = loop
                    return done + 1, advance(run, source, numbers)

                start = (jnp.int32(0), run)
                return jax.lax.while_loop(lambda loop: loop[0] < steps, body, start)[1]

            if block == local:
                return jax.vmap(one)(runs, numbers)
            return jax.lax.map(lambda each: one(*each), (runs, numbers), batch_size=block)

        spread = parallel.on_each_device(run, self.mesh, ROWS, WHOLE, ROWS, WHOLE)
        program = jax.jit(spread, donate_argnums=0, out_shardings=self.split)
        return program.lower(runs, self.source, numbers, jnp.int32(1)).compile()


def _is_cpu(mesh: Any) -> bool:
    return bool(mesh.devices.flat[0].platform == "cpu")


def _block(states: Any, count: int, local: int) -> int:
    """How many of a device's runs take their steps side by side, the others after them.

    On a CPU many small networks at once leave its cache at every step (256 of the names MLP are
    a third slower than 16), and networks that are large gain nothing from company.
    """
    state, params = (_bytes(tree) // count for tree in (states, states.params))
    # What a step touches, roughly: the state and the parameters, once read and once written.
    limit = max(1, min(local, _CACHE // max(1, 2 * (state + params))))
    # Blocks of one size, if there is one near: others are compiled apart.
    even = max(size for size in range(1, limit + 1) if local % size == 0)
    return even if 2 * even >= limit else limit


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def make_run_advance(
    model: CharModel, config: Config
) -> Callable[[EnsembleState, BatchSource, RunHyperparameters], EnsembleState]:
    """One step of one run of a stack; what it takes and gives has no axis R."""
    # A run has its whole batch to itself.
    alone = parallel.make_mesh(jax.local_devices()[:1], 1)

    def advance(
        run: EnsembleState, source: BatchSource, numbers: RunHyperparameters
    ) -> EnsembleState:
        own = dataclasses.replace(source, key=numbers.batch_key)
        step = run.states.counters.step
        # Nothing is below minus infinity: a run that has diverged takes no further step.
        max_loss = jnp.where(run.diverged < 0, numbers.max_loss, -jnp.inf)
        move = make_advance(model, with_rate(config, numbers.rate), alone, max_loss)
        state, metrics = move(run.states, own, numbers.dropout_key)
        counted = jnp.where(metrics.skipped > 0, 0.0, metrics.targets)
        loss = jnp.where(metrics.skipped > 0, 0.0, metrics.loss)
        stopped = state.counters.skipped_in_a_row >= config.train.max_skipped
        diverged = jnp.where((run.diverged < 0) & stopped, step, run.diverged)
        return EnsembleState(state, diverged, run.losses + loss * counted, run.targets + counted)

    return advance


def with_rate(config: Config, rate: Array) -> Config:
    """The config with a learning rate that is data; only inside the program it is traced in."""
    return config.model_copy(
        update={"optim": config.optim.model_copy(update={"learning_rate": rate})}
    )


class Program(Protocol):
    """Something compiled for a number of runs."""

    @property
    def count(self) -> int:
        """How many."""
        ...

    @property
    def memory(self) -> int:
        """Bytes it takes of each device."""
        ...


P = TypeVar("P", bound=Program)


def as_many_as_fit(build: Callable[[int], P], count: int, budget: float) -> P:
    """The program that `build` makes of up to `count` runs and that takes no more than `budget`.

    Found by compiling for fewer and fewer, in rounds of equal size; for one at the least.
    """
    rounds = 1
    while True:
        program = build(-(-count // rounds))
        needed = program.memory
        if program.count == 1 or needed <= budget:
            return program
        rounds = max(rounds + 1, rounds * 2 if needed > 2 * budget else 0)
