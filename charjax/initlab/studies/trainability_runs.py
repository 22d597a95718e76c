"""Networks of the trainability map: their text, their first weights, and their training.

A network's weights are drawn by the scheme `critical` with σ_w = 1, and `init.gain` multiplies the
hidden kernels by σ_w, as in a sweep over gains; so runs of one program differ in it. Every network
has a seed of its own. The model is `tower.Tower`, whose values and gradients are those of the
library's MLP; the step, the optimiser and the scheme are the library's own.

Letters: R runs of a program, W weight variances, D depths.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from charjax.config import Config, load_config
from charjax.data.batches import BatchSource
from charjax.data.datasets import Dataset, load_dataset
from charjax.initlab.studies.tower import Tower
from charjax.initlab.studies.trainability_settings import Grid, Settings
from charjax.reproduction.checks import Poll, Progress
from charjax.training.ensemble import (
    Ensemble,
    EnsembleState,
    EnsembleTraining,
    RunHyperparameters,
    initial_ensemble,
    initial_run,
)
from charjax.training.feed import device_source
from charjax.training.session import Session, make_session
from charjax.training.state import TrainState


def first_lines(settings: Settings) -> Dataset:
    """Return the first lines of the names as the whole training text."""
    dataset = load_dataset(_config(settings, "tanh", 1).data)
    whole, lines = dataset.splits["train"], slice(settings.lines)
    few = dataclasses.replace(
        whole, doc_starts=whole.doc_starts[lines], doc_lengths=whole.doc_lengths[lines]
    )
    return dataclasses.replace(dataset, splits={"train": few})


class Networks:
    """The compiled program of networks of one activation and up to so many layers."""

    def __init__(self, settings: Settings, activation: str, most: int, dataset: Dataset):
        """Compile for `settings.together` runs at once.

        Args:
          settings: of the study.
          activation: "tanh" or "relu".
          most: the most hidden layers, at least 2.
          dataset: of `first_lines`.
        """
        self.settings = settings
        batch = dataset.splits["train"].num_targets
        session = make_session(_config(settings, activation, batch), dataset, jax.devices())
        mlp = session.model
        tower = Tower(
            vocab_size=mlp.vocab_size,
            dtype=mlp.dtype,
            context_length=settings.context,
            d_embed=settings.embed,
            width=settings.width,
            most=most,
            activation=activation,
        )
        self.session = dataclasses.replace(session, model=tower)
        self._start = jax.jit(functools.partial(_start, self.session))
        count = settings.together
        blank = jnp.zeros(count, jnp.uint32), jnp.zeros(count), jnp.zeros(count, jnp.int32)
        shapes = jax.eval_shape(self._start, device_source(session.source), *blank)
        self.ensemble = Ensemble(self.session, count, shapes)

    def start(
        self, seeds: NDArray[np.uint32], variances: NDArray[np.float64], depths: NDArray[np.int64]
    ) -> tuple[EnsembleState, RunHyperparameters]:
        """Return runs (R,) at step 0, by their seed, σ_w² and number of hidden layers."""
        gains_R = jnp.asarray(np.sqrt(variances), jnp.float32)
        depths_R = jnp.asarray(depths, jnp.int32)
        source, seeds_R = self.ensemble.source, jnp.asarray(seeds)
        return self.ensemble.place(self._start(source, seeds_R, gains_R, depths_R))

    def losses(
        self,
        seeds: NDArray[np.uint32],
        variances: NDArray[np.float64],
        depths: NDArray[np.int64],
        progress: Progress,
        poll: Poll,
    ) -> NDArray[np.float64]:
        """Train networks; return the loss of the last step of each; NaN where it diverged.

        Arguments, (cells,) each, are those of `start`; progress counts cells.
        """
        cells, count = len(seeds), self.ensemble.count
        losses = np.empty(cells)
        for first in range(0, cells, count):
            # The last group is filled up with networks from the beginning.
            place = np.arange(first, first + count) % cells
            state = self.start(seeds[place], variances[place], depths[place])
            training = EnsembleTraining(self.ensemble, *state, poll=poll)
            training.advance(self.settings.steps - 1)
            training.pop_sums()
            training.advance(self.settings.steps)
            poll()
            losses_R, targets_R = training.pop_sums()
            is_whole_R = (np.asarray(training.state.diverged) < 0) & (targets_R > 0)
            loss_R = np.where(is_whole_R, losses_R / np.maximum(targets_R, 1.0), np.nan)
            fresh = min(count, cells - first)
            losses[first : first + fresh] = loss_R[:fresh]
            progress(first + fresh, cells)
        return losses


def train_depths(
    settings: Settings,
    grid: Grid,
    depths: Sequence[int],
    dataset: Dataset,
    progress: Progress,
    poll: Poll,
) -> NDArray[np.float64]:
    """Return the losses (D, W) of networks of these depths, ascending, at every σ_w² of a grid."""
    networks = Networks(settings, grid.activation, max(2, depths[-1]), dataset)
    variances, deep = np.meshgrid(grid.variances(), np.asarray(depths))
    columns = np.broadcast_to(np.arange(grid.columns), deep.shape)
    # A seed for each cell of all maps.
    seeds = grid.first_seed + deep * grid.columns + columns
    flat = (seeds.ravel().astype(np.uint32), variances.ravel(), deep.ravel())
    return networks.losses(*flat, progress, poll).reshape(deep.shape)


def _config(settings: Settings, activation: str, batch: int) -> Config:
    words = (
        "data.name=names",
        "data.split=tail",
        "data.layout=pairs",
        # An epoch is one batch: the gradient is that of all examples.
        "data.sampling=epoch",
        "model.kind=mlp",
        f"model.context_length={settings.context}",
        f"model.d_embed={settings.embed}",
        f"model.hidden=[{settings.width}]",
        f"model.activation={activation}",
        "init.scheme=critical",
        "init.sigma_w=1.0",
        "init.gain=1.0",
        f"init.sigma_b={settings.bias_variance**0.5!r}",
        "optim.kind=sgd",
        "optim.momentum=0.0",
        "optim.grad_clip=0.0",
        f"optim.learning_rate={settings.rate!r}",
        f"train.batch_size={batch}",
        f"train.steps={settings.steps}",
        # A run has diverged at its first step that is not finite.
        "train.max_skipped=1",
    )
    return load_config(None, list(words))


def _start(
    session: Session, source: BatchSource, seeds_R: Array, gains_R: Array, depths_R: Array
) -> tuple[EnsembleState, RunHyperparameters]:
    rate = jnp.float32(session.config.optim.learning_rate)

    def one(seed: Array, gain: Array, depth: Array) -> tuple[TrainState, RunHyperparameters]:
        init = session.config.init.model_copy(update={"gain": gain})
        config = session.config.model_copy(update={"init": init})
        of_gain = dataclasses.replace(session, config=config)
        state, hyperparameters = initial_run(of_gain, source, seed, rate)
        return state._replace(model_state={"tower": {"depth": depth}}), hyperparameters

    states, hyperparameters = jax.vmap(one)(seeds_R, gains_R, depths_R)
    return initial_ensemble(states), hyperparameters
