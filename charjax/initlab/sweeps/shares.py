"""Dividing a grid: parts, the shares of processes, and what is still to be trained.

The runs of a grid are numbered group by group. A share is a contiguous piece of them, and all
shares cost about the same. On a CPU the bits of a run do not depend on how the grid is divided.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from charjax.errors import UserError
from charjax.initlab.sweeps.grid import Group, Point
from charjax.initlab.sweeps.parts import Part

_NAME = re.compile(r"(\d+)-(\d+)-(\d+)")


@dataclasses.dataclass(frozen=True, order=True)
class Span:
    """The runs `start` to `stop - 1` of a group."""

    group: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.group}-{self.start}-{self.stop}"

    def __len__(self) -> int:
        return self.stop - self.start

    def points(self, groups: Sequence[Group]) -> tuple[Point, ...]:
        """Return its runs."""
        return groups[self.group].points[self.start : self.stop]


def whole(groups: Sequence[Group]) -> list[Span]:
    """Return the spans of all runs."""
    return [Span(index, 0, len(group.points)) for index, group in enumerate(groups)]


def part_of(groups: Sequence[Group], part: Part | None) -> list[Span]:
    """Return the spans of a part; None is the whole.

    Raises:
      UserError: the grid cannot be divided into so many parts.
    """
    if part is None:
        return whole(groups)
    everything = whole(groups)
    shares = [divide(everything, groups, part.count, each) for each in range(part.count)]
    if not all(shares):
        runs = sum(map(len, everything))
        raise UserError(
            f"--part: {part} given, but not every part would have a run, as the grid has {runs}: "
            "give fewer parts"
        )
    return shares[part.number - 1]


def divide(spans: Iterable[Span], groups: Sequence[Group], count: int, index: int) -> list[Span]:
    """Return the share `index`, from 0, of `count`: those runs whose middle lies in it by cost."""
    items = list(spans)
    total = sum(len(span) * groups[span.group].run_cost for span in items)
    share, before = [], 0
    for span in items:
        cost = groups[span.group].run_cost
        low, high = (
            _clip(-(-(2 * total * bound - count * (2 * before + cost)) // (2 * cost * count)), span)
            for bound in (index, index + 1)
        )
        if low < high:
            share.append(Span(span.group, span.start + low, span.start + high))
        before += len(span) * cost
    return share


def _clip(place: int, span: Span) -> int:
    return min(max(place, 0), len(span))


def without(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """Return the runs of `spans` that are not in `others`."""
    found = list(spans)
    for other in others:
        cut = []
        for span in found:
            if span.group != other.group or other.stop <= span.start or span.stop <= other.start:
                cut.append(span)
                continue
            sides = ((span.start, other.start), (other.stop, span.stop))
            cut += [Span(span.group, low, high) for low, high in sides if low < high]
        found = cut
    return found


def missing(groups: Sequence[Group], present: Iterable[Point]) -> list[Span]:
    """Return the spans of the runs that are not among `present`."""
    known = set(present)
    there = (
        Span(index, place, place + 1)
        for index, group in enumerate(groups)
        for place, point in enumerate(group.points)
        if point not in known
    )
    joined: list[Span] = []
    for span in there:
        if joined and (joined[-1].group, joined[-1].stop) == (span.group, span.start):
            joined[-1] = dataclasses.replace(joined[-1], stop=span.stop)
        else:
            joined.append(span)
    return joined


def listed(directory: Path, suffix: str) -> list[Span]:
    """Return the spans that files of a directory are named after, in order, none twice."""
    found: list[Span] = []
    for path in sorted(directory.glob(f"*{suffix}")):
        match = _NAME.fullmatch(path.name.removesuffix(suffix))
        if match:
            found.append(Span(*map(int, match.groups())))
    distinct: list[Span] = []
    for span in sorted(found, key=lambda span: (span.group, span.start, -len(span))):
        if without([span], distinct) == [span]:
            distinct.append(span)
    return distinct
