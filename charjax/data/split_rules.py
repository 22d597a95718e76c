"""Rules of the splits that texts in memory and streamed ones have in common, and their mistakes."""

import itertools
from typing import NamedTuple

from charjax.config import DataConfig
from charjax.errors import UserError

# The makemore lectures shuffle the names with Python's random.seed(42).
SHUFFLE_SEED = 42


def line_cuts(config: DataConfig, count: int) -> list[int]:
    """Return the end of each part of a list of so many lines: train, val and test."""
    fraction = config.val_fraction
    if not fraction:
        return [count]
    if config.split == "shuffled_lines":
        return [int((1 - 2 * fraction) * count), int((1 - fraction) * count), count]
    return [int((1 - fraction) * count), count]


def dropped_note(count: int) -> tuple[str, ...]:
    """Note how many blank lines were dropped."""
    return (f"{count:,} blank lines were dropped",) if count else ()


def all_blank(field: str) -> UserError:
    """Return the error of a list without an item."""
    return UserError(f"{field}: every line of the text is blank; give one item a line")


def no_lines_left(fraction: float, count: int, name: str) -> UserError:
    """Return the error of a part of a list that would be empty."""
    return UserError(
        f"data.val_fraction: {fraction} of {count:,} lines leaves none for {name}; give "
        "more lines or another fraction, or 0 to hold nothing out"
    )


def one_line(config: DataConfig, field: str, length: int, *, returns: bool) -> UserError:
    """Return the error of a list of one line.

    Args:
      config: the data section.
      field: the setting or flag that names the text.
      length: characters of the line.
      returns: it has carriage returns.
    """
    remedy = "data.layout=stream" if config.layout == "lines" else "data.split=tail"
    if returns:
        remedy += ", or make its line ends LF (tr '\\r' '\\n' < OLD > NEW)"
    return UserError(
        f"{field}: the text is one line, of {length:,} characters, but each line is one document; "
        f"use {remedy}"
    )


def repeated_note(repeated: list[int], cuts: list[int]) -> tuple[str, ...]:
    """Note how many held-out lines also occur in the train part.

    Args:
      repeated: their number in each held-out part.
      cuts: the end of each part, train included.
    """
    counts = [
        f"{number:,} of {end - begin:,} {name} lines"
        for name, number, (begin, end) in zip(
            ("val", "test"), repeated, itertools.pairwise(cuts), strict=False
        )
        if number
    ]
    return (f"{' and '.join(counts)} also occur in the train part",) if counts else ()


def too_short(config: DataConfig, field: str, name: str, has: str) -> UserError:
    """Return the error of a part with fewer than 2 tokens; `has` is their number and unit."""
    part, remedy = "it", "give a longer text"
    if config.val_fraction:
        part = f"with data.val_fraction = {config.val_fraction} its {name} part"
        remedy += " or another fraction"
    return UserError(
        f"{field}: the text is too short: {part} has {has}, and at least 2 are needed; {remedy}"
    )


class Folding(NamedTuple):
    """A text folded into rows of equal length, of which columns are train, val and test.

    Attributes:
      rows: their number.
      width: characters of a row.
      ends: the end of each part in a row.
      notes: on the characters left out, one line each.
    """

    rows: int
    width: int
    ends: list[int]
    notes: tuple[str, ...]


def fold(config: DataConfig, length: int) -> Folding:
    """Fold a text of so many characters as char-rnn's loader does (Karpathy et al. 2015).

    The text is trimmed to whole chunks; the columns of chunks are divided into train, val and test.

    Raises:
      UserError: it is too short.
    """
    rows, chunk, fraction = config.rows, config.chunk, config.val_fraction
    chunks = length // (rows * chunk)
    width = chunks * chunk
    cuts = [int((1 - 2 * fraction) * chunks), int(fraction * chunks)]
    if 0 in cuts:
        raise UserError(
            f"data.split: interleaved given, but {length:,} characters make {chunks} chunks "
            f"of {rows} x {chunk}, too few to hold out {fraction} twice; give a longer text, or "
            "lower data.rows or data.chunk"
        )
    rest = length - rows * width
    notes = (f"the last {rest:,} characters, which fill no whole chunk of each row, are left out",)
    ends = [cuts[0] * chunk, sum(cuts) * chunk, width]
    return Folding(rows, width, ends, notes if rest else ())
