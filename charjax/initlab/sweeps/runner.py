"""Running a sweep: group after group, chunk after chunk, each kept as soon as it is measured.

A chunk that is stopped, by a signal or by a crash, goes on from where it was last saved, and ends
with the same bits.

Letters: S recorded steps, R runs of a chunk.
"""

import dataclasses
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
from charjax.initlab.sweeps.grid import Group, Point
from charjax.initlab.sweeps.plan import Plan
from charjax.initlab.sweeps.program import GroupProgram
from charjax.initlab.sweeps.record import (
    cut,
    empty_record,
    note,
    read_part,
    recorded_steps,
    write_part,
)
from charjax.initlab.sweeps.tables import Finished, repeats
from charjax.run.checkpoint import Checkpoints
from charjax.signals import Interrupted
from charjax.training.ensemble import MEMORY_SHARE, as_many_as_fit
from charjax.training.session import Session, make_session
from charjax.training.state import ADAM_SCALES, state_shapes

_DISPATCH_SECONDS = 0.5
_SAVE_SECONDS = 30.0
# The sums of the losses are float32 on the device; they are added up in float64 here, always after
# the same steps, so that a resumed sweep has the bits of one that was never stopped.
_FLUSH_STEPS = 1000
# Validation targets at the first and the last recorded step, and at those between.
_VAL_TARGETS, _VAL_TARGETS_BETWEEN = 8192, 2048
# A run whose loss is this many times what it began with has diverged.
_DIVERGED = 10.0


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Runs of a group that are trained together; the last one of them may fill up the program."""

    name: str
    points: tuple[Point, ...]


@dataclasses.dataclass
class Sweep:
    """A sweep on its way.

    Attributes:
      groups: the grid.
      dataset: the text.
      devices: all local ones.
      parts: the directory of what is finished or under way.
      plan: how many runs each group's program has: filled in as they are compiled, or from before.
      poll: raises Interrupted to stop.
      progress: told of which group run-steps are done, and how many.
      seconds: spent on training alone.
      run_steps: done in them.
    """

    groups: list[Group]
    dataset: Dataset
    devices: list[jax.Device]
    parts: Path
    plan: Plan
    poll: Callable[[], None]
    progress: Callable[[int, int], None] = lambda group, run_steps: None
    seconds: float = 0.0
    run_steps: int = 0

    def run(self, limit: int | None) -> None:
        """Train and measure everything that is not finished yet.

        Args:
          limit: the most runs at once; None: as many as memory allows.

        Raises:
          Interrupted: a signal has come; everything is kept.
          UserError: not even one run, or not `limit` of them, has room.
        """
        for index, group in enumerate(self.groups):
            count = self.plan.at_once.get(index)
            missing = [c for c in self._chunks(index, count) if not self._part(c.name).exists()]
            if count is not None and not missing:
                self.progress(index, len(group.points) * group.config.train.steps)
                continue
            program = self._build(index, group, limit)
            for chunk in self._chunks(index, program.count):
                if self._part(chunk.name).exists():
                    self.progress(index, len(chunk.points) * group.config.train.steps)
                else:
                    self._run_chunk(index, chunk, program)

    def finished(self) -> Iterator[Finished]:
        """The results of every group; what filled up a program is cut off."""
        repeated = repeats(self.dataset)
        for index, group in enumerate(self.groups):
            chunks = [
                (c.points, cut(read_part(self._part(c.name)), len(c.points)))
                for c in self._chunks(index, self.plan.at_once[index])
            ]
            session = open_group(group, self.dataset, self.devices)
            shapes = state_shapes(session.model, session.config).params
            parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
            yield Finished(group, session.model, repeated, parameters, chunks)

    def _chunks(self, index: int, count: int | None) -> list[Chunk]:
        points = self.groups[index].points
        size = count or len(points)
        starts = range(0, len(points), size)
        return [Chunk(f"{index}-{start}", points[start : start + size]) for start in starts]

    def _part(self, name: str) -> Path:
        return self.parts / f"{name}.npz"

    def _build(self, index: int, group: Group, limit: int | None) -> GroupProgram:
        session = open_group(group, self.dataset, self.devices)

        def build(count: int) -> GroupProgram:
            return GroupProgram(group, session, _evenly(count, len(self.devices)))

        if index in self.plan.at_once:
            return build(self.plan.at_once[index])
        budget = MEMORY_SHARE * hardware.available_memory(self.devices)
        count = min(limit or len(group.points), len(group.points))
        program = as_many_as_fit(build, count, budget)
        devices = program.stack.mesh.size
        needed, total = program.memory * devices / 1e9, budget * devices / 1e9
        if program.memory > budget or (limit is not None and program.count < count):
            fit = 0 if program.memory > budget else program.count
            given = f"--at-once: {limit}" if limit else f"--width: {group.width}"
            raise UserError(
                f"{given} given; {program.count} run(s) of depth {group.depth} and width "
                f"{group.width} need {needed:.1f} GB and {total:.1f} GB may be taken: {fit} would "
                "fit at once; give that many, or a smaller network or batch"
            )
        self.plan.at_once[index] = program.count
        self.plan.write()
        return program

    def _run_chunk(self, index: int, chunk: Chunk, program: GroupProgram) -> None:
        going = _Going(self, index, chunk, program)
        place = self.parts / f"{chunk.name}.now"
        store = Checkpoints(place, keep=1)
        if store.steps():
            going.restore(store)
        try:
            going.finish(store)
        except Interrupted:
            going.save(store)
            store.close()
            raise
        store.close()
        write_part(self._part(chunk.name), going.record)
        shutil.rmtree(place)


class _Going:
    """A chunk on its way from step 0 to the last."""

    def __init__(self, sweep: Sweep, index: int, chunk: Chunk, program: GroupProgram):
        self.sweep, self.index, self.chunk, self.program = sweep, index, chunk, program
        self.steps = program.group.config.train.steps
        self.recorded = recorded_steps(self.steps)
        filled = chunk.points + chunk.points[-1:] * (program.count - len(chunk.points))
        self.runs, self.numbers = program.begin(filled)
        self.record = empty_record(program.measured_shapes, len(self.recorded))
        self.sums_2R = np.zeros((2, program.count))
        self.step, self.length, self.saved = 0, 1, time.monotonic()

    def finish(self, store: Checkpoints) -> None:
        """Go on to the last step, saving now and then."""
        if self.step == 0:
            self._measure()
        self._limit()
        while self.step < self.steps:
            goal = next(step for step in self.recorded if step > self.step)
            self._advance(min(goal, (self.step // _FLUSH_STEPS + 1) * _FLUSH_STEPS), store)
            if self.step == goal:
                self._measure()
            # Only here is what belongs to this step done: a sweep that goes on from here would
            # not do it again.
            self._pause(store)

    def save(self, store: Checkpoints) -> None:
        """Keep where it is."""
        tree = {"runs": self.runs, "record": self.record, "sums": self.sums_2R}
        store.save(self.step, tree, {"points": len(self.chunk.points)})
        self.saved = time.monotonic()

    def restore(self, store: Checkpoints) -> None:
        """Go back to where it was saved."""
        like = {
            "runs": self.program.stack.shaped(self.runs),
            "record": self.record,
            "sums": self.sums_2R,
        }
        tree, _, self.step = store.restore("latest", like, ones=ADAM_SCALES)
        self.runs, self.record, self.sums_2R = tree["runs"], tree["record"], tree["sums"]
        self.sweep.progress(self.index, self.step * len(self.chunk.points))

    def _limit(self) -> None:
        """Say from which loss on a run has diverged: by its first, which is in the record."""
        uniform = np.log(self.program.session.dataset.tokenizer.vocab_size)
        first_R = self.record["val_loss"][0]
        limit_R = jnp.asarray(_DIVERGED * np.maximum(first_R, uniform), jnp.float32)
        self.numbers = self.numbers._replace(max_loss=self.program.stack.place(limit_R))

    def _advance(self, goal: int, store: Checkpoints) -> None:
        """Steps up to `goal`, and their losses into the sums."""
        while self.step < goal:
            began, steps = time.perf_counter(), min(self.length, goal - self.step)
            self.runs = self.program.stack.run(self.runs, self.numbers, steps)
            jax.block_until_ready(self.runs.diverged)
            seconds = time.perf_counter() - began
            self.step += steps
            self.length = int(min(max(_DISPATCH_SECONDS * steps / seconds, 1), 8 * steps))
            self.sweep.seconds += seconds
            self.sweep.run_steps += steps * self.program.count
            self.sweep.progress(self.index, steps * len(self.chunk.points))
            if self.step < goal:
                self._pause(store)
        self.sums_2R += np.asarray([self.runs.losses, self.runs.targets], np.float64)
        self.runs = self.runs.emptied()

    def _pause(self, store: Checkpoints) -> None:
        """Answer a signal, and save if it is time."""
        self.sweep.poll()
        if time.monotonic() - self.saved > _SAVE_SECONDS:
            self.save(store)

    def _measure(self) -> None:
        ends = self.step in (0, self.steps)
        batches = self.program.val_batches(_VAL_TARGETS if ends else _VAL_TARGETS_BETWEEN)
        measured = self.program.measure(self.runs, self.numbers, batches)
        note(self.record, self.recorded.index(self.step), measured, self.runs, self.sums_2R)
        self.sums_2R = np.zeros_like(self.sums_2R)


def open_group(group: Group, dataset: Dataset, devices: list[jax.Device]) -> Session:
    """The session of a group's first config; its validation batches are random and fixed."""
    config = group.config
    length = 1 if config.data.layout == "pairs" else config.model.context_length or 1
    # As large as a training batch, so that measuring needs no more memory than training.
    rows = max(config.train.batch_size, -(-512 // length))
    evaluation = config.eval.model_copy(update={"protocol": "random", "batch_size": rows})
    return make_session(config.model_copy(update={"eval": evaluation}), dataset, devices)


def _evenly(count: int, devices: int) -> int:
    """The least multiple of the devices that holds so many; fewer runs than devices stay as is."""
    return count if count < devices else -(-count // devices) * devices
