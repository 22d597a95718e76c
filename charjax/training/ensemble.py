"""Several runs trained as one program: the step of a single run, vmapped.

The runs are divided over the devices, which exchange nothing. They differ in data alone: the state
(and so what a scheme drew, and its factors), the batches, dropout and the learning rate. A run
that diverges stays as it was, and its step is recorded.

Letters: R runs.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax import parallel
from charjax.config import Config
from charjax.config.values import format_value
from charjax.data.batches import BatchSource
from charjax.errors import UserError
from charjax.models.contract import CharModel
from charjax.parallel import ROWS, WHOLE
from charjax.random_streams import purpose_key
from charjax.training.ensemble_kernel import RunLoop, make_run_loop
from charjax.training.ensemble_state import (
    EnsembleState,
    RunHyperparameters,
    with_hyperparameters,
)
from charjax.training.feed import device_source
from charjax.training.program import make_advance
from charjax.training.session import Session, seed_state
from charjax.training.state import TrainState

# The part of the available memory that one program may use.
MEMORY_SHARE = 0.6
# Second-level cache of a CPU's core: 1 or 2 MiB on current servers.
_CACHE = 2 * 2**20
_FIXED_BLOCKS = (1, 2, 4)
_DISPATCH_SECONDS = 0.5
# The sums of the losses are float32 on the device and are added up in float64 on the host, always
# after the same steps, so that they do not depend on how long a step takes.
_FLUSH_STEPS = 1000
T = TypeVar("T")


def check_config(config: Config) -> None:
    """Refuse settings that runs of one program cannot have.

    With rbg all would draw their masks by the first one's key, as they are vmapped; "auto" is
    threefry there. The behaviour is JAX's: findings/vmapped-rbg-keys.sh.

    Raises:
      UserError: runtime.prng is rbg, runtime.dtype is not chosen, runtime.mesh divides parameters,
        or there are counts beside the network.
    """
    if orders := getattr(config.model, "counts", ()):
        raise UserError(
            f"model.counts: {format_value(orders)} given; runs that are trained in one program "
            "have no counts beside the network, whose tables each would hold: set model.counts=[]"
        )
    if config.runtime.prng == "rbg":
        raise UserError(
            'runtime.prng: "rbg" given; runs that are trained in one program would all draw their '
            'dropout masks by the first one\'s key: use "threefry", or "auto", which is that there'
        )
    if config.runtime.dtype == "auto":
        raise UserError(
            'runtime.dtype: "auto" given; it is measured for a run by itself, and runs that are '
            'trained in one program share it: use "float32" or "bfloat16"'
        )
    if config.runtime.mesh.fsdp != 1:
        raise UserError(
            f"runtime.mesh.fsdp: {config.runtime.mesh.fsdp} given; of runs that are trained in one "
            "program each has its parameters on one device: leave it at 1"
        )


def initial_run(
    session: Session,
    source: BatchSource,
    seed: Array,
    learning_rate: Array,
    *,
    with_scales: bool = False,
) -> tuple[TrainState, RunHyperparameters]:
    """Return a run of `session` with another seed and learning rate at step 0; for use in jit.

    `with_scales` is that of `create_state`.
    """
    batch_key = purpose_key(seed, "batches")
    seed_source = dataclasses.replace(source, key=batch_key)
    init_key, dropout_key = purpose_key(seed, "init"), purpose_key(seed, "dropout")
    state = seed_state(session, init_key, seed_source, with_scales=with_scales)
    return state, RunHyperparameters(batch_key, dropout_key, learning_rate, jnp.float32(jnp.inf))


def initial_ensemble(states: TrainState) -> EnsembleState:
    """Return the state of an ensemble whose runs are at step 0."""
    count = states.counters.step.shape[0]
    # Distinct arrays, so that they can be donated.
    losses_R, targets_R = jnp.zeros(count, jnp.float32), jnp.zeros(count, jnp.float32)
    return EnsembleState(states, jnp.full(count, -1, jnp.int32), losses_R, targets_R)


class Ensemble:
    """The compiled training loop for `count` runs of a session's model and text at once."""

    def __init__(
        self, session: Session, count: int, initial: Any = None, *, uses_kernels: bool = False
    ):
        """Compile ahead of time.

        Args:
          session: model, config, text and devices of all runs; the seed and the learning rate in
            the config are not read. The runs are divided over the devices as far as `count` can be.
          count: R.
          initial: (EnsembleState, RunHyperparameters) at step 0, or their shapes; by default those
            of `start`.
          uses_kernels: train by compiled kernels, where they are there and cover the runs.

        Raises:
          UserError: as `check_config`, and the text stays on the host.
        """
        check_config(session.config)
        self.count = count
        self.mesh = parallel.make_mesh(session.devices, count)
        self.split = parallel.split_over(self.mesh)
        source = device_source(session.source)
        self.source = parallel.place(source, parallel.replicated(self.mesh))
        self._start = jax.jit(functools.partial(_start, session))
        if initial is None:
            seeds_R, rates_R = jnp.zeros(count, jnp.uint32), jnp.zeros(count, jnp.float32)
            initial = jax.eval_shape(self._start, self.source, seeds_R, rates_R)
        loop = _vmapped_loop(session.model, session.config)
        if uses_kernels and _is_cpu(self.mesh):
            traced = tuple(initial[1].settings)
            loop = make_run_loop(session.model, session.config, traced) or loop
        self._compiled = self._compile(loop, initial)

    @property
    def memory(self) -> int:
        """Bytes in use while it runs, as the compiler counts them, per device."""
        sizes = self._compiled.memory_analysis()
        return int(sizes.temp_size_in_bytes + sizes.argument_size_in_bytes)

    def start(self, seeds: Any, learning_rates: Any) -> tuple[EnsembleState, RunHyperparameters]:
        """Return the runs of these seeds (R,) and learning rates (R,) at step 0."""
        seeds_R, rates_R = jnp.asarray(seeds, jnp.uint32), jnp.asarray(learning_rates, jnp.float32)
        return self.place(self._start(self.source, seeds_R, rates_R))

    def run(
        self, state: EnsembleState, hyperparameters: RunHyperparameters, steps: int
    ) -> EnsembleState:
        """Start `steps` steps of every run, and return at once; `state` is donated."""
        return self._compiled(state, self.source, hyperparameters, jnp.int32(steps))

    def place(self, tree: T) -> T:
        """Divide arrays with a leading axis R over the devices, as the program expects them."""
        return parallel.place(tree, jax.tree.map(lambda _: self.split, tree))

    def shaped(self, tree: Any) -> Any:
        """Return the shapes and shardings of `place(tree)`."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.split), tree
        )

    def _compile(self, loop: RunLoop, initial: Any) -> Any:
        state, hyperparameters = self.shaped(initial)
        local = self.count // self.mesh.size
        block = _block(state.states, self.count, local) if _is_cpu(self.mesh) else local

        def run(
            state: EnsembleState,
            source: BatchSource,
            hyperparameters: RunHyperparameters,
            steps: Array,
        ) -> EnsembleState:
            """Train the runs of one device, block after block."""

            def one(state: EnsembleState, hyperparameters: RunHyperparameters) -> EnsembleState:
                return loop(state, source, hyperparameters, steps)

            if block == local:
                return jax.vmap(one)(state, hyperparameters)
            return jax.lax.map(lambda each: one(*each), (state, hyperparameters), batch_size=block)

        divided = parallel.on_each_device(run, self.mesh, ROWS, WHOLE, ROWS, WHOLE)
        program = jax.jit(divided, donate_argnums=0, out_shardings=self.split)
        with parallel.target(self.mesh):
            lowered = program.lower(state, self.source, hyperparameters, jnp.int32(1))
        return lowered.compile()


def _vmapped_loop(model: CharModel, config: Config) -> RunLoop:
    """Return the loop over the steps of one run, which is vmapped over runs."""
    advance = make_run_advance(model, config)

    def loop(
        state: EnsembleState,
        source: BatchSource,
        hyperparameters: RunHyperparameters,
        steps: Array,
    ) -> EnsembleState:
        def body(loop: tuple[Array, EnsembleState]) -> tuple[Array, EnsembleState]:
            done, state = loop
            return done + 1, advance(state, source, hyperparameters)

        start = (jnp.int32(0), state)
        return jax.lax.while_loop(lambda loop: loop[0] < steps, body, start)[1]

    return loop


def _start(
    session: Session, source: BatchSource, seeds_R: Array, rates_R: Array
) -> tuple[EnsembleState, RunHyperparameters]:
    one = functools.partial(initial_run, session, source)
    states, hyperparameters = jax.vmap(one)(seeds_R, rates_R)
    return initial_ensemble(states), hyperparameters


class EnsembleTraining:
    """R runs in training: their state, and how they get to a later step.

    Attributes:
      ensemble: the compiled loop.
      state: of the runs.
      hyperparameters: of the runs.
      step: steps done.
      sums_2R: float64, losses and targets of each run since they were last set to 0.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        state: EnsembleState,
        hyperparameters: RunHyperparameters,
        report_progress: Callable[[int, float], None] = lambda steps, seconds: None,
        poll: Callable[[], None] = lambda: None,
    ):
        """Begin at step 0.

        Args:
          ensemble: the compiled loop.
          state: of the runs at step 0.
          hyperparameters: of the runs.
          report_progress: called with the steps that each run has done since the call before, and
            the seconds that they took.
          poll: called between calls of the program; may raise to stop.
        """
        self.ensemble, self.state, self.hyperparameters = ensemble, state, hyperparameters
        self.sums_2R = np.zeros((2, ensemble.count))
        self.step, self._length = 0, 1
        self._report_progress, self._poll = report_progress, poll

    def advance(self, goal: int, sums_at: int | None = None) -> None:
        """Train up to the step `goal`, in calls of about half a second.

        Args:
          goal: the step.
          sums_at: the next step at which the sums are read, if they are not read at `goal`: they
            are added up there, and a stop on the way changes no bit of them.
        """
        while self.step < goal:
            flush = min(sums_at or goal, (self.step // _FLUSH_STEPS + 1) * _FLUSH_STEPS)
            began, steps = time.perf_counter(), min(self._length, min(flush, goal) - self.step)
            self.state = self.ensemble.run(self.state, self.hyperparameters, steps)
            jax.block_until_ready(self.state.diverged)
            seconds = time.perf_counter() - began
            self.step += steps
            self._length = int(min(max(_DISPATCH_SECONDS * steps / seconds, 1), 8 * steps))
            if self.step == flush:
                self.sums_2R += np.asarray([self.state.losses, self.state.targets], np.float64)
                self.state = self.state.emptied()
            self._report_progress(steps, seconds)
            if self.step < goal:
                self._poll()

    def pop_sums(self) -> np.ndarray:
        """Return `sums_2R`, and set them to 0."""
        sums_2R, self.sums_2R = self.sums_2R, np.zeros_like(self.sums_2R)
        return sums_2R


def _is_cpu(mesh: Any) -> bool:
    return bool(mesh.devices.flat[0].platform == "cpu")


def _block(states: Any, count: int, local: int) -> int:
    """Return how many of a device's runs are vmapped at once; the others follow them.

    On a CPU many small networks at once leave its cache at every step (256 of the names MLP are
    a third slower than 16), and large networks gain nothing from it.
    """
    limit = max(1, min(local, _cached_runs(states, count)))
    # Blocks of equal size, if one is near: a remainder is compiled as a program of its own.
    even = max(size for size in range(1, limit + 1) if local % size == 0)
    return even if 2 * even >= limit else limit


def fixed_count(states: TrainState, count: int, devices: int) -> int:
    """Return a number of runs for CPUs that depends on the size of one run alone: 1, 2 or 4 each.

    If all runs are trained by programs of this one number, a run has the same bits whatever is
    trained beside it. It is as fast as larger ones (measured for networks of 200 to 2,000
    parameters: blocks of 16 and 64 are within 20 % of those of 4, some faster, some slower).

    Args:
      states: of `count` runs, or their shapes.
      count: R.
      devices: of the program.
    """
    fitting = max(1, _cached_runs(states, count))
    return devices * max(size for size in _FIXED_BLOCKS if size <= fitting)


def _cached_runs(states: TrainState, count: int) -> int:
    """Return how many runs fit into a core's cache."""
    state, params = (_bytes(tree) // count for tree in (states, states.params))
    # Bytes that a step touches, roughly: state and parameters, each read once and written once.
    return _CACHE // max(1, 2 * (state + params))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def make_run_advance(
    model: CharModel, config: Config
) -> Callable[[EnsembleState, BatchSource, RunHyperparameters], EnsembleState]:
    """Return the function that takes one step of one run; its arguments have no axis R."""
    # The batch of a run is not divided.
    one_device = parallel.make_mesh(jax.local_devices()[:1], 1)

    def advance(
        run: EnsembleState, source: BatchSource, hyperparameters: RunHyperparameters
    ) -> EnsembleState:
        run_source = dataclasses.replace(source, key=hyperparameters.batch_key)
        step = run.states.counters.step
        # Nothing is below minus infinity: a run that has diverged takes no further step.
        max_loss = jnp.where(run.diverged < 0, hyperparameters.max_loss, -jnp.inf)
        run_config = with_hyperparameters(config, hyperparameters)
        advance_one = make_advance(model, run_config, one_device, max_loss)
        state, metrics = advance_one(run.states, run_source, hyperparameters.dropout_key)
        targets = jnp.where(metrics.skipped > 0, 0.0, metrics.targets)
        loss = jnp.where(metrics.skipped > 0, 0.0, metrics.loss)
        stopped = state.counters.skipped_in_a_row >= config.train.max_skipped
        diverged = jnp.where((run.diverged < 0) & stopped, step, run.diverged)
        return EnsembleState(state, diverged, run.losses + loss * targets, run.targets + targets)

    return advance


class Program(Protocol):
    """A program compiled for a number of runs."""

    @property
    def count(self) -> int:
        """Number of runs."""
        ...

    @property
    def memory(self) -> int:
        """Bytes in use per device."""
        ...


P = TypeVar("P", bound=Program)


def as_many_as_fit(build: Callable[[int], P], count: int, budget: float) -> P:
    """Return a program of up to `count` runs whose memory is at most `budget` bytes per device.

    Programs are built of fewer and fewer runs, in rounds of equal size, down to one run.
    """
    rounds = 1
    while True:
        program = build(-(-count // rounds))
        needed = program.memory
        if program.count == 1 or needed <= budget:
            return program
        rounds = max(rounds + 1, rounds * 2 if needed > 2 * budget else 0)
