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
from charjax.data.host_batches import Block, HostSource
from charjax.models.contract import CharModel
from charjax.ops.choice import mask_generator
from charjax.programs.command import open_store
from charjax.programs.facts import config_facts
from charjax.random_streams import Generator, purpose_key
from charjax.training.cpu_plan import has_onednn_products
from charjax.training.feed import Feed, Source, block_shapes
from charjax.training.state import TrainState
from charjax.training.step import Metrics, make_train_step

# The most steps per chunk: the rows of the metrics buffer.
CAPACITY = 8192

Advance = Callable[[TrainState, BatchSource | Block, Array], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class ChunkProgram:
    """The compiled program: `run(state, steps) -> (state, metrics, done)`.

    Attributes:
      compiled: the loop.
      source: of the batches; of a text on the host, what brings them to the devices.
      dropout_key: of the run.
      compile_seconds: that it took.
    """

    compiled: Any
    source: BatchSource | Feed
    dropout_key: Array
    compile_seconds: float

    def most_steps(self, step: int) -> int:
        """Return the most steps that a chunk may have after `step` steps."""
        return self.source.at(step)[1] if isinstance(self.source, Feed) else CAPACITY

    def run(
        self, state: TrainState, steps: int, step: int | None = None
    ) -> tuple[TrainState, Array, Array]:
        """Start a chunk of steps and return at once.

        `state` is donated. Returns the new state, a (CAPACITY, metrics) float32 buffer
        and the number of steps done, which is smaller if too many in a row were not finite.

        Args:
          state: of the run.
          steps: at most `most_steps(step)`.
          step: the steps that the state has done; None: they are read from it, where they are
            needed, which waits for the device.

        Raises:
          UserError: the file of a text on the host has been cut short.
        """
        source: BatchSource | Block
        if isinstance(self.source, Feed):
            source, most = self.source.at(int(state.counters.step) if step is None else step)
            if steps > most:
                raise ValueError(f"{steps} steps given; at most {most} of them are in a block")
        else:
            source = self.source
        return self.compiled(state, source, self.dropout_key, jnp.int32(steps))


def compile_chunks(
    model: CharModel, config: Config, source: Source, state: TrainState, mesh: Mesh, key: Array
) -> ChunkProgram:
    """Compile the loop ahead of time for this state, on this mesh.

    Meanwhile the first batches of a text on the host are read.
    """
    began = time.perf_counter()
    batches: BatchSource | Feed
    if isinstance(source, HostSource):
        batches = Feed(source, mesh, int(state.counters.step), config.train.steps)
    else:
        batches = source
    compiled = _compiled(model, config, source, state, mesh, key)
    return ChunkProgram(compiled, batches, key, time.perf_counter() - began)


def _compiled(
    model: CharModel, config: Config, source: Source, state: TrainState, mesh: Mesh, key: Array
) -> jax.stages.Compiled:
    """Compile the loop, or load what an earlier start of the command stored."""

    def lower() -> jax.stages.Lowered:
        return lower_chunks(model, config, source, state, mesh, key)

    onednn = uses_onednn(config, mesh)
    store, settings = open_store(), config_facts(config)
    if store is None or settings is None or onednn or mesh.is_multi_process:
        return backend.compiled(lower(), mesh, onednn=onednn)
    return store.get(
        ("chunk", settings, str(model.vocab_size)),
        (state, argument_of(source, mesh), key, jnp.int32(1)),
        mesh,
        lower,
        lambda lowered: backend.compiled(lowered, mesh, onednn=False),
        prepares=True,
    )


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
    model: CharModel, config: Config, source: Source, state: TrainState, mesh: Mesh, key: Array
) -> jax.stages.Lowered:
    """Trace and lower the loop for this state, on this mesh."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    program = chunk_function(model, config, mesh, shardings)
    with parallel.target(mesh):
        return program.lower(state, argument_of(source, mesh), key, jnp.int32(1))


def argument_of(source: Source, mesh: Mesh) -> BatchSource | Block:
    """Return the loop's source of batches, or the shapes of one for a text on the host."""
    if isinstance(source, HostSource):
        return block_shapes(source, source.most_steps, mesh)
    return source


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
        state: TrainState, source: BatchSource | Block, dropout_key: Array, steps: Array
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
        state: TrainState, source: BatchSource | Block, dropout_key: Array
    ) -> tuple[TrainState, Metrics]:
        step = state.counters.step
        batch = parallel.constrain_batch(source.draw(step, share), mesh)
        return train_step(state, batch, jax.random.fold_in(dropout_key, step))

    return advance
