"""A training run as it is timed: the compiled chunk of its real loop, called again and again."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax import hardware
from charjax.parallel import first_copy, whole
from charjax.performance.failures import check_memory
from charjax.training.program import ChunkProgram, compile_chunks, dropout_key
from charjax.training.session import Session, first_source, first_state
from charjax.training.state import TrainState, variables_of
from charjax.training.step import cross_entropy

# Batches of lines whose targets are counted.
_DRAWN = 32


@dataclasses.dataclass
class Training:
    """A run that is trained chunk by chunk, as the real loop does it.

    Attributes:
      session: text, model, devices.
      program: the compiled chunk of steps.
      state: the current one; donated to each chunk.
      bytes_needed: by the compiled program.
    """

    session: Session
    program: ChunkProgram
    state: TrainState
    bytes_needed: int

    def steps(self, count: int) -> None:
        """Do so many steps in calls as long as the loop's longest, and wait for the last."""
        step = int(self.state.counters.step)
        last = step + count
        while step < last:
            steps = min(last - step, self.program.most_steps(step))
            self.state, _, done = self.program.run(self.state, steps, step)
            step += steps
        done.block_until_ready()

    def dispatches(self, steps: int) -> Callable[[int], None]:
        """Return a function that runs n chunks of so many steps, and waits for the last."""

        def run(count: int) -> None:
            for _ in range(count):
                self.state, _, done = self.program.run(self.state, steps)
            done.block_until_ready()

        return run

    @property
    def tokens_a_step(self) -> int:
        """Number of targets in a batch."""
        source = self.session.source
        assert source is not None
        return source.batch_size * source.window


def prepare(session: Session) -> Training:
    """Draw the parameters, and compile the chunk as the real loop does.

    Raises:
      LeftOut: it needs more memory than is available.
    """
    config, state = session.config, first_state(session)
    key = dropout_key(config, session.mesh)
    assert session.source is not None
    program = compile_chunks(session.model, config, session.source, state, session.mesh, key)
    devices = list(session.mesh.devices.flat)
    needed = check_memory(program.compiled, hardware.available_memory(devices))
    return Training(session, program, state, needed)


def exact_loss(training: Training) -> float:
    """Return charjax's mean loss on the first batch, with all products in full float32."""
    session = training.session
    model = session.model.clone(dtype=jnp.float32)
    batch = jax.jit(lambda source: source.draw(jnp.int32(0)))(first_copy(first_source(session)))

    @jax.jit
    def loss(variables: Any) -> Array:
        logits, _ = model.apply(variables, batch.inputs, num_outputs=batch.targets.shape[1])
        return jnp.mean(cross_entropy(logits, batch.targets))

    with jax.default_matmul_precision("highest"):
        return float(loss(first_copy(whole(variables_of(training.state), session.mesh))))


def first_batch(session: Session) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs (B, S) and targets (B, T) of step 0."""
    batch = jax.jit(lambda source: source.draw(jnp.int32(0)))(first_source(session))
    return np.asarray(batch.inputs), np.asarray(batch.targets)


def targets_per_step(session: Session) -> float:
    """Return the mean number of targets of a batch, padding left out."""
    source = session.source
    assert source is not None
    if session.config.data.layout != "lines":
        return float(source.batch_size * source.window)
    weights = jax.jit(lambda source, step: jnp.sum(source.draw(step).weights))
    steps = range(_DRAWN)
    drawn = (first_copy(first_source(session, step)) for step in steps)
    return float(np.mean([float(weights(each, jnp.int32(n))) for n, each in enumerate(drawn)]))
