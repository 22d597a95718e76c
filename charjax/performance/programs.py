"""The compiled programs of a run, as functions and the shapes of their arguments.

They can be lowered, exported and compiled for devices that this process does not have: the mesh
may be one of a topology alone, and no array is placed on it.

Letters: B rows at once, T tokens, V vocabulary.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from charjax import backend, parallel
from charjax.data.batches import TextWindows
from charjax.data.host_batches import Block
from charjax.generation.decoder import State, decode_tokens
from charjax.generation.sampling import Sampling
from charjax.models.contract import CharModel
from charjax.training.evaluation import CARRIED_CHUNK
from charjax.training.program import argument_of, chunk_function, dropout_key, uses_onednn
from charjax.training.scoring import gather_columns, score_chunk, score_lookups, score_windows
from charjax.training.session import Session, state_shardings
from charjax.training.state import state_shapes, variables_of


class Program(NamedTuple):
    """A program of a run.

    Attributes:
      name: train, evaluate or decode.
      function: the jitted function.
      arguments: shapes, dtypes and shardings of its arrays, without static arguments.
      mesh: of the devices that it is for.
      onednn: compiled with oneDNN's products (`charjax.training.program.uses_onednn`).
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    mesh: Mesh
    onednn: bool = False

    def lower(self) -> jax.stages.Lowered:
        """Trace and lower for the devices of the mesh."""
        with parallel.target(self.mesh):
            return self.function.lower(*self.arguments)

    def compile(self) -> jax.stages.Compiled:
        """Compile for the devices of the mesh, with the options of a run."""
        return backend.compiled(self.lower(), self.mesh, onednn=self.onednn)

    def export(self, *platforms: str) -> jax.export.Exported:
        """Trace once and lower for several platforms together, such as "cuda", "tpu", "rocm"."""
        with parallel.target(self.mesh):
            return jax.export.export(self.function, platforms=platforms)(*self.arguments)


def training(session: Session, mesh: Mesh) -> Program:
    """Return a session's chunk of training steps; the families that count have none."""
    whole = parallel.replicated(mesh)
    placed = dataclasses.replace(session, mesh=mesh)
    state = state_shapes(session.model, session.config)
    shardings = state_shardings(placed, state)
    function = chunk_function(session.model, session.config, mesh, shardings)
    key = jax.eval_shape(lambda: dropout_key(session.config, mesh))
    arguments = (
        jax.tree.map(_shaped, state, shardings),
        _source(session, mesh),
        _shaped(key, whole),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    return Program("train", function, arguments, mesh, uses_onednn(session.config, mesh))


def _source(session: Session, mesh: Mesh) -> Any:
    """Return the shapes of what the loop draws its batches from, on the devices of a mesh."""
    assert session.source is not None
    source = argument_of(session.source, mesh)
    return source if isinstance(source, Block) else _whole(source, mesh)


def evaluation(
    model: CharModel, variables: Any, mesh: Mesh, *, rows: int, window: int, tokens: int
) -> Program:
    """Return the program that scores a batch of windows, or of chunks for a carried state.

    Args:
      model: the model.
      variables: its variables or their shapes.
      mesh: the devices.
      rows: B, a multiple of the devices.
      window: targets of a row.
      tokens: of the split; uint8, or uint16 or uint32 where there are more symbols.
    """
    wider = jnp.uint16 if model.vocab_size <= 2**16 else jnp.uint32
    dtype = jnp.uint8 if model.vocab_size <= 2**8 else wider
    text = jax.ShapeDtypeStruct((tokens,), dtype, sharding=parallel.replicated(mesh))
    column = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=parallel.split_over(mesh))
    variables = _whole(variables, mesh)
    windows = TextWindows(text, *[column] * 4)  # type: ignore[arg-type]
    sizes: Any = {"window": window, "lookback": model.lookback or model.window_lookback}
    if model.looks_up_targets:
        batch = jax.eval_shape(functools.partial(gather_columns, **sizes), windows)
        function = _bound(score_lookups, model)
        return Program("evaluate", function, (variables, _rows(batch, mesh)), mesh)
    if model.memory == "carried":
        window = min(window, CARRIED_CHUNK)
        cache = _rows(jax.eval_shape(lambda: model.init_cache(rows)), mesh)
        function = _bound(score_chunk, model, window=window)
        return Program("evaluate", function, (variables, windows, cache), mesh)
    function = _bound(score_windows, model, piece=window, **sizes)
    return Program("evaluate", function, (variables, windows), mesh)


def decoding(
    model: CharModel, variables: Any, mesh: Mesh, *, samples: int, settings: Sampling
) -> Program:
    """Return the program that generates tokens of so many samples from a cache."""
    column: Any = jax.ShapeDtypeStruct((samples,), jnp.int32)
    cache = jax.eval_shape(lambda: model.init_cache(samples))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), samples))
    scalar: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=parallel.replicated(mesh))
    done: Any = jax.ShapeDtypeStruct((samples,), jnp.bool_)
    seen: Any = ()
    if settings.reads_text:
        seen = jax.ShapeDtypeStruct((samples, model.vocab_size), jnp.bool_)
    rows = _rows((keys, State(cache, column, scalar, done, seen)), mesh)
    stop, sliding = None, False
    function = _bound(decode_tokens, model, mesh, settings, stop, sliding, donate=(2,))
    return Program("decode", function, (_whole(variables, mesh), *rows, scalar), mesh)


def variable_shapes(session: Session) -> Any:
    """Return the shapes of a trained family's variables."""
    return jax.eval_shape(variables_of, state_shapes(session.model, session.config))


def _bound(function: Any, *leading: Any, donate: tuple[int, ...] = (), **static: Any) -> Any:
    """Return a jitted function of the arrays alone."""
    bound = functools.partial(function.__wrapped__, *leading, **static)
    return jax.jit(bound, donate_argnums=donate)


def _shaped(leaf: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _whole(tree: Any, mesh: Mesh) -> Any:
    return jax.tree.map(lambda leaf: _shaped(leaf, parallel.replicated(mesh)), tree)


def _rows(tree: Any, mesh: Mesh) -> Any:
    split, whole = parallel.split_over(mesh), parallel.replicated(mesh)
    return jax.tree.map(lambda leaf: _shaped(leaf, split if leaf.ndim else whole), tree)
