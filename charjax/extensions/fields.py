"""The settings whose value may be code of the user's own."""

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of code that a setting may name.

    Attributes:
      group: the entry points of installed packages.
      what: a noun phrase, for messages.
    """

    group: str
    what: str


FIELDS: dict[str, Kind] = {
    "init.scheme": Kind("charjax.schemes", "a scheme"),
    "optim.kind": Kind("charjax.optimizers", "an optimiser"),
    "model.kind": Kind("charjax.models", "a model family"),
    "model.activation": Kind("charjax.activations", "an activation"),
}
