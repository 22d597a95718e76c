"""The clock: contestants that take turns, and what their repeats come to."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Clock = Callable[[], float]


class Slice:
    """A piece of work that lasts long enough to be timed: so many steps between two looks.

    `run(n)` does n steps and waits for the last one. Calling the slice does its steps once and
    returns the seconds of one step.
    """

    def __init__(
        self,
        run: Callable[[int], Any],
        seconds: float,
        most: int = 1_000_000,
        now: Clock = time.perf_counter,
    ):
        """Warm up, and find how many steps last about so long.

        Args:
          run: does n steps and waits for them.
          seconds: how long a slice should last.
          most: steps at most.
          now: the clock.
        """
        self._run, self._now, self.count = run, now, 1
        # The first step still sets things up.
        run(1)
        while self.count < most:
            taken = self() * self.count
            if taken >= seconds / 2:
                break
            # No more than tenfold at once: the first looks are the least exact.
            wanted = self.count * seconds / max(taken, 1e-9)
            self.count = max(1, min(most, 10 * self.count, int(wanted)))
            if taken * 10 > seconds:
                break

    def __call__(self) -> float:
        """Do the steps; seconds a step."""
        began = self._now()
        self._run(self.count)
        return (self._now() - began) / self.count


def take_turns(
    contestants: Mapping[str, Callable[[], float]],
    repeats: int,
    late: Callable[[], bool] = lambda: False,
) -> dict[str, list[float]]:
    """ABAB: each contestant once, then each again, so that a drift of the machine meets them all.

    Args:
      contestants: what to call, and what it returns is kept.
      repeats: how often.
      late: asked between rounds, never in one: whether to stop early, after one at least.
    """
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats):
        if turn and late():
            break
        for name, run in contestants.items():
            found[name].append(run())
    return found


def summary(values: list[float]) -> dict[str, Any]:
    """Every repeat, with their median and quartiles."""
    low, high = (float(np.quantile(values, q)) for q in (0.25, 0.75))
    return {"repeats": values, "median": statistics.median(values), "q1": low, "q3": high}


def paired_ratio(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Theirs over ours turn by turn: how many times faster ours is, where both are seconds."""
    return summary([b / a for a, b in zip(ours, theirs, strict=True)])
