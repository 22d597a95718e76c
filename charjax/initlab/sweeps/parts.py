"""The flag --part K/N."""

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
