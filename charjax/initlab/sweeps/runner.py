"""Running a sweep: group after group, chunk after chunk, each written as soon as it is measured.

A chunk that is stopped, by a signal or by a crash, continues from its last checkpoint and ends with
the same bits.

Letters: S recorded steps, R runs of a chunk.
"""

import dataclasses
import functools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from charjax import hardware
from charjax.data.datasets import Dataset
from charjax.errors import UserError
from charjax.initlab.measurements.catalogue import Measuring
from charjax.initlab.measurements.program import MeasuringProgram
from charjax.initlab.sweeps.grid import Group
from charjax.initlab.sweeps.plan import Plan
from charjax.initlab.sweeps.program import GroupProgram
from charjax.initlab.sweeps.record import (
    cut,
    empty_measurements,
    empty_record,
    note,
    note_measurements,
    read_part,
    recorded_steps,
    write_part,
)
from charjax.initlab.sweeps.shares import Span, divide, listed, without
from charjax.initlab.sweeps.tables import Finished, repeats
from charjax.run.checkpoint import Checkpoints
from charjax.signals import Interrupted
from charjax.training.ensemble import (
    MEMORY_SHARE,
    EnsembleTraining,
    as_many_as_fit,
    fixed_count,
)
from charjax.training.session import Session, make_session
from charjax.training.state import ADAM_SCALES, state_shapes

_SAVE_SECONDS = 30.0
# Validation targets at the first and the last recorded step, and at those between.
_VAL_TARGETS, _VAL_TARGETS_BETWEEN = 8192, 2048
# A run whose loss is this many times its first loss has diverged.
_DIVERGED = 10.0


@dataclasses.dataclass
class Sweep:
    """A sweep being run.

    Attributes:
      groups: the grid.
      spans: the runs of it that are wanted here.
      dataset: the text.
      devices: all local devices.
      parts: the directory of finished chunks and of the checkpoints of the current ones.
      plan: how many runs each group's program has, filled in as the programs are compiled.
      shares: among how many processes the runs are divided, and which one this is.
      poll: raises Interrupted to stop.
      progress: called with the index of a group and the run-steps done in it.
      measuring: what is measured during training, beside the layers and losses.
      seconds: spent on training, without measurements.
      run_steps: done in that time.
    """

    groups: list[Group]
    spans: list[Span]
    dataset: Dataset
    devices: list[jax.Device]
    parts: Path
    plan: Plan
    poll: Callable[[], None]
    shares: tuple[int, int] = (1, 0)
    progress: Callable[[int, int], None] = lambda group, run_steps: None
    measuring: Measuring | None = None
    seconds: float = 0.0
    run_steps: int = 0

    def run(self, limit: int | None) -> None:
        """Train and measure all chunks that are not finished yet.

        Args:
          limit: the most runs at once; None: as many as memory allows.

        Raises:
          Interrupted: a signal has come; everything is saved.
          UserError: the memory is too small for one run, or for `limit` of them.
        """
        work = self._work
        for index in sorted({span.group for span in work}):
            program = self._build(index, limit)
            measure = self._measuring_program(program)
            for span in (span for span in work if span.group == index):
                for start in range(span.start, span.stop, program.count):
                    stop = min(start + program.count, span.stop)
                    self._run_chunk(Span(index, start, stop), program, measure)

    def finished(self) -> Iterator[Finished]:
        """Yield the results of every group, without the runs that filled up a program."""
        repeated = repeats(self.dataset)
        done, _, _ = self._state()
        for index, group in enumerate(self.groups):
            spans = [span for span in done if span.group == index]
            if not spans:
                continue
            chunks = [
                (span.points(self.groups), cut(read_part(self._part(span.name)), len(span)))
                for span in spans
            ]
            session = open_group(group, self.dataset, self.devices)
            shapes = state_shapes(session.model, session.config).params
            parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
            yield Finished(group, session.model, repeated, parameters, chunks)

    def missing(self) -> list[Span]:
        """Return the runs that are not finished."""
        _, started, rest = self._state()
        return started + rest

    def _state(self) -> tuple[list[Span], list[Span], list[Span]]:
        """Return the chunks that are finished, those with a checkpoint, and all other runs."""
        done = listed(self.parts, ".npz")
        started = [span for span in listed(self.parts, ".now") if without([span], done) == [span]]
        return done, started, without(without(self.spans, done), started)

    @functools.cached_property
    def _work(self) -> list[Span]:
        """The runs that this process trains, as far as they were not finished at first."""
        _, started, rest = self._state()
        count, index = self.shares
        # A checkpoint is of one chunk.
        return [*started[index::count], *divide(rest, self.groups, count, index)]

    def own_run_steps(self) -> list[int]:
        """Return the run-steps of each group that are this process's to do."""
        totals = [0] * len(self.groups)
        for span in self._work:
            totals[span.group] += len(span) * self.groups[span.group].config.train.steps
        return totals

    def _part(self, name: str) -> Path:
        return self.parts / f"{name}.npz"

    def _build(self, index: int, limit: int | None) -> GroupProgram:
        group = self.groups[index]
        session = open_group(group, self.dataset, self.devices)
        build = functools.partial(GroupProgram, group, session)
        if index in self.plan.at_once:
            return build(self.plan.at_once[index])
        # Other processes may be on this machine.
        budget = MEMORY_SHARE * hardware.available_memory(self.devices) / self.shares[0]
        wanted = sum(len(span) for span in self.spans if span.group == index)
        count = _at_once(session, min(limit or wanted, wanted), limit)
        program = as_many_as_fit(build, count, budget)
        devices = program.ensemble.mesh.size
        needed, total = program.memory * devices / 1e9, budget * devices / 1e9
        if program.memory > budget or (limit is not None and program.count < count):
            fit = 0 if program.memory > budget else program.count
            setting = f"--at-once: {limit}" if limit else f"--width: {group.width}"
            raise UserError(
                f"{setting} given; {program.count} run(s) of depth {group.depth} and width "
                f"{group.width} need {needed:.1f} GB and {total:.1f} GB may be taken: {fit} would "
                "fit at once; give that many, or a smaller network or batch"
            )
        self.plan.at_once[index] = program.count
        # Each process has a number of its own.
        if self.shares[0] == 1:
            self.plan.write()
        return program

    def _measuring_program(self, program: GroupProgram) -> MeasuringProgram | None:
        if self.measuring is None:
            return None
        model, config = program.session.model, program.group.config
        return MeasuringProgram(
            self.measuring.names, model, config, program.ensemble, program.initial_shapes
        )

    def _run_chunk(
        self, span: Span, program: GroupProgram, measure: MeasuringProgram | None
    ) -> None:
        directory = self.parts / f"{span.name}.now"
        store = Checkpoints(directory, keep=1)
        if store.steps() and store.read_meta("latest")["at_once"] != program.count:
            # Of another machine, or of another number of processes.
            store.close()
            shutil.rmtree(directory)
            store = Checkpoints(directory, keep=1)
        training = _ChunkTraining(self, span, program, store, measure)
        if store.steps():
            training.restore()
        try:
            training.finish()
        except Interrupted:
            training.save()
            store.close()
            raise
        store.close()
        write_part(self._part(span.name), training.record)
        shutil.rmtree(directory)


class _ChunkTraining:
    """The runs of a chunk, trained and measured from step 0 to the last."""

    def __init__(
        self,
        sweep: Sweep,
        span: Span,
        program: GroupProgram,
        store: Checkpoints,
        measure: MeasuringProgram | None,
    ):
        self.sweep, self.span, self.program = sweep, span, program
        self.store, self.saved = store, time.monotonic()
        self.steps = program.group.config.train.steps
        self.recorded = recorded_steps(self.steps)
        self.training = EnsembleTraining(
            program.ensemble, *program.start(span.points(sweep.groups)), self._report, self._pause
        )
        self.record = empty_record(program.measured_shapes, len(self.recorded))
        self.measure_at: tuple[int, ...] = ()
        self.measure, self.initial = measure, None
        if sweep.measuring is not None and measure is not None:
            self.measure_at = sweep.measuring.at
            self.record |= empty_measurements(measure.shapes, len(self.measure_at))
            # Training donates the other one.
            self.initial, _ = program.start(span.points(sweep.groups))

    def finish(self) -> None:
        """Train up to the last step, saving now and then."""
        training = self.training
        if training.step == 0:
            self._measure()
        self._limit_losses()
        if training.step == 0:
            self._measure_more()
        while training.step < self.steps:
            goal = next(step for step in self.recorded if step > training.step)
            stops = (*(step for step in self.measure_at if training.step < step < goal), goal)
            training.advance(stops[0], goal)
            if training.step == goal:
                self._measure()
            self._measure_more()
            # Only now is the work of this step done: a resumed sweep would not repeat it.
            self._pause()

    def save(self) -> None:
        """Save a checkpoint of the chunk."""
        tree = {"runs": self.training.state, "record": self.record, "sums": self.training.sums_2R}
        self.store.save(self.training.step, tree, {"at_once": self.program.count})
        self.saved = time.monotonic()

    def restore(self) -> None:
        """Continue from the latest checkpoint."""
        training = self.training
        like = {
            "runs": self.program.ensemble.shaped(training.state),
            "record": self.record,
            "sums": training.sums_2R,
        }
        tree, _, training.step = self.store.restore("latest", like, ones=ADAM_SCALES)
        training.state, self.record, training.sums_2R = tree["runs"], tree["record"], tree["sums"]
        self.sweep.progress(self.span.group, training.step * len(self.span))

    def _limit_losses(self) -> None:
        """Set the loss above which a run has diverged, from its first one in the record."""
        uniform = np.log(self.program.session.dataset.tokenizer.vocab_size)
        first_R = self.record["val_loss"][0]
        limit_R = jnp.asarray(_DIVERGED * np.maximum(first_R, uniform), jnp.float32)
        self.training.hyperparameters = self.training.hyperparameters._replace(
            max_loss=self.program.ensemble.place(limit_R)
        )

    def _report(self, steps: int, seconds: float) -> None:
        self.sweep.seconds += seconds
        self.sweep.run_steps += steps * self.program.count
        self.sweep.progress(self.span.group, steps * len(self.span))

    def _pause(self) -> None:
        """Answer a signal, and save if it is time."""
        self.sweep.poll()
        if time.monotonic() - self.saved > _SAVE_SECONDS:
            self.save()

    def _measure(self) -> None:
        training, program = self.training, self.program
        at_end = training.step in (0, self.steps)
        batches = program.val_batches(_VAL_TARGETS if at_end else _VAL_TARGETS_BETWEEN)
        measured = program.measure(training.state, training.hyperparameters, batches)
        place = self.recorded.index(training.step)
        note(self.record, place, measured, training.state, training.pop_sums())

    def _measure_more(self) -> None:
        """Make the measurements of `Sweep.measuring`, if it is one of their steps."""
        training = self.training
        if self.measure is None or self.initial is None or training.step not in self.measure_at:
            return
        found = self.measure(self.initial, training.state, training.hyperparameters)
        note_measurements(self.record, self.measure_at.index(training.step), found)


def open_group(group: Group, dataset: Dataset, devices: list[jax.Device]) -> Session:
    """Return the session of a group's first config, with random but fixed validation batches."""
    config = group.config
    length = 1 if config.data.layout == "pairs" else config.model.context_length or 1
    # As large as a training batch, so that measuring needs no more memory than training.
    rows = max(config.train.batch_size, -(-512 // length))
    evaluation = config.eval.model_copy(update={"protocol": "random", "batch_size": rows})
    return make_session(config.model_copy(update={"eval": evaluation}), dataset, devices)


def _at_once(session: Session, wanted: int, limit: int | None) -> int:
    """Return how many runs a program has, before it is known whether they fit.

    On a CPU that depends on the network and the devices alone, and so the bits of a run do not
    depend on the others; a grid can be divided and extended. On an accelerator as many as there
    are, or `limit`, go together.
    """
    devices = len(session.devices)
    if session.devices[0].platform == "cpu":
        fixed = fixed_count(state_shapes(session.model, session.config), 1, devices)
        return min(limit or fixed, fixed)
    count = limit or wanted
    return count if count < devices else -(-count // devices) * devices
