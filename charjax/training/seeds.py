"""Several seeds of one config as one program: the step of a single run, vmapped.

Replica k has the parameters, batches and dropout of a run with train.seed = seeds[k]. The replicas
are split over the devices, which have nothing to tell each other. Nothing is written to disk; what
is wanted of each is measured and returned.

Letters: R replicas.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax import hardware, parallel
from charjax.data.batches import BatchSource
from charjax.random_streams import purpose_key
from charjax.training.ensemble import (
    MEMORY_SHARE,
    Ensemble,
    EnsembleState,
    RunHyperparameters,
    as_many_as_fit,
    initial_ensemble,
)
from charjax.training.evaluation import random_loss
from charjax.training.session import Session, score_split, seed_state
from charjax.training.state import TrainState, variables_of

# What can be measured of a run, in nats a target. "initial" and "final": the exact validation
# loss at step 0 and at the last step; "random": the lowest mean over random batches (nanoGPT's
# protocol); "val", "test" and "train": the exact losses at the best step.
Quantity = Literal["initial", "final", "random", "val", "test", "train"]

_CHUNK_SECONDS = 0.5


class Point(NamedTuple):
    """Losses at a step: the mean in training since the point before, and on validation."""

    step: int
    train: float
    val: float
    random: float | None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one seed gave.

    Attributes:
      seed: train.seed.
      losses: what was asked for, by name.
      curve: the losses at every evaluation.
      best_step: of the lowest validation loss by the config's protocol, or the last step.
      skipped: steps that were not finite.
      diverged: whether more of them came in a row than train.max_skipped allows.
    """

    seed: int
    losses: dict[str, float]
    curve: tuple[Point, ...]
    best_step: int
    skipped: int
    diverged: bool


@dataclasses.dataclass(frozen=True)
class Replicas:
    """A config's session and how many of its seeds are trained at once.

    Attributes:
      session: opened with any of the seeds; its text and model are shared.
      seeds: of all runs.
      program: compiled for as many of them as memory allows (`plan`).
    """

    session: Session
    seeds: tuple[int, ...]
    program: "_Program"

    @staticmethod
    def plan(session: Session, seeds: tuple[int, ...]) -> "Replicas":
        """Find how many runs fit in memory by compiling for fewer and fewer."""
        budget = MEMORY_SHARE * hardware.available_memory(session.devices)
        build = functools.partial(_Program, session)
        return Replicas(session, seeds, as_many_as_fit(build, len(seeds), budget))

    @property
    def at_once(self) -> int:
        """R, the runs of one program."""
        return self.program.count

    def train(
        self,
        wanted: frozenset[Quantity],
        progress: Callable[[int], None] = lambda steps: None,
        poll: Callable[[], None] = lambda: None,
    ) -> Iterator[list[Outcome]]:
        """Train every seed, `at_once` at a time; yields the outcomes of each such group.

        Args:
          wanted: what to measure.
          progress: told the steps done since it was last called, one replica's.
          poll: called between chunks; may raise to stop.
        """
        for first in range(0, len(self.seeds), self.at_once):
            seeds = self.seeds[first : first + self.at_once]
            whole = len(seeds) == self.at_once
            program = self.program if whole else _Program(self.session, len(seeds))
            yield _Group(self.session, program, seeds, wanted, poll).run(progress)


class _Program:
    """The compiled loop over a number of steps, for any `count` seeds of a session."""

    def __init__(self, session: Session, count: int):
        assert session.source is not None
        begin = jax.jit(functools.partial(_begin, session))
        begun = jax.eval_shape(begin, session.source, jnp.zeros(count, jnp.uint32))
        self.stack = Ensemble(
            session.model, session.config, session.source, session.devices, count, begun
        )
        self._begin = begin

    @property
    def count(self) -> int:
        """R."""
        return self.stack.count

    @property
    def memory(self) -> int:
        """Bytes it takes while it runs."""
        return self.stack.memory

    def begin(self, seeds: tuple[int, ...]) -> tuple[EnsembleState, RunHyperparameters]:
        """The runs at step 0, and what tells them apart."""
        return self.stack.place(self._begin(self.stack.source, jnp.asarray(seeds, jnp.uint32)))


class _Group:
    """R replicas on their way from step 0 to the last."""

    def __init__(
        self,
        session: Session,
        program: _Program,
        seeds: tuple[int, ...],
        wanted: frozenset[Quantity],
        poll: Callable[[], None],
    ):
        self.session, self.seeds, self.wanted, self.poll = session, seeds, wanted, poll
        self.program = program
        self.runs, self.numbers = program.begin(seeds)
        self.step, self.chunk = 0, 1
        self.losses: list[dict[str, float]] = [{} for _ in seeds]
        self.curves: list[list[Point]] = [[] for _ in seeds]
        self.best: list[tuple[float, int, Any] | None] = [None] * len(seeds)

    def run(self, progress: Callable[[int], None]) -> list[Outcome]:
        """Train, measure, and tell."""
        config = self.session.config
        total, every = config.train.steps, config.eval.every or config.train.steps
        if "initial" in self.wanted:
            for index in range(len(self.seeds)):
                self.losses[index]["initial"] = self._exact("val", self._variables(index))
        while self.step < total:
            goal = min(total, (self.step // every + 1) * every)
            train_R = self._advance(goal, progress)
            self._evaluate(train_R)
        return [self._outcome(index, seed) for index, seed in enumerate(self.seeds)]

    def _advance(self, goal: int, progress: Callable[[int], None]) -> np.ndarray:
        """Steps up to `goal`; the mean training losses (R,) of them."""
        losses_R, targets_R = np.zeros((2, len(self.seeds)))
        while self.step < goal:
            began, steps = time.perf_counter(), min(self.chunk, goal - self.step)
            self.runs = self.program.stack.run(self.runs.emptied(), self.numbers, steps)
            losses_R += np.asarray(self.runs.losses, np.float64)
            targets_R += np.asarray(self.runs.targets, np.float64)
            self.step += steps
            per_step = (time.perf_counter() - began) / steps
            self.chunk = int(min(max(_CHUNK_SECONDS / per_step, 1), 8 * steps))
            progress(steps)
            self.poll()
        with np.errstate(invalid="ignore"):
            return losses_R / targets_R

    def _evaluate(self, train_R: np.ndarray) -> None:
        """Measure every replica, and keep those that are at their best."""
        if "val" not in self.session.dataset.splits:
            return
        source = self.session.val_source
        for index, seed in enumerate(self.seeds):
            variables = self._variables(index)
            val, random = self._exact("val", variables), None
            if source is not None:
                random = self._random(
                    dataclasses.replace(source, key=purpose_key(seed, "batches")), variables
                )
            self.curves[index].append(Point(self.step, float(train_R[index]), val, random))
            figure, best = val if random is None else random, self.best[index]
            if best is None or _rank(figure) < _rank(best[0]):
                self.best[index] = (figure, self.step, variables)
                self.losses[index] |= {"val": val}
                if random is not None:
                    self.losses[index] |= {"random": random}
            self.losses[index] |= {"final": val}

    def _outcome(self, index: int, seed: int) -> Outcome:
        best = self.best[index]
        variables = best[2] if best else self._variables(index)
        for name in ("train", "test"):
            if name in self.wanted:
                self.losses[index][name] = self._exact(name, variables)
        return Outcome(
            seed=seed,
            losses={name: x for name, x in self.losses[index].items() if name in self.wanted},
            curve=tuple(self.curves[index]),
            best_step=best[1] if best else self.step,
            skipped=int(self.runs.states.counters.skipped[index]),
            diverged=int(self.runs.diverged[index]) >= 0,
        )

    def _variables(self, index: int) -> Any:
        own = jax.tree.map(lambda leaf_R: leaf_R[index], variables_of(self.runs.states))
        return jax.device_put(own, parallel.replicated(self.session.mesh))

    def _exact(self, name: str, variables: Any) -> float:
        split = self.session.dataset.splits[name]
        return score_split(self.session, split, variables, self.poll).loss

    def _random(self, source: BatchSource, variables: Any) -> float:
        count = self.session.config.eval.batches
        first = (self.step * count) % (2**31 - 1 - count)
        return random_loss(
            self.session.model,
            variables,
            source,
            self.session.mesh,
            batches=count,
            first=first,
            poll=self.poll,
        ).loss


def _rank(loss: float) -> tuple[bool, float]:
    """Order losses with those that are not a number last: "<" alone would keep a first NaN."""
    return math.isnan(loss), loss


def _begin(
    session: Session, source: BatchSource, seeds_R: Array
) -> tuple[EnsembleState, RunHyperparameters]:
    """What the runs of these seeds start from; for use in jit."""
    rate = jnp.float32(session.config.optim.learning_rate)

    def one(seed: Array) -> tuple[TrainState, RunHyperparameters]:
        batch_key = purpose_key(seed, "batches")
        own = dataclasses.replace(source, key=batch_key)
        state = seed_state(session, purpose_key(seed, "init"), own)
        numbers = RunHyperparameters(
            batch_key, purpose_key(seed, "dropout"), rate, jnp.float32(jnp.inf)
        )
        return state, numbers

    states, numbers = jax.vmap(one)(seeds_R)
    return initial_ensemble(states), numbers
