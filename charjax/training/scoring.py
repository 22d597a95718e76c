"""The compiled programs that score a batch: the loss of each target, or the sums.

Letters: B rows at once, T targets, V vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from charjax import parallel
from charjax.data.batches import Batch, BatchSource, ReadWindows, TextWindows
from charjax.data.host_batches import Block
from charjax.models.contract import CharModel
from charjax.training.step import cross_entropy

Windows = TextWindows | ReadWindows


@functools.partial(jax.jit, static_argnames=("window", "lookback"))
def gather_columns(windows: Windows, *, window: int, lookback: int) -> Batch:
    """Return the batch of some windows."""
    return windows.batch(window, lookback)


@functools.partial(jax.jit, static_argnames=("model", "each"))
def score_lookups(
    model: CharModel, variables: Any, batch: Batch, *, each: bool = False
) -> tuple[Array, Array]:
    """Return (loss, weight) of a batch by looking the targets up: sums, or of each target."""
    return _score(model, variables, batch, batch.targets.shape[1], each)


@functools.partial(jax.jit, static_argnames=("model", "window", "lookback", "piece", "each"))
def score_windows(
    model: CharModel,
    variables: Any,
    windows: Windows,
    *,
    window: int,
    lookback: int,
    piece: int,
    each: bool = False,
) -> tuple[Array, Array]:
    """Return (loss, weight) of windows: sums, or of each target."""
    before = 0 if model.memory == "finite" else lookback
    return _score(model, variables, windows.batch(window, lookback), piece, each, before)


@functools.partial(jax.jit, static_argnames=("model", "window", "each"))
def score_chunk(
    model: CharModel,
    variables: Any,
    windows: Windows,
    cache: Any,
    *,
    window: int,
    each: bool = False,
) -> tuple[tuple[Array, Array], Any]:
    """Return (loss, weight) of the next targets of each row, and the state after them.

    With `each` those of every target, else their sums; columns as of EvalWindows.
    """
    batch = windows.batch(window, 0)
    logits_BTV, cache = model.apply(variables, batch.inputs, cache)
    losses_BT = cross_entropy(logits_BTV, batch.targets)
    return (losses_BT, batch.weights) if each else _sums(losses_BT, batch.weights), cache


@functools.partial(jax.jit, static_argnames=("model", "mesh", "rows", "piece", "before"))
def score_draw(
    model: CharModel,
    variables: Any,
    source: BatchSource | Block,
    index: Array,
    part: Array,
    mesh: Mesh,
    rows: int,
    piece: int,
    before: int = 0,
) -> tuple[Array, Array]:
    """Return sums of (loss, weight) over the rows of a draw, or over one part of them."""
    batch = source.draw(index)
    if rows < source.batch_size:
        place_B = part * rows + jnp.arange(rows, dtype=jnp.int32)
        pick = functools.partial(jnp.take, indices=place_B, axis=0, mode="clip")
        exists_B1 = (place_B < source.batch_size)[:, None]
        batch = batch._replace(
            inputs=pick(batch.inputs),
            targets=pick(batch.targets),
            weights=jnp.where(exists_B1, pick(batch.weights), 0.0),
        )
    batch = parallel.constrain_batch(batch, mesh)
    return _score(model, variables, batch, piece, each=False, before=before)


def _score(
    model: CharModel, variables: Any, batch: Batch, piece: int, each: bool, before: int = 0
) -> tuple[Array, Array]:
    """Return (loss, weight), scoring `piece` targets of each row at a time.

    The first `before` inputs are those of `window_lookback`.
    """
    T = batch.targets.shape[1]
    if model.looks_up_targets:
        losses_BT = -model.apply(variables, batch.inputs, batch.targets, method="target_log_probs")
    elif piece >= T and before:
        logits_BTV = model.apply(variables, batch.inputs, T, method="window_logits")
        losses_BT = cross_entropy(logits_BTV, batch.targets)
    elif piece >= T:
        logits_BTV, _ = model.apply(variables, batch.inputs, num_outputs=T)
        losses_BT = cross_entropy(logits_BTV, batch.targets)
    else:
        cache = model.cache_after(batch.inputs[:, :before])
        batch = batch._replace(inputs=batch.inputs[:, before:])
        return _score_pieces(model, variables, batch, cache, piece, each)
    return (losses_BT, batch.weights) if each else _sums(losses_BT, batch.weights)


def _score_pieces(
    model: CharModel, variables: Any, batch: Batch, cache: Any, piece: int, each: bool
) -> tuple[Array, Array]:
    """Score with a cache carried from piece to piece; the first may be shorter."""
    B, T = batch.targets.shape
    count = -(-T // piece)
    first = T - (count - 1) * piece
    head = batch.inputs.shape[1] - T + first

    def score(cache: Any, part: tuple[Array, Array, Array]) -> tuple[Any, tuple[Array, Array]]:
        inputs, targets, weights = part
        logits, cache = model.apply(variables, inputs, cache, num_outputs=targets.shape[1])
        losses = cross_entropy(logits, targets)
        return cache, (losses, weights) if each else _sums(losses, weights)

    def later(array: Array, begin: int) -> Array:
        """Return all pieces but the first, (count - 1, B, piece)."""
        return array[:, begin:].reshape(B, count - 1, piece).swapaxes(0, 1)

    first_piece = batch.inputs[:, :head], batch.targets[:, :first], batch.weights[:, :first]
    cache, (loss, weight) = score(cache, first_piece)
    parts = later(batch.inputs, head), later(batch.targets, first), later(batch.weights, first)
    _, (losses, weights) = jax.lax.scan(score, cache, parts)
    if not each:
        return loss + jnp.sum(losses), weight + jnp.sum(weights)
    rest_BT = losses.swapaxes(0, 1).reshape(B, T - first)
    return jnp.concatenate([loss, rest_BT], axis=1), batch.weights


def _sums(losses_BT: Array, weights_BT: Array) -> tuple[Array, Array]:
    # A loss that is not finite counts only where its weight is above 0.
    counted_BT = jnp.where(weights_BT > 0, losses_BT * weights_BT, 0.0)
    return jnp.sum(counted_BT), jnp.sum(weights_BT)
