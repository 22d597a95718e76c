"""Full-batch runs from every scheme under one optimiser, and their sharpness along the way.

The full batch is the library's own: with `data.sampling=epoch` and as many rows as there are
contexts, the one batch of an epoch holds every context, at every step in another order. The step,
the optimiser and the measurements are those of any run.

Letters: L learning rates, S seeds, R = L S runs, M measured steps.
"""

import collections
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from charjax import parallel
from charjax.config import load_config
from charjax.data.batches import BatchSource
from charjax.data.datasets import load_dataset
from charjax.data.splits import Split
from charjax.initlab.measurements.program import MeasuringProgram
from charjax.initlab.studies.edge_settings import Optimiser, Settings
from charjax.initlab.studies.pieces import Arrays
from charjax.parallel import ROWS, WHOLE
from charjax.reproduction.checks import Poll
from charjax.training.ensemble import Ensemble, EnsembleTraining, initial_ensemble, initial_run
from charjax.training.feed import device_source
from charjax.training.session import Session, make_session


def config_words(settings: Settings) -> list[str]:
    """Return the words of the configuration that all runs share."""
    return [
        "data.name=names",
        "data.layout=pairs",
        "data.sampling=epoch",
        "model.kind=mlp",
        f"model.context_length={settings.context}",
        f"model.d_embed={settings.embed}",
        f"model.hidden={list(settings.hidden)}",
        "optim.grad_clip=0.0",
        f"train.steps={settings.steps}",
        f"train.batch_size={settings.contexts}",
        # A run has diverged at its first step that is not finite.
        "train.max_skipped=1",
    ]


def first_lines(split: Split, targets: int) -> Split:
    """Return the first lines of a split, with so many targets at most."""
    count = int(np.searchsorted(np.cumsum(split.doc_lengths), targets, side="right"))
    assert count > 1
    starts_D, lengths_D = split.doc_starts[:count], split.doc_lengths[:count]
    end = int(starts_D[-1] + lengths_D[-1]) + 1
    return dataclasses.replace(
        split, tokens=split.tokens[:end], doc_starts=starts_D, doc_lengths=lengths_D, counted=None
    )


def open_sessions(settings: Settings, optimiser: Optimiser) -> list[Session]:
    """Return a session for each scheme, of the same full batch."""
    words = [*config_words(settings), *optimiser.words]
    config = load_config(None, words)
    dataset = load_dataset(config.data)
    split = first_lines(dataset.splits["train"], config.train.batch_size)
    dataset = dataclasses.replace(dataset, splits={"train": split})
    whole = f"train.batch_size={split.num_targets}"
    return [
        make_session(
            load_config(None, [*words, whole, f"init.scheme={scheme}"]), dataset, jax.devices()
        )
        for scheme in settings.schemes
    ]


class SchemePrograms:
    """The programs for R runs under one optimiser, compiled when they are needed first."""

    def __init__(
        self, sessions: list[Session], measurement: str, rates: tuple[float, ...], seeds: int
    ):
        """Prepare.

        Args:
          sessions: of the schemes, which differ in nothing else.
          measurement: a curvature of `charjax.initlab.measurements`.
          rates: L of them.
          seeds: S; they are 0, 1, ...
        """
        self._sessions, self._measurement = sessions, measurement
        self._rates_L = jnp.asarray(rates, jnp.float32)
        self._seeds_S = jnp.arange(seeds, dtype=jnp.uint32)

    @functools.cached_property
    def _programs(self) -> tuple[Ensemble, MeasuringProgram]:
        session = self._sessions[0]
        ensemble = Ensemble(session, len(self._rates_L) * len(self._seeds_S))
        initial = _start(session, self._rates_L, self._seeds_S)
        measuring = MeasuringProgram(
            (self._measurement,), session.model, session.config, ensemble, initial
        )
        return ensemble, measuring

    def train(self, place: int, at: tuple[int, ...], poll: Poll) -> Arrays:
        """Train the runs of one scheme, and measure them.

        Args:
          place: of the scheme.
          at: the steps, ascending, from 0 on; training ends at the last.
          poll: called often; may raise to stop.

        Returns:
          value and residual (R, M), rate by rate; loss (R, M): the mean over the steps since the
          measurement before, and at step 0 that of the first step; diverged (R,): the step, or -1.
        """
        ensemble, measure = self._programs
        start = _start(self._sessions[place], self._rates_L, self._seeds_S)
        state, hyperparameters = ensemble.place(start)
        initial = jax.tree.map(jnp.copy, state)
        training = EnsembleTraining(ensemble, state, hyperparameters, poll=poll)
        found: dict[str, list[NDArray[np.float64]]] = {"value": [], "residual": [], "loss": []}
        for step in at:
            training.advance(step)
            measured = measure(initial, training.state, hyperparameters)
            found["value"].append(_host(measured[self._measurement]))
            found["residual"].append(_host(measured[f"{self._measurement}_residual"]))
            losses_R, targets_R = training.pop_sums()
            with np.errstate(divide="ignore", invalid="ignore"):
                found["loss"].append(losses_R / targets_R)
            poll()
        arrays: Arrays = {name: np.stack(columns, axis=1) for name, columns in found.items()}
        # The first step's loss is that of the parameters at step 0.
        arrays["loss"][:, 0] = arrays["loss"][:, 1]
        arrays["diverged"] = np.asarray(training.state.diverged)
        return arrays


def loss_floor(session: Session) -> float:
    """Return the least loss that a function of the context can have on the batch, in nats.

    It is the entropy of the target given the context, as they occur in the batch.
    """
    assert isinstance(session.source, BatchSource)
    batch = jax.device_get(jax.jit(lambda source: source.draw(jnp.int32(0)))(session.source))
    targets: dict[Any, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for inputs_S, (target,) in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        targets[tuple(inputs_S)][target] += 1
    total = 0.0
    for counts in targets.values():
        total -= sum(n * math.log(n / counts.total()) for n in counts.values())
    return total / len(batch.targets)


def _host(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)[:, 0]


def _start(session: Session, rates_L: Array, seeds_S: Array) -> Any:
    """Return the runs of a scheme at step 0, rate by rate.

    A seed's parameters are drawn once: some schemes take as long for them as the training.
    """
    mesh = parallel.make_mesh(session.devices, len(seeds_S))
    assert session.source is not None
    source = parallel.place(device_source(session.source), parallel.replicated(mesh))

    def of_device(seeds_S: Array, source: BatchSource) -> Any:
        return jax.vmap(lambda seed: initial_run(session, source, seed, rates_L[0]))(seeds_S)

    draw = jax.jit(parallel.on_each_device(of_device, mesh, ROWS, WHOLE))
    drawn = draw(parallel.place(seeds_S, parallel.split_over(mesh)), source)
    states, hyperparameters = jax.tree.map(lambda x: jnp.concatenate([x] * len(rates_L)), drawn)
    rates_R = jnp.repeat(rates_L, len(seeds_S))
    return initial_ensemble(states), hyperparameters._replace(learning_rate=rates_R)
