"""The flags --part K/N and --axis SECTION.KEY=A,B,..., as words."""

import argparse
import dataclasses
import re

# More parts than this are taken for a typing error.
_MOST = 100_000


@dataclasses.dataclass(frozen=True)
class Part:
    """Part `number` of `count`, from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_part(text: str) -> Part:
    """Parse `K/N`; an argparse type."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    part = Part(int(found[1]), int(found[2])) if found else Part(0, 0)
    if not 1 <= part.number <= part.count <= _MOST:
        raise argparse.ArgumentTypeError(
            f"{text!r} given; must be K/N, the part K from 1 to N of a grid in N parts, as in 2/8"
        )
    return part


def split_axis(text: str) -> tuple[str, tuple[str, ...]]:
    """Split `section.key=a,b,c` into the setting and its values; commas in brackets do not count.

    An argparse type.
    """
    name, equals, values = text.partition("=")
    found, depth = [""], 0
    for char in values:
        depth += (char in "[{") - (char in "]}")
        if char == "," and not depth:
            found.append("")
        else:
            found[-1] += char
    parts = tuple(part.strip() for part in found)
    if not equals or not name.strip() or not all(parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} given; must be section.key=a,b,..., as in optim.beta2=0.9,0.95"
        )
    return name.strip(), parts
