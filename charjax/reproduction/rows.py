"""Rows to be reproduced: a configuration, its published figures and their tolerances.

The mark of a figure is how its source is known: "seen" was read there, "measured" was computed from
the data, "recalled" is from memory of a paper, "target" is a bound this project set itself.
"""

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from charjax.training.seeds import Quantity

Mark = Literal["seen", "measured", "recalled", "target"]
Tier = Literal["cpu", "gpu", "more"]
# The tier of the command line whose rows are those with `long_seeds`.
LONG = "cpu-long"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A published loss, in nats per character.

    Attributes:
      quantity: the loss of a run that it is compared with.
      value: as published; None where nothing is.
      source: where it is published.
      mark: how the source is known.
      above: how far above the value the mean of the seeds may lie.
      below: how far below it; None: any distance.
      reason: of the tolerance.
    """

    quantity: "Quantity"
    value: float | None
    source: str
    mark: Mark
    above: float
    below: float | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A configuration and its published figures.

    Attributes:
      name: as --only takes it.
      title: model and training in a few words.
      text: heading of its table.
      config: a file in configs/.
      figures: the first is the one in the summary tables.
      overrides: settings on top of the file.
      seeds: number of runs by default.
      tier: where it is run: "cpu" within 40 minutes on two cores; "gpu" on a GPU, planned for 25
        minutes and not yet measured; "more": only by its name.
      shown: losses that are measured and shown without a published figure.
      long_seeds: number of runs in the tier "cpu-long", in which two cores finish all its rows in
        three hours; 0: it is not one of them.
    """

    name: str
    title: str
    text: str
    config: str
    figures: tuple[Figure, ...]
    overrides: tuple[str, ...] = ()
    seeds: int = 1
    tier: Tier = "cpu"
    shown: tuple["Quantity", ...] = ()
    long_seeds: int = 0

    def is_in(self, tier: str) -> bool:
        """Return whether the row is run in a tier of the command line."""
        return self.long_seeds > 0 if tier == LONG else self.tier == tier


@dataclasses.dataclass(frozen=True)
class Ordering:
    """A published ordering of two rows: `worse` has the higher first figure, seed by seed."""

    worse: str
    better: str
    source: str


def counted(quantity: "Quantity", value: float, decimals: int = 4) -> Figure:
    """Make a figure of counts, to be met as rounded."""
    near = 0.6 * 10.0**-decimals
    reason = "counting has no randomness; the figure is rounded"
    return Figure(quantity, value, "counts", "measured", near, near, reason)


def seen(quantity: "Quantity", value: float, source: str, near: float, reason: str) -> Figure:
    """Make a figure that was read in its source, to be met within `near` on both sides."""
    return Figure(quantity, value, source, "seen", near, near, reason)


def measured(quantity: "Quantity", value: float, source: str, near: float, reason: str) -> Figure:
    """Make a figure that was computed from the data by other means, to be met within `near`."""
    return Figure(quantity, value, source, "measured", near, near, reason)


def target(quantity: "Quantity", value: float, against: str) -> Figure:
    """Make a bound of this project, below what is published for the same data and budget."""
    reason = "the recipe was chosen on validation; the mean of the seeds must be below"
    return Figure(quantity, value, f"target; published: {against}", "target", 0.0, None, reason)


def nothing_published(quantity: "Quantity") -> Figure:
    """Make a figure of a loss for which nothing is published."""
    return Figure(quantity, None, "none published", "seen", 0.0, 0.0, "no figure to compare with")


def kneser_ney(corpus: str, text: str, order: int, *figures: Figure, modified: bool = False) -> Row:
    """Make the row of n-gram counts on a corpus, by its configuration CORPUS-kneser-ney."""
    smoothing = "modified_kneser_ney" if modified else "kneser_ney"
    return Row(
        f"{corpus}-{'modified-' if modified else ''}kneser-ney-{order}",
        f"{order}-gram counts, {'modified ' if modified else ''}Kneser-Ney",
        text,
        f"{corpus}-kneser-ney",
        figures,
        (f"model.order={order}", f"model.smoothing={smoothing}"),
    )
