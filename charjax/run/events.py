"""When a run is evaluated, sampled and saved."""

from typing import NamedTuple

from charjax.config import Config


class Due(NamedTuple):
    """The events due after a step."""

    evaluation: bool
    samples: bool
    checkpoint: bool


class EventSchedule:
    """The steps after which something is due: multiples of its period, and the last step for all.

    A period of 0 leaves only the last step.
    """

    def __init__(self, config: Config):
        self._last_step = config.train.steps
        # In the order of Due's fields.
        self._periods = (config.eval.every, config.train.sample_every, config.checkpoint.every)

    def due(self, step: int) -> Due:
        """Return what is due after a step."""
        is_last = step == self._last_step
        return Due(*(is_last or (period > 0 and step % period == 0) for period in self._periods))

    def next_after(self, step: int) -> int:
        """Return the first step after `step` at which anything is due."""
        multiples = [(step // period + 1) * period for period in self._periods if period > 0]
        return min([self._last_step, *multiples])
