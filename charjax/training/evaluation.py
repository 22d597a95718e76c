"""The loss of a model over a whole split, every target once.

Memory is bounded, however many symbols there are: no more than `_most_targets` are scored at once,
in fewer rows than asked for, in shorter chunks, and at last in pieces of a window.

Letters: B rows at once, T targets, V vocabulary.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from charjax import parallel
from charjax.data.batches import Batch, BatchSource, gather_windows
from charjax.data.splits import Split
from charjax.data.windows import EvalWindows, evaluation_windows
from charjax.errors import UserError
from charjax.models.contract import CharModel
from charjax.training.step import cross_entropy

# Targets read at once by a family that is not bound to windows of its own.
_CHUNK = 256
CARRIED_CHUNK = 1024
# Logits computed at once: 4.8 MB in float32. A program holds two copies, each of a CPU's threads
# keeps what it has once held, and more at once is slower there (measured at 65,536 symbols: 8 M
# logits take 3 times as long as 1 M). An accelerator needs more to have enough to do.
_MOST_LOGITS = {"cpu": 1_200_000}
_MOST_LOGITS_ELSEWHERE = 1 << 24
# Where a target is looked up, that takes about so many numbers, however many symbols there are.
_NUMBERS_OF_LOOKUP = 32
# Chunks of a carried state are made no shorter than this before there are fewer rows.
_LEAST_CHUNK = 16
# Rows of weight 0 that fill up the last batch start here.
_PADDING = 0


class Score(NamedTuple):
    """A measured loss.

    Attributes:
      loss: mean, in nats per target.
      targets: number of targets.
      seconds: time of scoring. The first batch, which may wait for the compiler, counts with the
        speed of the others, if there are any.
    """

    loss: float
    targets: int
    seconds: float = 0.0


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
    """Return the mean loss over every target of a split.

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
      batch_size: windows at once; fewer where there are many symbols, more where the family looks
        targets up.
      context: characters in a window.
      stride: characters between the starts of two windows; by default `context`.
      poll: called between batches; may raise to stop.

    Raises:
      UserError: context or stride out of bounds.
    """
    _check_window(model, context_length, context, stride)
    # Lookups gain nothing from small batches: as many rows as the bound allows.
    asked = _most_targets(model, mesh) if model.looks_up_targets else batch_size
    rows = parallel.round_up(asked, mesh)
    if context is None and stride is None and model.memory == "carried":
        batches = _carried(model, variables, split, mesh, rows)
    else:
        free = context is None and stride is None and model.memory == "finite"
        window = _CHUNK if free else context or context_length
        window = min(window, int(split.doc_lengths.max()))
        rows, piece = _bounded(model, rows, window, mesh)
        if free:
            window = piece
        step, lookback = min(stride or window, window), model.lookback if free else 0
        table = evaluation_windows(split, window=window, stride=step)
        batches = _windowed(model, variables, split, mesh, rows, table, window, lookback, piece)
    with parallel.target(mesh):
        return _totals(batches, poll)


def _totals(batches: Iterator[tuple[Array, Array]], poll: Callable[[], None]) -> Score:
    """Add up the sums of all batches, calling `poll` in between."""
    sums, began, at_first = [], time.perf_counter(), 0.0
    for pair in batches:
        sums.append(pair)
        if len(sums) == 1:
            jax.block_until_ready(pair)
            at_first = time.perf_counter()
        else:
            # Wait for the batch before: a signal is answered, the device never idles, and no more
            # than two batches are in memory.
            jax.block_until_ready(sums[-2])
        poll()
    losses_K, weights_K = np.asarray(jax.device_get(sums), np.float64).T
    ended, weights = time.perf_counter(), weights_K.sum()
    later = weights - weights_K[0]
    seconds = (ended - at_first) * (weights / later) if later > 0 else ended - began
    return Score(float(losses_K.sum() / weights), round(float(weights)), float(seconds))


def _bounded(model: CharModel, rows: int, window: int, mesh: Mesh) -> tuple[int, int]:
    """Return rows at once, a multiple of the devices, and targets per row that fit in memory."""
    most = _most_targets(model, mesh)
    rows = max(mesh.size, min(rows, most // window // mesh.size * mesh.size))
    return rows, max(1, min(window, most // rows))


def _most_targets(model: CharModel, mesh: Mesh) -> int:
    """Return the most targets to score at once, in all rows together."""
    logits = _MOST_LOGITS.get(mesh.devices.flat[0].platform, _MOST_LOGITS_ELSEWHERE)
    return logits // (_NUMBERS_OF_LOOKUP if model.looks_up_targets else model.vocab_size)


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
    """Return the mean loss of random batches `first`, `first` + 1, ...: nanoGPT's protocol."""
    size = source.batch_size
    rows, piece = _bounded(model, size, source.window, mesh)
    parts, sums = -(-size // rows), []
    for index in range(first, first + batches):
        for part in range(parts):
            place = jnp.int32(index), jnp.int32(part)
            with parallel.target(mesh):
                sums.append(_score_draw(model, variables, source, *place, mesh, rows, piece))
            jax.block_until_ready(sums[-2:-1])
            poll()
    every = np.asarray(jax.device_get(sums), np.float64).reshape(batches, parts, 2)
    losses, weights = every.sum(axis=1).T
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
    piece: int,
) -> Iterator[tuple[Array, Array]]:
    """Yield sums of (loss, weight) over batches of windows."""
    tokens = jax.device_put(split.tokens, parallel.replicated(mesh))
    sizes = {"window": window, "lookback": lookback}
    # Compiling a lookup takes longer than running it: an empty batch waits for the compiler.
    first = -rows if model.looks_up_targets else 0
    for begin in range(first, len(table.starts), rows):
        columns = [_padded(column[max(begin, 0) : begin + rows], rows, mesh) for column in table]
        if model.looks_up_targets:
            # Two programs: the second does not depend on the length of the text, so it is
            # compiled once for all splits.
            batch = gather_columns(tokens, *columns, **sizes)
            yield score_lookups(model, variables, batch)
        else:
            yield score_windows(model, variables, tokens, *columns, **sizes, piece=piece)


def _carried(
    model: CharModel, variables: Any, split: Split, mesh: Mesh, rows: int
) -> Iterator[tuple[Array, Array]]:
    """Yield sums of (loss, weight) with a state carried along each of `rows` documents at once."""
    tokens = jax.device_put(split.tokens, parallel.replicated(mesh))
    order = np.argsort(-split.doc_lengths, kind="stable")
    rows = min(rows, parallel.round_up(len(order), mesh))
    most = _most_targets(model, mesh)
    rows = max(mesh.size, min(rows, most // _LEAST_CHUNK // mesh.size * mesh.size))
    longest = min(CARRIED_CHUNK, _power_of_two(max(1, most // rows)))
    for begin in range(0, len(order), rows):
        documents = order[begin : begin + rows]
        starts, left = split.doc_starts[documents], split.doc_lengths[documents]
        window = min(longest, 1 << (int(left.max()) - 1).bit_length())
        cache = model.init_cache(rows)
        for offset in range(0, int(left.max()), window):
            lengths = np.clip(left - offset, 0, window)
            at = np.where(lengths > 0, starts + offset, starts)
            columns = [_padded(column, rows, mesh) for column in (at, lengths)]
            sums, cache = score_chunk(model, variables, tokens, *columns, cache, window=window)
            yield sums


def _power_of_two(bound: int) -> int:
    """Return the largest power of two that is at most `bound`, which is at least 1."""
    return 1 << (bound.bit_length() - 1)


def _padded(column: np.ndarray, rows: int, mesh: Mesh) -> Array:
    full = np.full(rows, _PADDING, np.int32)
    full[: len(column)] = column
    return jax.device_put(full, parallel.split_over(mesh))


@functools.partial(jax.jit, static_argnames=("window", "lookback"))
def gather_columns(
    tokens: Array,
    starts: Array,
    doc_starts: Array,
    lengths: Array,
    firsts: Array,
    *,
    window: int,
    lookback: int,
) -> Batch:
    """Return the batch of some windows; the columns are those of EvalWindows."""
    return gather_windows(
        tokens, doc_starts, starts, lengths, firsts, window=window, lookback=lookback
    )


@functools.partial(jax.jit, static_argnames="model")
def score_lookups(model: CharModel, variables: Any, batch: Batch) -> tuple[Array, Array]:
    """Return sums of (loss, weight) over a batch, by looking the targets up."""
    return _score(model, variables, batch, batch.targets.shape[1])


@functools.partial(jax.jit, static_argnames=("model", "window", "lookback", "piece"))
def score_windows(
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
    piece: int,
) -> tuple[Array, Array]:
    """Return sums of (loss, weight) over windows; the columns are those of EvalWindows."""
    batch = gather_windows(
        tokens, doc_starts, starts, lengths, firsts, window=window, lookback=lookback
    )
    return _score(model, variables, batch, piece)


@functools.partial(jax.jit, static_argnames=("model", "window"))
def score_chunk(
    model: CharModel,
    variables: Any,
    tokens: Array,
    starts: Array,
    lengths: Array,
    cache: Any,
    *,
    window: int,
) -> tuple[tuple[Array, Array], Any]:
    """Return sums of (loss, weight) over the next targets of each row, and the state after them."""
    batch = gather_windows(
        tokens, starts, starts, lengths, jnp.zeros_like(lengths), window=window, lookback=0
    )
    logits_BTV, cache = model.apply(variables, batch.inputs, cache)
    return _sums(cross_entropy(logits_BTV, batch.targets), batch.weights), cache


@functools.partial(jax.jit, static_argnames=("model", "mesh", "rows", "piece"))
def _score_draw(
    model: CharModel,
    variables: Any,
    source: BatchSource,
    index: Array,
    part: Array,
    mesh: Mesh,
    rows: int,
    piece: int,
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
    return _score(model, variables, parallel.constrain_batch(batch, mesh), piece)


def _score(model: CharModel, variables: Any, batch: Batch, piece: int) -> tuple[Array, Array]:
    """Return sums of (loss, weight) over a batch, scoring `piece` targets of each row at a time."""
    T = batch.targets.shape[1]
    if model.looks_up_targets:
        logs_BT = model.apply(variables, batch.inputs, batch.targets, method="target_log_probs")
        return _sums(-logs_BT, batch.weights)
    if piece >= T:
        logits_BTV, _ = model.apply(variables, batch.inputs, num_outputs=T)
        return _sums(cross_entropy(logits_BTV, batch.targets), batch.weights)
    return _score_pieces(model, variables, batch, piece)


def _score_pieces(
    model: CharModel, variables: Any, batch: Batch, piece: int
) -> tuple[Array, Array]:
    """Return the sums, with a cache carried from piece to piece; the first may be shorter."""
    B, T = batch.targets.shape
    count = -(-T // piece)
    first = T - (count - 1) * piece
    head = batch.inputs.shape[1] - T + first

    def score(cache: Any, part: tuple[Array, Array, Array]) -> tuple[Any, tuple[Array, Array]]:
        inputs, targets, weights = part
        logits, cache = model.apply(variables, inputs, cache, num_outputs=targets.shape[1])
        return cache, _sums(cross_entropy(logits, targets), weights)

    def later(array: Array, begin: int) -> Array:
        """Return all pieces but the first, (count - 1, B, piece)."""
        return array[:, begin:].reshape(B, count - 1, piece).swapaxes(0, 1)

    first_piece = batch.inputs[:, :head], batch.targets[:, :first], batch.weights[:, :first]
    cache, (loss, weight) = score(model.init_cache(B), first_piece)
    parts = later(batch.inputs, head), later(batch.targets, first), later(batch.weights, first)
    _, (losses, weights) = jax.lax.scan(score, cache, parts)
    return loss + jnp.sum(losses), weight + jnp.sum(weights)


def _sums(losses_BT: Array, weights_BT: Array) -> tuple[Array, Array]:
    # A loss that is not finite counts only where its weight is above 0.
    counted_BT = jnp.where(weights_BT > 0, losses_BT * weights_BT, 0.0)
    return jnp.sum(counted_BT), jnp.sum(weights_BT)
