"""The axes of a sweep, and their values as parsed from the command line."""

import argparse
import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

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
      settings: any other settings, each as (section.key, its values).
    """

    schemes: tuple[str, ...]
    gains: tuple[float | None, ...]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    settings: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    @property
    def runs(self) -> int:
        """The number of runs in the grid."""
        named = (self.schemes, self.gains, self.depths, self.widths, self.rates, self.seeds)
        values = (*named, *(values for _, values in self.settings))
        return math.prod(max(1, len(each)) for each in values)

    @property
    def names(self) -> tuple[str, ...]:
        """The settings of `settings`."""
        return tuple(name for name, _ in self.settings)

    @property
    def combinations(self) -> list[tuple[Any, ...]]:
        """Their values, one combination after the other; one empty combination without any."""
        return list(itertools.product(*(values for _, values in self.settings)))

    def described(self) -> dict[str, Any]:
        """Return the axes as `plan.json` has them; `read_axes` reads them."""
        tree = dataclasses.asdict(self)
        if not self.settings:
            # Sweeps that an earlier version began have no such axes.
            del tree["settings"]
        return tree


def read_axes(tree: dict[str, Any]) -> Axes:
    """Return the axes that `described` describes, after JSON."""
    return Axes(**{name: frozen(values) for name, values in tree.items()})


def frozen(value: Any) -> Any:
    """Return a value of JSON with tuples in place of lists."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


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
