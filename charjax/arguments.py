"""Values that Python callers give: their types and bounds, with errors of one line."""

import math
import numbers
import os
from pathlib import Path
from typing import Any

from charjax.errors import UserError


def whole_number(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    """Return a whole number, of Python or NumPy, from `low` to `high`.

    Raises:
      UserError: it is of another type, or out of these bounds.
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or not low <= value <= high:
        raise UserError(
            f"{name}: {_shown(value)} given; it must be a whole number from {low} to {high}"
        )
    return int(value)


def finite_number(name: str, value: Any) -> float:
    """Return a finite number, of Python or NumPy; NaN is none.

    Raises:
      UserError: it is of another type, or not finite.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise UserError(f"{name}: {_shown(value)} given; it must be a finite number")
    return float(value)


def text(name: str, value: Any) -> str:
    """Return a str.

    Raises:
      UserError: it is of another type.
    """
    if not isinstance(value, str):
        raise UserError(f"{name}: {type(value).__name__} given; it must be a str")
    return value


def flag(name: str, value: Any) -> bool:
    """Return True or False.

    Raises:
      UserError: it is neither.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name}: {_shown(value)} given; it must be True or False")
    return value


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Return one of some words.

    Raises:
      UserError: it is none of them.
    """
    if not isinstance(value, str) or value not in allowed:
        words = ", ".join(map(repr, allowed))
        raise UserError(f"{name}: {_shown(value)} given; it must be one of {words}")
    return value


def path(name: str, value: Any) -> Path:
    """Return the path that a str or a Path names.

    Raises:
      UserError: it is of another type, empty, or has a character that no path may have.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise UserError(f"{name}: {_shown(value)} given; it must be a str or a Path")
    written = os.fspath(value)
    if not written.strip() or "\0" in written:
        raise UserError(f"{name}: {written!r} given; it must name a file or a directory")
    return Path(value)


_LONGEST = 60


def _shown(value: Any) -> str:
    try:
        written = repr(value)
    except Exception:
        # Of an integer with more digits than Python converts.
        written = type(value).__name__
    return written if len(written) <= _LONGEST else f"{written[:_LONGEST]}..."
