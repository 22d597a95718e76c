"""The lines of a long text as arrays of offsets: found, shuffled, put in order, and compared.

Letters: N tokens of the text, D lines, V symbols.
"""

import array
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from charjax.data.split_rules import SHUFFLE_SEED

# Tokens, or lines, that are handled at once.
_TOKENS_AT_ONCE = 1 << 18
_LINES_AT_ONCE = 1 << 16


class Lines(NamedTuple):
    """The lines of a text that are not blank: line d is tokens[starts[d] : ends[d]].

    Attributes:
      starts: (D,) uint32 or, in a text of 2**32 tokens or more, int64.
      ends: (D,), likewise; the newline is not part of the line.
      dropped: number of blank lines.
    """

    starts: np.ndarray
    ends: np.ndarray
    dropped: int


def find_lines(
    tokens: np.ndarray, newline: int | None, space_V: np.ndarray, *, strip: bool
) -> Lines:
    """Find the lines of a text that are not blank.

    Args:
      tokens: (N,), at least one.
      newline: the token that ends a line; None if the text has none.
      space_V: true for tokens that are white space, the newline included.
      strip: leave out white space at both ends of a line.
    """
    length = len(tokens)
    newline = -1 if newline is None else newline
    dtype = np.uint32 if length < 1 << 32 else np.int64
    count = sum(int(np.count_nonzero(piece == newline)) for _, piece in _pieces(tokens))
    count += int(tokens[-1]) != newline
    starts, ends = np.zeros(count, dtype), np.full(count, length, dtype)
    solid = np.zeros(count, bool)
    line = 0
    for begin, piece in _pieces(tokens):
        is_end = piece == newline
        where = np.flatnonzero(~space_V[piece])
        line_of = line + np.cumsum(is_end)[where]
        # The first of the solid tokens of each line, and the last.
        first = np.flatnonzero(np.diff(line_of, prepend=-1))
        last = np.append(first[1:], len(where))[: len(first)] - 1
        lines = line_of[first]
        if strip:
            new = ~solid[lines]
            starts[lines[new]] = where[first[new]] + begin
            ends[lines] = where[last] + begin + 1
        solid[lines] = True
        at = np.flatnonzero(is_end) + begin
        if not strip:
            ends[line : line + len(at)] = at
            starts[line + 1 : line + 1 + len(at)] = at[: count - line - 1] + 1
        line += len(at)
    dropped = count - int(np.count_nonzero(solid))
    if dropped:
        starts, ends = starts[solid], ends[solid]
    return Lines(starts, ends, dropped)


def _pieces(tokens: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for begin in range(0, len(tokens), _TOKENS_AT_ONCE):
        yield begin, np.asarray(tokens[begin : begin + _TOKENS_AT_ONCE])


def line_order(count: int, *, shuffled: bool) -> np.ndarray:
    """Return the order of so many lines, as Python's `random.Random(42).shuffle` leaves a list."""
    if not shuffled:
        return np.arange(count, dtype=np.uint32 if count < 1 << 32 else np.int64)
    # Of 4 bytes each; a list of Python's integers has 40.
    order = array.array("I" if count < 1 << 32 else "q", range(count))
    random.Random(SHUFFLE_SEED).shuffle(order)
    return np.frombuffer(order, np.uint32 if order.itemsize == 4 else np.int64)


def gather_lines(tokens: np.ndarray, lines: Lines, order: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the tokens of lines in an order, and after each line -1, piece by piece: int32."""
    for begin in range(0, len(order), _LINES_AT_ONCE):
        which = order[begin : begin + _LINES_AT_ONCE]
        starts = lines.starts[which].astype(np.int64)
        lengths = lines.ends[which] - starts
        ends = np.cumsum(lengths + 1)
        cut = 0
        while cut < len(which):
            reached = int(ends[cut - 1]) if cut else 0
            following = int(np.searchsorted(ends, reached + _TOKENS_AT_ONCE, "right"))
            if following == cut:
                yield from _long_line(tokens, int(starts[cut]), int(lengths[cut]))
                cut += 1
            else:
                yield _gather(tokens, starts[cut:following], lengths[cut:following])
                cut = following


def _long_line(tokens: np.ndarray, start: int, length: int) -> Iterator[np.ndarray]:
    for _, piece in _pieces(tokens[start : start + length]):
        yield piece.astype(np.int32)
    yield np.full(1, -1, np.int32)


def _gather(tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    ends = np.cumsum(lengths + 1)
    index = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths - 1), lengths + 1)
    found = tokens[np.minimum(index, len(tokens) - 1)].astype(np.int32)
    found[ends - 1] = -1
    return found


def count_repeated(parts: list[np.ndarray]) -> list[int]:
    """Return, for each part but the first, how many of its lines also occur in the first.

    Args:
      parts: tokens of lines; token 0 begins and ends every line.
    """
    train, held_out = parts[0], parts[1:]
    hashes = [_hashes(part) for part in held_out]
    wanted = np.unique(np.concatenate(hashes)) if hashes else np.zeros(0, np.int64)
    # Equal hashes are no proof: the few lines that have them are compared themselves.
    common = [wanted[np.isin(wanted, _hash_all(values))] for values in _line_values(train)]
    candidates = np.unique(np.concatenate(common)) if common else wanted[:0]
    if not len(candidates):
        return [0] * len(held_out)
    likely = {
        value
        for part, values_hashes in zip(held_out, hashes, strict=True)
        for value in _with_hashes(part, values_hashes, candidates)
    }
    repeated: set[bytes | str] = set()
    for values in _line_values(train):
        repeated |= likely.intersection(values)
    return [
        sum(value in repeated for value in _with_hashes(part, values_hashes, candidates))
        for part, values_hashes in zip(held_out, hashes, strict=True)
    ]


def _hashes(part: np.ndarray) -> np.ndarray:
    return np.concatenate([_hash_all(values) for values in _line_values(part)])


def _hash_all(values: list[bytes] | list[str]) -> np.ndarray:
    return np.fromiter(map(hash, values), np.int64, len(values))


def _with_hashes(
    part: np.ndarray, hashes: np.ndarray, candidates: np.ndarray
) -> Iterator[bytes | str]:
    """Yield the lines of a part that have one of these hashes."""
    begin = 0
    for values in _line_values(part):
        chosen = np.isin(hashes[begin : begin + len(values)], candidates)
        yield from (values[index] for index in np.flatnonzero(chosen).tolist())
        begin += len(values)


def _line_values(part: np.ndarray) -> Iterator[list[bytes] | list[str]]:
    """Yield the lines of a part some at a time, each as a value that is equal for equal lines."""
    begin, size = 1, _TOKENS_AT_ONCE
    while begin < len(part):
        raw = np.asarray(part[begin : begin + size])
        last = np.flatnonzero(raw == 0)
        if not len(last):
            # A line that is longer.
            size *= 2
            continue
        whole = raw[: last[-1]]
        yield (
            whole.tobytes().split(b"\0")
            if whole.dtype.itemsize == 1
            else whole.tobytes().decode("utf-16-le", "surrogatepass").split("\0")
        )
        begin, size = begin + int(last[-1]) + 1, _TOKENS_AT_ONCE
