"""Describe a study: settings that are fixed before it runs, measurement, conclusion, pictures."""

import dataclasses
import importlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from charjax.reproduction.checks import Check, Poll, Progress

if TYPE_CHECKING:
    from charjax.initlab.report.drawing import Picture
    from charjax.initlab.studies.pieces import Pieces

# A trial takes seconds, for tests and for a first look: its numbers answer nothing.
Tier = Literal["cpu", "trial"]
TIERS: tuple[Tier, ...] = ("cpu", "trial")
# Numbers as JSON has them; those that are not finite are None.
Data = dict[str, Any]
# A caption, the heads of the columns, and rows of cells.
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def as_json(tree: Any) -> Any:
    """Return numbers as JSON has them: arrays and tuples as lists, what is not finite as None."""
    if isinstance(tree, dict):
        return {str(key): as_json(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [as_json(value) for value in tree]
    if isinstance(tree, np.ndarray | np.generic):
        return as_json(tree.tolist())
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


class Module(Protocol):
    """The module of a study."""

    # By tier, a frozen dataclass whose fields are numbers, words and tuples of these.
    SETTINGS: Mapping[Tier, Any]

    def rules(self, settings: Any) -> list[str]:
        """Return sentences on what is fixed before a run: networks, text, rates, criterion."""
        ...

    def measure(self, settings: Any, pieces: "Pieces", progress: Progress, poll: Poll) -> Data:
        """Train and measure.

        Args:
          settings: of a tier.
          pieces: keeps what is finished; every part that takes more than seconds is one.
          progress: called with the units done, and the units in all.
          poll: called at least every second; may raise to stop.

        Returns:
          every number that the conclusion, the tables and the pictures need.
        """
        ...

    def conclude(self, settings: Any, data: Data) -> "Conclusion":
        """Return what follows from the numbers of `measure`, after a round trip through JSON."""
        ...

    def draw(self, settings: Any, data: Data) -> "list[Picture]":
        """Return the pictures; called within `drawing.styled`."""
        ...


@dataclasses.dataclass(frozen=True)
class Conclusion:
    """Answer of a study.

    Attributes:
      answer: sentences, each with its numbers and their intervals; the first answers the question.
      checks: numbers beside those that theory or a publication predicts.
      tables: all numbers that a reader compares.
    """

    answer: Sequence[str]
    checks: Sequence[Check]
    tables: Sequence[Table]


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, and where it is answered.

    Attributes:
      name: what the command takes.
      number: its place in the list, from 1; the command takes that, too.
      title: what it is.
      question: a sentence with a question mark.
      sources: what was read for it, each with its address.
      corpora: the texts it needs; they are looked up before anything is measured.
    """

    name: str
    number: int
    title: str
    question: str
    sources: tuple[str, ...]
    corpora: tuple[str, ...] = ()

    def load(self) -> Module:
        """Import the module of the study."""
        name = self.name.replace("-", "_")
        module: Module = importlib.import_module(f"charjax.initlab.studies.{name}")  # type: ignore[assignment]
        return module
