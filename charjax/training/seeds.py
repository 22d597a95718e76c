"""Several seeds of one config, trained as one ensemble and measured.

Replica k has the parameters, batches and dropout of a run with train.seed = seeds[k]. Nothing is
written to disk; the losses are returned.

Letters: R replicas.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from charjax import hardware, parallel
from charjax.random_streams import purpose_key
from charjax.training.ensemble import (
    MEMORY_SHARE,
    Ensemble,
    EnsembleTraining,
    as_many_as_fit,
)
from charjax.training.evaluation import random_loss
from charjax.training.feed import Source
from charjax.training.session import Session
from charjax.training.state import variables_of
from charjax.training.validation import score_split

# Losses of a run in nats per target. "initial" and "final": the exact validation
# loss at step 0 and at the last step; "random": the lowest mean over random batches (nanoGPT's
# protocol); "val", "test" and "train": the exact losses at the best step.
Quantity = Literal["initial", "final", "random", "val", "test", "train"]


class Point(NamedTuple):
    """Losses at a step: the training mean since the previous point, and those on validation."""

    step: int
    train: float
    val: float
    random: float | None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Results of one seed.

    Attributes:
      seed: train.seed.
      losses: the requested losses by name.
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
      ensemble: compiled for as many of them as memory allows (`plan`).
    """

    session: Session
    seeds: tuple[int, ...]
    ensemble: Ensemble

    @staticmethod
    def plan(session: Session, seeds: tuple[int, ...]) -> "Replicas":
        """Find how many runs fit in memory, by compiling for fewer and fewer."""
        budget = MEMORY_SHARE * hardware.available_memory(session.devices)
        build = functools.partial(Ensemble, session)
        return Replicas(session, seeds, as_many_as_fit(build, len(seeds), budget))

    @property
    def at_once(self) -> int:
        """R, the number of runs in one program."""
        return self.ensemble.count

    def train(
        self,
        wanted: frozenset[Quantity],
        progress: Callable[[int], None] = lambda steps: None,
        poll: Callable[[], None] = lambda: None,
    ) -> Iterator[list[Outcome]]:
        """Train every seed, `at_once` at a time, and yield the outcomes of each such group.

        Args:
          wanted: the losses to measure.
          progress: called with the steps that each replica has done since the call before.
          poll: called between calls of the program; may raise to stop.
        """
        for first in range(0, len(self.seeds), self.at_once):
            seeds = self.seeds[first : first + self.at_once]
            whole = len(seeds) == self.at_once
            ensemble = self.ensemble if whole else Ensemble(self.session, len(seeds))
            yield _Group(self.session, ensemble, seeds, wanted, progress, poll).run()


class _Group:
    """R replicas, trained and measured from step 0 to the last."""

    def __init__(
        self,
        session: Session,
        ensemble: Ensemble,
        seeds: tuple[int, ...],
        wanted: frozenset[Quantity],
        progress: Callable[[int], None],
        poll: Callable[[], None],
    ):
        self.session, self.seeds, self.wanted, self.poll = session, seeds, wanted, poll
        rates = [session.config.optim.learning_rate] * len(seeds)
        self.training = EnsembleTraining(
            ensemble, *ensemble.start(seeds, rates), lambda steps, seconds: progress(steps), poll
        )
        self.losses: list[dict[str, float]] = [{} for _ in seeds]
        self.curves: list[list[Point]] = [[] for _ in seeds]
        self.best: list[tuple[float, int, Any] | None] = [None] * len(seeds)

    def run(self) -> list[Outcome]:
        """Train, measure, and return the outcomes."""
        config = self.session.config
        total, every = config.train.steps, config.eval.every or config.train.steps
        if "initial" in self.wanted:
            for index in range(len(self.seeds)):
                self.losses[index]["initial"] = self._exact("val", self._variables(index))
        while (step := self.training.step) < total:
            self.training.advance(min(total, (step // every + 1) * every))
            self.poll()
            losses_R, targets_R = self.training.pop_sums()
            with np.errstate(invalid="ignore"):
                self._evaluate(losses_R / targets_R)
        return [self._outcome(index, seed) for index, seed in enumerate(self.seeds)]

    def _evaluate(self, train_R: np.ndarray) -> None:
        """Measure every replica, and store the variables of those that are at their best."""
        if "val" not in self.session.dataset.splits:
            return
        source = self.session.val_source
        for index, seed in enumerate(self.seeds):
            variables = self._variables(index)
            val, random = self._exact("val", variables), None
            if source is not None:
                seeded = dataclasses.replace(source, key=purpose_key(seed, "batches"))
                random = self._random(seeded, variables)
            self.curves[index].append(Point(self.training.step, float(train_R[index]), val, random))
            figure, best = val if random is None else random, self.best[index]
            if best is None or _rank(figure) < _rank(best[0]):
                self.best[index] = (figure, self.training.step, variables)
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
            best_step=best[1] if best else self.training.step,
            skipped=int(self.training.state.states.counters.skipped[index]),
            diverged=int(self.training.state.diverged[index]) >= 0,
        )

    def _variables(self, index: int) -> Any:
        state = jax.tree.map(lambda leaf_R: leaf_R[index], self.training.state.states)
        variables = variables_of(state, "averaged")
        return parallel.place(variables, parallel.replicated(self.session.mesh))

    def _exact(self, name: str, variables: Any) -> float:
        split = self.session.dataset.splits[name]
        return score_split(self.session, split, variables, self.poll).loss

    def _random(self, source: Source, variables: Any) -> float:
        count = self.session.config.eval.batches
        first = (self.training.step * count) % (2**31 - 1 - count)
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
    """Return a key that sorts NaN last: "<" alone would let a first NaN stay the best."""
    return math.isnan(loss), loss
