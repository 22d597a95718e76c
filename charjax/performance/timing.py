"""The clock: contestants that take turns, and the summary of their repeats."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Clock = Callable[[], float]


class Slice:
    """Work that lasts long enough to be timed: so many steps between two readings of the clock.

    `run(n)` does n steps and waits for the last one. Calling the slice does its steps once and
    returns the seconds per step.
    """

    def __init__(
        self,
        run: Callable[[int], Any],
        seconds: float,
        most: int = 1_000_000,
        now: Clock = time.perf_counter,
    ):
        """Warm up, and find the number of steps that last about so long.

        Args:
          run: does n steps and waits for them.
          seconds: duration of a slice.
          most: greatest number of steps.
          now: the clock.
        """
        self._run, self._now, self.count = run, now, 1
        # The first step includes setting up.
        run(1)
        while self.count < most:
            measured = self() * self.count
            if measured >= seconds / 2:
                break
            # At most tenfold at once: short measurements are the least exact.
            wanted = self.count * seconds / max(measured, 1e-9)
            self.count = max(1, min(most, 10 * self.count, int(wanted)))
            if measured * 10 > seconds:
                break

    def __call__(self) -> float:
        """Do the steps; return seconds per step."""
        start = self._now()
        self._run(self.count)
        return (self._now() - start) / self.count


def take_turns(
    contestants: Mapping[str, Callable[[], float]],
    repeats: int,
    late: Callable[[], bool] = lambda: False,
) -> dict[str, list[float]]:
    """Call all contestants once, then all again, so that a drift of the machine affects them alike.

    Args:
      contestants: what to call; their results are returned by name.
      repeats: how often.
      late: called between rounds; stops early if true, after one round at least.
    """
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats):
        if turn and late():
            break
        for name, run in contestants.items():
            found[name].append(run())
    return found


def summary(values: list[float]) -> dict[str, Any]:
    """Return every repeat, with their median and quartiles."""
    low, high = (float(np.quantile(values, q)) for q in (0.25, 0.75))
    return {"repeats": values, "median": statistics.median(values), "q1": low, "q3": high}


def paired_ratio(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Summarise theirs over ours, turn by turn: of seconds, how many times faster ours is."""
    return summary([b / a for a, b in zip(ours, theirs, strict=True)])
