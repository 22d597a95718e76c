"""Instruments: readers of a run's states at steps of their own."""

from typing import Protocol

from charjax.training.state import TrainState


class Instrument(Protocol):
    """Reads the states of a run at some steps; it changes none of them."""

    def next_stop(self, step: int, goal: int) -> int:
        """Return the first step after `step` that it is to be called at, at most `goal`."""
        ...

    def reached(self, step: int, state: TrainState) -> None:
        """Read the state after so many steps, if it is one of its own; called with others too."""
        ...
