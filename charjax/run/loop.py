"""The training loop: chunks of steps, and what happens between them.

The host reads the metrics of one chunk after it has started the next, so the device never waits.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from charjax.config import Config
from charjax.run.display import Display
from charjax.run.metrics import Interval, MetricsFile, loss_fields
from charjax.run.progress import Progress
from charjax.signals import Signals
from charjax.training.evaluation import Score
from charjax.training.program import CAPACITY, ChunkProgram
from charjax.training.state import TrainState

# A signal is answered after a chunk, so a chunk should last about this long.
_CHUNK_SECONDS = 0.8


class DivergedError(Exception):
    """Too many steps in a row were not finite."""


@dataclasses.dataclass
class Loop:
    """A run from the step it is at to its last one.

    Attributes:
      config: the run's.
      program: the compiled chunk of steps.
      state: the state, donated to each chunk and replaced.
      progress: the host's side of it.
      metrics: where lines are written.
      display: what the user sees.
      signals: asked between chunks.
      evaluate: state -> validation score, or None where there is no validation split.
      sample: step, state -> None; writes samples.
      save: step, state, progress, best -> None.
      check: raises if the last save has failed; asked between chunks.
    """

    config: Config
    program: ChunkProgram
    state: TrainState
    progress: Progress
    metrics: MetricsFile
    display: Display
    signals: Signals
    evaluate: Callable[[int, TrainState], Score] | None
    sample: Callable[[int, TrainState], None]
    save: Callable[[int, TrainState, Progress, bool], None]
    check: Callable[[], None]

    def __post_init__(self) -> None:
        self.step = int(self.state.counters.step)
        self._chunk = 1

    def run(self) -> None:
        """Train to the last step.

        Raises:
          Interrupted: a signal came; `state`, `step` and `progress` are those to save.
          DivergedError: more than train.max_skipped steps in a row were not finite.
        """
        total = self.config.train.steps
        while True:
            if self.step > self.progress.events_done and self._is_event(self.step):
                self._events()
            if self.step >= total:
                return
            self._advance(self._next_event())
            self.signals.poll()

    def _is_event(self, step: int) -> bool:
        config = self.config
        periods = (config.eval.every, config.checkpoint.every, config.train.sample_every)
        return step == config.train.steps or any(p and step % p == 0 for p in periods)

    def _next_event(self) -> int:
        config = self.config
        periods = (config.eval.every, config.checkpoint.every, config.train.sample_every)
        steps = [(self.step // p + 1) * p for p in periods if p]
        return min([config.train.steps, *steps])

    def _advance(self, goal: int) -> None:
        """Steps up to `goal`, or until a signal; one chunk is always in flight."""
        began = time.perf_counter()
        pending: tuple[int, int, Any, Any] | None = None
        while self.step < goal and self.signals.received is None:
            steps = min(goal - self.step, self._chunk)
            self.state, rows, done = self.program.run(self.state, steps)
            if pending is not None:
                began = self._take(*pending, began)
            pending = (self.step, steps, rows, done)
            self.step += steps
        if pending is not None:
            self._take(*pending, began)

    def _take(self, first: int, steps: int, rows: Any, done: Any, began: float) -> float:
        """Wait for a chunk, write its lines, size the next; returns the time it was ready."""
        count = int(done)
        values = np.asarray(rows)[:count]
        now = time.perf_counter()
        seconds = now - began
        targets = float(values[:, 3].sum(dtype=np.float64))
        self.progress.seconds += seconds
        self.progress.targets += targets
        rate = targets / seconds
        self._log(first, values, rate)
        if count < steps:
            self.step = first + count
            raise DivergedError(
                f"stopped at step {self.step}: {self.config.train.max_skipped} steps in a row gave "
                "a loss or gradient that is not finite and were skipped; lower "
                "optim.learning_rate, or set optim.grad_clip"
            )
        per_step = seconds / max(1, steps)
        self._chunk = int(min(max(_CHUNK_SECONDS / per_step, 1), 8 * steps, CAPACITY))
        # What cannot be saved is not worth computing.
        self.check()
        return now

    def _log(self, first: int, values: np.ndarray, rate: float) -> None:
        """The lines of a chunk, written at once: opening the file costs as much as small steps."""
        progress, every, last = self.progress, self.config.train.log_every, first + len(values)
        due = range(first - first % every + every, last + 1, every)
        lines, done = [], first
        for step in sorted({1, *due} if first == 0 and last else due):
            progress.interval.add(values[done - first : step - first])
            line = {**progress.interval.line(), "tokens_per_second": rate}
            lines.append({"step": step, "split": "train", **line})
            progress.interval, done = Interval(), step
        progress.interval.add(values[done - first :])
        if lines:
            self.metrics.write_all(lines)
        if done < last == self.config.train.steps:
            # Shown, not written: with more steps the interval would go on.
            lines.append({"step": last, **progress.interval.line()})
        self.display.steps(last, rate, lines)

    def _events(self) -> None:
        """Evaluation, samples and a checkpoint, whichever are due at this step."""
        config, step, progress = self.config, self.step, self.progress
        last = step == config.train.steps
        best = False
        if self.evaluate and (last or _due(step, config.eval.every)):
            best = self._evaluate()
        if last or _due(step, config.train.sample_every):
            self.sample(step, self.state)
        progress.events_done = step
        if best or last or _due(step, config.checkpoint.every):
            self.save(step, self.state, progress, best)

    def _evaluate(self) -> bool:
        """Measure the validation loss; whether it is the best one yet."""
        assert self.evaluate is not None
        began = time.perf_counter()
        with self.display.doing("evaluating"):
            score = self.evaluate(self.step, self.state)
        seconds = time.perf_counter() - began
        progress = self.progress
        progress.val_loss = score.loss
        self.metrics.write(
            self.step,
            "val",
            **loss_fields(score.loss),
            learning_rate=None,
            grad_norm=None,
            tokens_per_second=score.targets / seconds,
        )
        # "<=" on a NaN is false: a loss that is not finite is never the best.
        best = bool(np.isfinite(score.loss)) and (
            progress.best_val_loss is None or score.loss < progress.best_val_loss
        )
        if best:
            progress.best_val_loss, progress.best_step = score.loss, self.step
        self.display.evaluated(self.step, score.loss, best)
        return best


def _due(step: int, period: int) -> bool:
    return period > 0 and step % period == 0
