"""Many steps as one compiled program.

A chunk is a while loop with a traced number of steps and a fixed buffer of metrics: compiled
once, as fast as `lax.scan`, and bit-identical however a run is cut into chunks.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from charjax import backend, parallel
from charjax.config import Config
from charjax.data.batches import BatchSource
from charjax.models.contract import CharModel
from charjax.ops.choice import mask_generator
from charjax.random_streams import Generator, purpose_key
from charjax.training.cpu_plan import has_onednn_products
from charjax.training.state import TrainState
from charjax.training.step import Metrics, make_train_step

# The most steps per chunk: the rows of the metrics buffer.
CAPACITY = 8192

Advance = Callable[[TrainState, BatchSource, Array], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class ChunkProgram:
    """The compiled program: `run(state, steps) -> (state, metrics, done)`."""

    compiled: Any
    source: BatchSource
    dropout_key: Array
    compile_seconds: float

    def run(self, state: TrainState, steps: int) -> tuple[TrainState, Array, Array]:
        """Start up to CAPACITY steps and return at once.

        `state` is donated. Returns the new state, a (CAPACITY, metrics) float32 buffer
        and the number of steps done, which is smaller if too many in a row were not finite.
        """
        return self.compiled(state, self.source, self.dropout_key, jnp.int32(steps))


def compile_chunks(
    model: CharModel, config: Config, source: BatchSource, state: TrainState, mesh: Mesh, key: Array
) -> ChunkProgram:
    """Compile the loop ahead of time for this state, on this mesh."""
    began = time.perf_counter()
    lowered = lower_chunks(model, config, source, state, mesh, key)
    compiled = backend.compiled(lowered, mesh, onednn=uses_onednn(config, mesh))
    return ChunkProgram(compiled, source, key, time.perf_counter() - began)


def generator(config: Config, mesh: Mesh) -> Generator:
    """Return the generator of a run's dropout masks on these devices."""
    if config.runtime.prng != "auto":
        return config.runtime.prng
    with parallel.target(mesh):
        return mask_generator()


def dropout_key(config: Config, mesh: Mesh) -> Array:
    """Return the key from which a run on these devices draws its dropout masks."""
    return purpose_key(config.train.seed, "dropout", generator(config, mesh))


def uses_onednn(config: Config, mesh: Mesh) -> bool:
    """Return true if the loop for this mesh is compiled with oneDNN's products."""
    with parallel.target(mesh):
        return has_onednn_products(config, mesh.size)


def lower_chunks(
    model: CharModel, config: Config, source: BatchSource, state: TrainState, mesh: Mesh, key: Array
) -> jax.stages.Lowered:
    """Trace and lower the loop for this state, on this mesh."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    program = chunk_function(model, config, mesh, shardings)
    with parallel.target(mesh):
        return program.lower(state, source, key, jnp.int32(1))


def chunk_function(model: CharModel, config: Config, mesh: Mesh, shardings: TrainState) -> Any:
    """Return the jitted loop: (state, source, dropout key, steps) -> (state, metrics, done).

    Args:
      model: the model.
      config: the configuration.
      mesh: the devices that share the batch.
      shardings: of each part of the state.
    """
    advance = make_advance(model, config, mesh)
    bound = config.train.max_skipped

    def run_chunk(
        state: TrainState, source: BatchSource, dropout_key: Array, steps: Array
    ) -> tuple[TrainState, Array, Array]:
        def goes_on(loop: tuple[Array, TrainState, Array]) -> Array:
            done, state, _ = loop
            return (done < steps) & (state.counters.skipped_in_a_row < bound)

        def body(loop: tuple[Array, TrainState, Array]) -> tuple[Array, TrainState, Array]:
            done, state, buffer = loop
            state, metrics = advance(state, source, dropout_key)
            state = parallel.constrain_divided(state, shardings, mesh)
            return done + 1, state, buffer.at[done].set(jnp.stack(metrics))

        buffer = jnp.zeros((CAPACITY, len(Metrics._fields)), jnp.float32)
        done, state, buffer = jax.lax.while_loop(goes_on, body, (jnp.int32(0), state, buffer))
        return state, buffer, done

    whole = parallel.replicated(mesh)
    return jax.jit(run_chunk, donate_argnums=0, out_shardings=(shardings, whole, whole))


def make_advance(
    model: CharModel, config: Config, mesh: Mesh, max_loss: Array | None = None
) -> Advance:
    """Return one step of a run, whose batch and dropout are drawn by the number of the step."""
    train_step = make_train_step(model, config, max_loss, mesh)

    def share(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
        return parallel.shard_rows(function, mesh, parallel.WHOLE, parallel.ROWS)

    def advance(
        state: TrainState, source: BatchSource, dropout_key: Array
    ) -> tuple[TrainState, Metrics]:
        step = state.counters.step
        batch = parallel.constrain_batch(source.draw(step, share), mesh)
        return train_step(state, batch, jax.random.fold_in(dropout_key, step))

    return advance
