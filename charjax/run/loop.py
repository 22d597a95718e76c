"""The training loop: chunks of steps, and the events between them.

The host reads the metrics of one chunk after it has started the next, so the device never waits.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from charjax.config import Config
from charjax.run.display import Display
from charjax.run.events import EventSchedule
from charjax.run.instrument import Instrument
from charjax.run.metrics import Interval, MetricsFile, columns, loss_fields
from charjax.run.profiling import Profile
from charjax.run.progress import Progress
from charjax.run.stopping import Stop
from charjax.training.evaluation import Score
from charjax.training.program import CAPACITY, ChunkProgram
from charjax.training.state import TrainState
from charjax.units import TextSize

# A signal is answered after a chunk, so a chunk should last about this long.
_CHUNK_SECONDS = 0.8


class DivergedError(Exception):
    """Too many steps in a row were not finite."""


class _Chunk(NamedTuple):
    """A chunk that the device is working on.

    Attributes:
      first: steps done before it.
      steps: steps in it.
      rows: metrics of its steps, float32, shape (CAPACITY, fields of Metrics).
      done: the number of its steps that were done; waits for the device.
    """

    first: int
    steps: int
    rows: Any
    done: Any


@dataclasses.dataclass
class Loop:
    """A run from its current step to its last.

    Attributes:
      config: the run's.
      program: the compiled chunk of steps.
      state: donated to each chunk, and replaced by the one it returns.
      progress: the host's side of the state.
      metrics: the file that lines are appended to.
      display: the output of the run.
      signals: polled between chunks.
      evaluate: step, state -> validation score; None where there is no validation split.
      sample: step, state -> None; writes samples.
      save: step, state, progress, best -> None.
      check: raises if the last save has failed; called between chunks.
      sizes: of the training and validation splits.
      steps_per_epoch: those in which every target occurs once.
      profile: the trace of some steps, if one is wanted.
      instrument: reads the state at steps of its own.
      evaluate_trained: as `evaluate`, of the parameters as they are trained, where that is of their
        moving average; else None.
      agree: the steps of the next chunk -> those that all processes agree on; called after each
        chunk, it also lets `signals` know of a signal for any of them.
      step: steps done.
    """

    config: Config
    program: ChunkProgram
    state: TrainState
    progress: Progress
    metrics: MetricsFile
    display: Display
    signals: Stop
    evaluate: Callable[[int, TrainState], Score] | None
    sample: Callable[[int, TrainState], None]
    save: Callable[[int, TrainState, Progress, bool], None]
    check: Callable[[], None]
    sizes: Mapping[str, TextSize]
    steps_per_epoch: float
    profile: Profile | None = None
    instrument: Instrument | None = None
    evaluate_trained: Callable[[int, TrainState], Score] | None = None
    agree: Callable[[int], int] = lambda steps: steps
    step: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.step = int(self.state.counters.step)
        self._events = EventSchedule(self.config)
        self._chunk_steps = 1

    def run(self) -> None:
        """Train to the last step.

        Raises:
          Interrupted: a signal came; `state`, `step` and `progress` are those to save.
          DivergedError: more than train.max_skipped steps in a row were not finite.
        """
        try:
            self._run()
        finally:
            if self.profile is not None:
                self.profile.reached(self.step, is_last=True)

    def _run(self) -> None:
        while True:
            if self.profile is not None:
                self.profile.reached(self.step)
            if self.step > self.progress.events_done and any(self._events.due(self.step)):
                self._run_events()
            if self.instrument is not None:
                self.instrument.reached(self.step, self.state)
            if self.progress.is_over(self.step, self.config):
                return
            goal = self._events.next_after(self.step)
            if self.profile is not None:
                goal = self.profile.next_stop(self.step, goal)
            if self.instrument is not None:
                goal = self.instrument.next_stop(self.step, goal)
            self._advance(goal)
            self.signals.poll()

    def _advance(self, goal: int) -> None:
        """Train up to step `goal`, or until a signal; one chunk is always in flight."""
        began = time.perf_counter()
        # Of several processes one may have a profile, and stop earlier.
        goal = self.step + self.agree(goal - self.step)
        pending: _Chunk | None = None
        while self.step < goal and self.signals.received is None:
            steps = min(goal - self.step, self._chunk_steps)
            self.state, rows, done = self.program.run(self.state, steps)
            if pending is not None:
                began = self._collect(pending, began)
            pending = _Chunk(self.step, steps, rows, done)
            self.step += steps
        if pending is not None:
            self._collect(pending, began)

    def _collect(self, chunk: _Chunk, began: float) -> float:
        """Wait for a chunk, write its lines, size the next; return the time it was ready."""
        count = int(chunk.done)
        rows = np.asarray(chunk.rows)[:count]
        now = time.perf_counter()
        seconds = now - began
        targets = float(columns(rows).targets.sum(dtype=np.float64))
        self.progress.seconds += seconds
        self.progress.targets += targets
        rate = targets / seconds
        self._log(chunk.first, rows, rate)
        if count < chunk.steps:
            self.step = chunk.first + count
            raise DivergedError(
                f"stopped at step {self.step}: {self.config.train.max_skipped} steps in a row gave "
                "a loss or gradient that is not finite and were skipped; lower "
                "optim.learning_rate, or set optim.grad_clip"
            )
        per_step = seconds / max(1, chunk.steps)
        steps = int(min(max(_CHUNK_SECONDS / per_step, 1), 8 * chunk.steps, CAPACITY))
        self._chunk_steps = self.agree(steps)
        # Steps that cannot be saved are not worth computing.
        self.check()
        return now

    def _log(self, first: int, rows: np.ndarray, rate: float) -> None:
        """Write a chunk's lines at once: opening the file costs as much as small steps."""
        progress, every, last = self.progress, self.config.train.log_every, first + len(rows)
        due = range(first - first % every + every, last + 1, every)
        lines, done = [], first
        for step in sorted({1, *due} if first == 0 and last else due):
            progress.interval.add(rows[done - first : step - first])
            line = {**progress.interval.line(self.sizes["train"]), "tokens_per_second": rate}
            lines.append({"step": step, "split": "train", **line, "epoch": self._epoch(step)})
            progress.interval, done = Interval(), step
        progress.interval.add(rows[done - first :])
        if lines:
            self.metrics.write_all(lines)
        if done < last == self.config.train.steps:
            # Shown, not written: with more steps the interval would go on.
            line = progress.interval.line(self.sizes["train"])
            lines.append({"step": last, **line, "epoch": self._epoch(last)})
        self.display.steps(last, rate, lines)

    def _epoch(self, step: int) -> float:
        """Return the epochs that a number of steps comes to."""
        return round(step / self.steps_per_epoch, 6)

    def _run_events(self) -> None:
        """Evaluate, sample and save, whichever is due at this step."""
        step, progress = self.step, self.progress
        due = self._events.due(step)
        best = self._evaluate(self.evaluate) if due.evaluation and self.evaluate else False
        if due.evaluation and self.evaluate_trained:
            self._measure(self.evaluate_trained, "val_trained")
        ends_early = 0 < self.config.train.patience <= progress.stalled
        if ends_early and step < self.config.train.steps:
            self.display.say(
                f"ended at step {step}: no better validation loss in {progress.stalled} "
                f"evaluations, since step {progress.best_step} (train.patience)"
            )
        if due.samples or ends_early:
            self.sample(step, self.state)
        progress.events_done = step
        if best or due.checkpoint or ends_early:
            self.save(step, self.state, progress, best)

    def _evaluate(self, evaluate: Callable[[int, TrainState], Score]) -> bool:
        """Measure the validation loss; return whether it is the best one yet."""
        score, progress = self._measure(evaluate, "val"), self.progress
        progress.val_loss = score.loss
        best = bool(np.isfinite(score.loss)) and (
            progress.best_val_loss is None or score.loss < progress.best_val_loss
        )
        progress.stalled = 0 if best else progress.stalled + 1
        if best:
            progress.best_val_loss, progress.best_step = score.loss, self.step
        self.display.evaluated(self.step, score.loss, best, self.sizes["val"].bpc(score.loss))
        return best

    def _measure(self, evaluate: Callable[[int, TrainState], Score], split: str) -> Score:
        """Measure a loss, and write its line."""
        began = time.perf_counter()
        with self.display.doing("evaluating"):
            score = evaluate(self.step, self.state)
        seconds = time.perf_counter() - began
        self.metrics.write(
            self.step,
            split,
            **loss_fields(score.loss, self.sizes["val"]),
            learning_rate=None,
            grad_norm=None,
            tokens_per_second=score.targets / seconds,
            **score.coverage(),
        )
        return score
