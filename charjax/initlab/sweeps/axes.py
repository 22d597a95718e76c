"""The axes of a sweep, and their values as parsed from the command line."""

import argparse
import dataclasses
import math
from collections.abc import Callable

import numpy as np

# More values than this on one axis are taken for a typing error.
_MOST = 10_000


@dataclasses.dataclass(frozen=True)
class Axes:
    """The values of every axis; the grid is their product.

    Attributes:
      schemes: values of `init.scheme`.
      gains: values of `init.gain`; None is the scheme's default.
      depths: hidden layers or blocks; empty: the configuration's.
      widths: of those layers; empty: the configuration's.
      rates: learning rates; empty: the configuration's.
      seeds: values of `train.seed`.
    """

    schemes: tuple[str, ...]
    gains: tuple[float | None, ...]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def runs(self) -> int:
        """The number of runs in the grid."""
        lengths = (len(getattr(self, field.name)) for field in dataclasses.fields(self))
        return math.prod(max(1, length) for length in lengths)


def numbers(
    *, whole: bool, spacing: str, low: float, high: float = math.inf
) -> Callable[[str], tuple[float, ...]]:
    """Return an argparse type: `a,b,c`, or `lo:hi:n` for n evenly spaced numbers.

    Args:
      whole: round to whole numbers.
      spacing: "even", or "log" for even spacing of the logarithms.
      low: the lower bound; inclusive with `whole`, otherwise exclusive.
      high: the upper bound, inclusive.
    """

    def parse(text: str) -> tuple[float, ...]:
        kind = "whole numbers" if whole else "numbers"
        bounds = f"from {low:g} to {high:g}" if whole else f"greater than {low:g}"
        try:
            values = _span(text, spacing) if ":" in text else [float(x) for x in text.split(",")]
            if whole:
                if ":" not in text and any(x != round(x) for x in values):
                    raise ValueError
                values = [round(x) for x in values]
            fits = all(math.isfinite(x) and (x >= low if whole else x > low) for x in values)
            if not fits or max(values) > high:
                raise ValueError
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(
                f"{text!r} given; must be {kind} {bounds}, as in a,b,c or lo:hi:n (n of them, at "
                f"most {_MOST}, {'in equal ratios' if spacing == 'log' else 'evenly spaced'})"
            ) from None
        return tuple(dict.fromkeys(values))

    return parse


def _span(text: str, spacing: str) -> list[float]:
    low, high, count = text.split(":")
    first, last, n = float(low), float(high), int(count)
    if not 1 <= n <= _MOST or not first <= last or (n == 1 and first != last):
        raise ValueError
    if spacing == "log":
        if first <= 0:
            raise ValueError
        values = np.geomspace(first, last, n)
    else:
        values = np.linspace(first, last, n)
    # Twelve digits: 1e-3 and not 0.0010000000000000002.
    return [float(f"{x:.12g}") for x in values]
