"""The loss of a model over a whole split, every target once.

Letters: B rows at once, T targets.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from charjax import parallel
from charjax.data.batches import Batch, BatchSource, gather_windows
from charjax.data.datasets import Split
from charjax.data.windows import EvalWindows, evaluation_windows
from charjax.errors import UserError
from charjax.models.contract import CharModel
from charjax.training.step import cross_entropy

# Targets read at once by a family that is not bound to windows of its own.
_CHUNK = 256
_CARRIED_CHUNK = 1024
# Rows of weight 0 that fill up the last batch start here.
_PADDING = 0


class Score(NamedTuple):
    """A measured loss.

    Attributes:
      loss: mean, in nats a target.
      targets: targets counted.
    """

    loss: float
    targets: int


def exact_loss(
    model: CharModel,
    variables: Any,
    split: Split,
    mesh: Mesh,
    *,
    context_length: int,
    batch_size: int,
    context: int | None = None,
    stride: int | None = None,
    poll: Callable[[], None] = lambda: None,
) -> Score:
    """Mean loss over every target of a split.

    By default a family with finite or carried memory reads each document as one stream, and a
    windowed one in non-overlapping windows of context_length, the short last one included. With
    `context`, every family reads windows of that many characters, `stride` apart, and scores
    what the window before did not reach.

    Args:
      model: the model.
      variables: its parameters and other collections.
      split: the text.
      mesh: where to run.
      context_length: the model's own, in characters.
      batch_size: windows at once.
      context: characters in a window.
      stride: characters between the starts of two windows; by default `context`.
      poll: called between batches; may raise to stop.

    Raises:
      UserError: context or stride out of bounds.
    """
    _check_window(model, context_length, context, stride)
    rows = parallel.round_up(batch_size, mesh)
    if context is None and stride is None and model.memory == "carried":
        batches = _carried(model, variables, split, mesh, rows)
    else:
        free = context is None and stride is None and model.memory == "finite"
        window = _CHUNK if free else context or context_length
        window = min(window, int(split.doc_lengths.max()))
        step, lookback = min(stride or window, window), model.lookback if free else 0
        table = evaluation_windows(split, window=window, stride=step)
        batches = _windowed(model, variables, split, mesh, rows, table, window, lookback)
    sums = []
    for pair in batches:
        sums.append(pair)
        if len(sums) % 8 == 0:
            # Wait for what is eight batches old: a signal is answered, the device never idles.
            jax.block_until_ready(sums[-8])
            poll()
    losses, weights = np.asarray(jax.device_get(sums), np.float64).sum(axis=0)
    return Score(float(losses / weights), round(float(weights)))


def random_loss(
    model: CharModel,
    variables: Any,
    source: BatchSource,
    mesh: Mesh,
    *,
    batches: int,
    first: int,
    poll: Callable[[], None] = lambda: None,
) -> Score:
    """nanoGPT's protocol: the mean of the losses of random batches `first`, `first` + 1, ..."""
    sums = []
    for index in range(first, first + batches):
        sums.append(_score_draw(model, variables, source, jnp.int32(index), mesh))
        if len(sums) % 8 == 0:
            jax.block_until_ready(sums[-8])
            poll()
    losses, weights = np.asarray(jax.device_get(sums), np.float64).T
    return Score(float(np.mean(losses / weights)), round(float(weights.sum())))


def _check_window(
    model: CharModel, context_length: int, context: int | None, stride: int | None
) -> None:
    limit = model.capacity
    if context is not None and (context < 1 or (limit is not None and context > limit)):
        most = f"from 1 to {limit}, the model's context_length" if limit else "at least 1"
        raise UserError(f"--context: {context} given; it must be {most}")
    longest = context or context_length
    if stride is not None and not 1 <= stride <= longest:
        raise UserError(
            f"--stride: {stride} given; it must be from 1 to {longest}, the length of a window"
        )


def _windowed(
    model: CharModel,
    variables: Any,
    split: Split,
    mesh: Mesh,
    rows: int,
    table: EvalWindows,
    window: int,
    lookback: int,
) -> Iterator[tuple[Array, Array]]:
    """Sums of (loss, weight) over batches of windows."""
    tokens = jax.device_put(split.tokens, parallel.replicated(mesh))
    for begin in range(0, len(table.starts), rows):
        columns = [_padded(column[begin : begin + rows], rows, mesh) for column in table]
        yield _score_windows(model, variables, tokens, *columns, window=window, lookback=lookback)


def _carried(
    model: CharModel, variables: Any, split: Split, mesh: Mesh, rows: int
) -> Iterator[tuple[Array, Array]]:
    """The same where a state is carried along each document, `rows` documents side by side."""
    tokens = jax.device_put(split.tokens, parallel.replicated(mesh))
    order = np.argsort(-split.doc_lengths, kind="stable")
    rows = min(rows, parallel.round_up(len(order), mesh))
    for begin in range(0, len(order), rows):
        documents = order[begin : begin + rows]
        starts, left = split.doc_starts[documents], split.doc_lengths[documents]
        window = min(_CARRIED_CHUNK, 1 << (int(left.max()) - 1).bit_length())
        cache = model.init_cache(rows)
        for offset in range(0, int(left.max()), window):
            lengths = np.clip(left - offset, 0, window)
            at = np.where(lengths > 0, starts + offset, starts)
            columns = [_padded(column, rows, mesh) for column in (at, lengths)]
            sums, cache = _score_chunk(model, variables, tokens, *columns, cache, window=window)
            yield sums


def _padded(column: np.ndarray, rows: int, mesh: Mesh) -> Array:
    full = np.full(rows, _PADDING, np.int32)
    full[: len(column)] = column
    return jax.device_put(full, parallel.split_over(mesh))


@functools.partial(jax.jit, static_argnames=("model", "window", "lookback"))
def _score_windows(
    model: CharModel,
    variables: Any,
    tokens: Array,
    starts: Array,
    doc_starts: Array,
    lengths: Array,
    firsts: Array,
    *,
    window: int,
    lookback: int,
) -> tuple[Array, Array]:
    batch = gather_windows(
        tokens, doc_starts, starts, lengths, firsts, window=window, lookback=lookback
    )
    logits_BTV, _ = model.apply(variables, batch.inputs, num_outputs=window)
    return _sums(logits_BTV, batch)


@functools.partial(jax.jit, static_argnames=("model", "window"))
def _score_chunk(
    model: CharModel,
    variables: Any,
    tokens: Array,
    starts: Array,
    lengths: Array,
    cache: Any,
    *,
    window: int,
) -> tuple[tuple[Array, Array], Any]:
    batch = gather_windows(
        tokens, starts, starts, lengths, jnp.zeros_like(lengths), window=window, lookback=0
    )
    logits_BTV, cache = model.apply(variables, batch.inputs, cache)
    return _sums(logits_BTV, batch), cache


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _score_draw(
    model: CharModel, variables: Any, source: BatchSource, index: Array, mesh: Mesh
) -> tuple[Array, Array]:
    batch = parallel.constrain_batch(source.draw(index), mesh)
    logits_BTV, _ = model.apply(variables, batch.inputs, num_outputs=batch.targets.shape[1])
    return _sums(logits_BTV, batch)


def _sums(logits_BTV: Array, batch: Batch) -> tuple[Array, Array]:
    losses_BT = cross_entropy(logits_BTV, batch.targets)
    return jnp.sum(losses_BT * batch.weights), jnp.sum(batch.weights)
