"""The runs of the study of schemes under Muon: all rates and seeds of a scheme in one program.

Schemes of one network differ in the parameters that they draw alone: none of them has factors of
learning rates or multipliers, so that one program per optimiser trains them all. The parameters
are drawn once, and each optimiser starts from them.

Letters: L learning rates, S seeds, R = L S runs, rate by rate.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from charjax.config import load_config
from charjax.initlab.studies.muon_settings import Network, Settings, rates_of, words_of
from charjax.initlab.studies.pieces import Arrays
from charjax.reproduction.checks import Poll
from charjax.training.ensemble import (
    Ensemble,
    EnsembleState,
    EnsembleTraining,
    RunHyperparameters,
    initial_ensemble,
    initial_run,
)
from charjax.training.feed import device_source
from charjax.training.session import Session, open_session
from charjax.training.state import initial_state


class SchemeTraining:
    """The runs of one network, under every optimiser and from every scheme.

    Nothing is drawn or compiled before a run needs it.
    """

    def __init__(self, settings: Settings, network: Network):
        """Begin with nothing compiled."""
        self.settings, self.network = settings, network
        self._drawn: dict[str, Any] = {}
        self._programs: dict[str, Ensemble] = {}
        self._starts: dict[str, Any] = {}

    @functools.cached_property
    def _session(self) -> Session:
        return open_session(self._config("AdamW", self.network.schemes[0]))

    @property
    def vocabulary(self) -> int:
        """Number of symbols."""
        return self._session.dataset.tokenizer.vocab_size

    def train(self, optimiser: str, scheme: str, poll: Poll) -> Arrays:
        """Train every rate with every seed.

        Args:
          optimiser: one of `OPTIMISERS`.
          scheme: one of the network's.
          poll: called between calls of the program, each of about half a second.

        Returns:
          losses (L, S): the mean over the targets of the last tenth of the steps, in nats; not
          finite where a run diverged.
        """
        state, hyperparameters = self._start(optimiser, scheme)
        if optimiser not in self._programs:
            session = self._session_of(optimiser, scheme)
            count = len(hyperparameters.learning_rate)
            self._programs[optimiser] = Ensemble(session, count, (state, hyperparameters))
        ensemble = self._programs[optimiser]
        poll()
        placed = ensemble.place((state, hyperparameters))
        training = EnsembleTraining(ensemble, *placed, poll=poll)
        steps = self.network.steps
        training.advance(steps - max(1, steps // 10))
        training.pop_sums()
        training.advance(steps)
        losses_R, targets_R = training.pop_sums()
        is_whole_R = (np.asarray(training.state.diverged) < 0) & (targets_R > 0)
        mean_R = np.where(is_whole_R, losses_R / np.maximum(targets_R, 1.0), np.inf)
        return {"losses": mean_R.reshape(-1, self.settings.seeds)}

    def _start(self, optimiser: str, scheme: str) -> tuple[EnsembleState, RunHyperparameters]:
        """Return the runs (R,) of a scheme at step 0."""
        rates_L = rates_of(self.network, optimiser)
        params_S, batch_key_S, dropout_key_S = self._draw(scheme)
        if optimiser not in self._starts:
            session = self._session_of(optimiser, scheme)
            one = functools.partial(initial_state, session.model, session.config, model_state={})
            self._starts[optimiser] = jax.jit(jax.vmap(one))
        place_R = np.tile(np.arange(self.settings.seeds), len(rates_L))
        params_R, batch_key_R, dropout_key_R = jax.tree.map(
            lambda leaf_S: leaf_S[place_R], (params_S, batch_key_S, dropout_key_S)
        )
        rate_R = jnp.asarray(np.repeat(rates_L, self.settings.seeds), jnp.float32)
        adam_rate_R = jnp.float32(self.settings.adam_ratio) * rate_R
        hyperparameters = RunHyperparameters(
            batch_key_R,
            dropout_key_R,
            rate_R,
            jnp.full(rate_R.shape, jnp.inf, jnp.float32),
            {"optim.adam_learning_rate": adam_rate_R} if optimiser == "Muon" else (),
        )
        return initial_ensemble(self._starts[optimiser](params_R)), hyperparameters

    def _draw(self, scheme: str) -> Any:
        """Return parameters, keys of the batches and of dropout of every seed, (S,) each."""
        if scheme not in self._drawn:
            session = self._session_of("AdamW", scheme)
            source = device_source(session.source)

            def one(seed: jax.Array) -> Any:
                state, hyperparameters = initial_run(session, source, seed, jnp.float32(0.0))
                return state.params, hyperparameters.batch_key, hyperparameters.dropout_key

            seeds_S = jnp.arange(self.settings.seeds, dtype=jnp.uint32)
            self._drawn[scheme] = jax.jit(jax.vmap(one))(seeds_S)
        return self._drawn[scheme]

    def _session_of(self, optimiser: str, scheme: str) -> Session:
        return dataclasses.replace(self._session, config=self._config(optimiser, scheme))

    def _config(self, optimiser: str, scheme: str) -> Any:
        return load_config(None, words_of(self.settings, self.network, optimiser, scheme))
