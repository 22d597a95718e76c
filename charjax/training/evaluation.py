"""The loss of a model over a split: every target once, or a number of them, evenly spread.

Memory is bounded, however many symbols there are: no more than `_most_targets` are scored at once,
in fewer rows than asked for, in shorter chunks, and at last in pieces of a window.

Letters: B rows at once, T targets, V vocabulary.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from charjax import parallel
from charjax.config.data import DEVICE_BYTES
from charjax.data.splits import Split, target_counts
from charjax.data.spread import spread, stream_windows, warmed
from charjax.data.tokenizers import Tokenizer, text_size
from charjax.data.windows import EvalWindows, evaluation_windows
from charjax.errors import UserError
from charjax.models.contract import CharModel
from charjax.training.feed import Source, WindowReader, one_batch
from charjax.training.scoring import (
    gather_columns,
    score_chunk,
    score_draw,
    score_lookups,
    score_windows,
)
from charjax.units import TextSize

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
      of: targets of the split, where not all were scored; else None.
    """

    loss: float
    targets: int
    seconds: float = 0.0
    of: int | None = None

    def coverage(self) -> dict[str, int]:
        """Return `targets` and `of` by name; {} where every target was scored."""
        return {} if self.of is None else {"targets": self.targets, "of": self.of}


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
    max_targets: int | None = None,
    streams: int = 1,
    warmup: int = 0,
    poll: Callable[[], None] = lambda: None,
    device_bytes: int = DEVICE_BYTES,
) -> Score:
    """Return the mean loss over every target of a split, or over at most `max_targets` of them.

    By default a family with finite or carried memory reads each document as one stream, and a
    windowed one in non-overlapping windows of context_length, the short last one included. With
    `context`, every family reads windows of that many characters, `stride` apart, and scores
    what the window before did not reach.

    At most `max_targets` are those of some windows, at equal distances. A family with carried
    memory reads windows of CARRIED_CHUNK targets then; a split with no more targets is read whole.

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
      max_targets: targets to score at most; None: all.
      streams: parts in which a family with carried memory reads a split at once, each from a state
        of zeros; documents, where there are as many.
      warmup: characters before each of these parts (or windows) that are read and not scored, as
        far as its document has them.
      poll: called between batches; may raise to stop.
      device_bytes: of a split of more bytes, windows are read on the host, and put on the device.

    Raises:
      UserError: context or stride out of bounds.
    """
    sizes = _Sizes(
        context_length,
        batch_size,
        context,
        stride,
        max_targets,
        streams,
        warmup,
        device_bytes,
    )
    with parallel.target(mesh):
        score = _totals(_batches(model, variables, split, mesh, sizes, each=False), poll)
    return score if score.targets == split.num_targets else score._replace(of=split.num_targets)


def exact_losses(
    model: CharModel,
    variables: Any,
    split: Split,
    mesh: Mesh,
    *,
    context_length: int,
    batch_size: int,
    context: int | None = None,
    stride: int | None = None,
    streams: int = 1,
    warmup: int = 0,
    poll: Callable[[], None] = lambda: None,
    device_bytes: int = DEVICE_BYTES,
) -> np.ndarray:
    """Return the loss of each token of a split, whose mean is `exact_loss`.

    Arguments and errors are those of `exact_loss`.

    Returns:
      (N,) float32, in nats; NaN for the first token of a document, before which nothing stands.
    """
    sizes = _Sizes(context_length, batch_size, context, stride, None, streams, warmup, device_bytes)
    losses_N = np.full(len(split.tokens), np.nan, np.float32)
    with parallel.target(mesh):
        for batch in _batches(model, variables, split, mesh, sizes, each=True):
            losses_BT, weights_BT = np.asarray(batch.losses), np.asarray(batch.weights)
            row, column = np.nonzero(weights_BT)
            losses_N[batch.starts_B[row] + 1 + column] = losses_BT[row, column]
            poll()
    return losses_N


def scored_size(
    model: CharModel, split: Split, mesh: Mesh, tokenizer: Tokenizer, **sizes: Any
) -> TextSize:
    """Return the tokens, characters and bytes of the targets that `exact_loss` scores.

    Args:
      model: as there.
      split: as there.
      mesh: as there.
      tokenizer: of the split.
      **sizes: as there, without `poll`.
    """
    asked = _Sizes(**sizes)
    if asked.max_targets is None or asked.max_targets >= split.num_targets:
        return split.size
    starts, _, lengths, firsts = _reading(model, split, mesh, asked).table
    part = dataclasses.replace(split, doc_starts=starts + firsts, doc_lengths=lengths - firsts)
    return text_size(tokenizer, target_counts(part, tokenizer.vocab_size))


class _Sizes(NamedTuple):
    """The numbers of `exact_loss`."""

    context_length: int
    batch_size: int
    context: int | None = None
    stride: int | None = None
    max_targets: int | None = None
    streams: int = 1
    warmup: int = 0
    device_bytes: int = DEVICE_BYTES


class _Reading(NamedTuple):
    """The windows of a split, and the sizes in which they are read.

    Attributes:
      table: the windows.
      rows: windows at once.
      is_carried: along each window a state is carried, and it may have any length.
      window: targets of the others at most.
      lookback: tokens before them that they have as context.
      piece: targets of a window at once.
    """

    table: EvalWindows
    rows: int
    is_carried: bool
    window: int = 0
    lookback: int = 0
    piece: int = 0


class _Scored(NamedTuple):
    """A scored batch.

    Attributes:
      losses: (B, T), or their weighted sum.
      weights: likewise.
      starts_B: the token before each row's first target; empty for sums.
    """

    losses: Array
    weights: Array
    starts_B: np.ndarray


def _batches(
    model: CharModel, variables: Any, split: Split, mesh: Mesh, sizes: _Sizes, *, each: bool
) -> Iterator[_Scored]:
    """Yield the scored batches of a split: of every target, or (not `each`) their sums."""
    reader = WindowReader(split.tokens, mesh, sizes.device_bytes)
    table, rows, is_carried, window, lookback, piece = _reading(model, split, mesh, sizes)
    if is_carried:
        return _carried(model, variables, reader, rows, table, each)
    how: Any = {"window": window, "lookback": lookback, "piece": piece, "each": each}
    return _windowed(model, variables, reader, rows, table, **how)


def _reading(model: CharModel, split: Split, mesh: Mesh, sizes: _Sizes) -> _Reading:
    context_length, batch_size, context, stride, max_targets, streams, warmup, _ = sizes
    _check_window(model, context_length, context, stride)
    # Lookups gain nothing from small batches: as many rows as the bound allows.
    asked = _most_targets(model, mesh) if model.looks_up_targets else batch_size
    rows = parallel.round_up(asked, mesh)
    if context is None and stride is None and model.memory == "carried":
        rows = max(rows, parallel.round_up(streams, mesh))
        parts = stream_windows(split, streams)
        if max_targets is not None and max_targets < split.num_targets:
            size = CARRIED_CHUNK
            parts = spread(evaluation_windows(split, window=size, stride=size), max_targets)
        return _Reading(warmed(parts, warmup), rows, is_carried=True)
    free = context is None and stride is None and model.memory == "finite"
    window = _CHUNK if free else context or context_length
    window = min(window, int(split.doc_lengths.max()))
    rows, piece = _bounded(model, rows, window, mesh)
    if free:
        window = piece
    # With `context` every part of a model is bound to the window.
    alone = model.window_lookback if context is None else 0
    step, lookback = min(stride or window, window), model.lookback if free else alone
    table = evaluation_windows(split, window=window, stride=step)
    if max_targets is not None:
        table = spread(table, max_targets)
    return _Reading(table, rows, False, window, lookback, piece)


def _totals(batches: Iterator[_Scored], poll: Callable[[], None]) -> Score:
    """Add up the sums of all batches, calling `poll` in between."""
    sums, began, at_first = [], time.perf_counter(), 0.0
    for batch in batches:
        pair = batch.losses, batch.weights
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
    source: Source,
    mesh: Mesh,
    *,
    batches: int,
    first: int,
    before: int = 0,
    poll: Callable[[], None] = lambda: None,
) -> Score:
    """Return the mean loss of random batches `first`, `first` + 1, ...: nanoGPT's protocol.

    The first `before` inputs of each row are those of the model's `window_lookback`.
    """
    size = source.batch_size
    rows, piece = _bounded(model, size, source.window, mesh)
    parts, sums = -(-size // rows), []
    for index in range(first, first + batches):
        drawn = one_batch(source, index, mesh)
        for part in range(parts):
            place = jnp.int32(index), jnp.int32(part)
            with parallel.target(mesh):
                sums.append(score_draw(model, variables, drawn, *place, mesh, rows, piece, before))
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
    reader: WindowReader,
    rows: int,
    table: EvalWindows,
    *,
    window: int,
    lookback: int,
    piece: int,
    each: bool,
) -> Iterator[_Scored]:
    """Score batches of windows."""
    sizes = {"window": window, "lookback": lookback}
    # Compiling a lookup takes longer than running it: an empty batch waits for the compiler.
    first = -rows if model.looks_up_targets else 0
    for begin in range(first, len(table.starts), rows):
        here = EvalWindows(*(_filled(x[max(begin, 0) : begin + rows], rows) for x in table))
        windows = reader.read(here, **sizes)
        if model.looks_up_targets:
            # Two programs: the second does not depend on the length of the text, so it is
            # compiled once for all splits.
            batch = gather_columns(windows, **sizes)
            scored = score_lookups(model, variables, batch, each=each)
        else:
            how = {**sizes, "piece": piece, "each": each}
            scored = score_windows(model, variables, windows, **how)
        yield _Scored(scored[0], scored[1], here.starts)


def _carried(
    model: CharModel,
    variables: Any,
    reader: WindowReader,
    rows: int,
    parts: EvalWindows,
    each: bool,
) -> Iterator[_Scored]:
    """Score chunks with a state carried along each of `rows` parts at once."""
    mesh = reader.mesh
    order = np.argsort(-parts.lengths, kind="stable")
    rows = min(rows, parallel.round_up(len(order), mesh))
    most = _most_targets(model, mesh)
    rows = max(mesh.size, min(rows, most // _LEAST_CHUNK // mesh.size * mesh.size))
    longest = min(CARRIED_CHUNK, _power_of_two(max(1, most // rows)))
    for begin in range(0, len(order), rows):
        starts, _, left, firsts = (column[order[begin : begin + rows]] for column in parts)
        window = min(longest, 1 << (int(left.max()) - 1).bit_length())
        cache = model.init_cache(rows)
        for offset in range(0, int(left.max()), window):
            lengths = np.clip(left - offset, 0, window)
            at = np.where(lengths > 0, starts + offset, starts)
            unscored = np.clip(firsts - offset, 0, window)
            columns = EvalWindows(at, at, lengths, unscored)
            here = EvalWindows(*(_filled(column, rows) for column in columns))
            windows = reader.read(here, window=window, lookback=0)
            scored, cache = score_chunk(model, variables, windows, cache, window=window, each=each)
            yield _Scored(scored[0], scored[1], here.starts)


def _power_of_two(bound: int) -> int:
    """Return the largest power of two that is at most `bound`, which is at least 1."""
    return 1 << (bound.bit_length() - 1)


def _filled(column: np.ndarray, rows: int) -> np.ndarray:
    full = np.full(rows, _PADDING, np.int64)
    full[: len(column)] = column
    return full
