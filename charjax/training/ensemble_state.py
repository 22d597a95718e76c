"""The state of several runs that are trained as one program, and the data in which they differ.

Letters: R runs.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from charjax.config import Config
from charjax.training.state import TrainState


class RunHyperparameters(NamedTuple):
    """Data that differ from run to run beside the state; (R,) each.

    Attributes:
      batch_key: typed key of the batches.
      dropout_key: typed key of dropout.
      learning_rate: float32.
      max_loss: float32; a step with a larger loss counts as not finite.
      settings: float32, further numbers by `section.key`; () for none.
    """

    batch_key: Array
    dropout_key: Array
    learning_rate: Array
    max_loss: Array
    settings: dict[str, Array] | tuple[()] = ()


class EnsembleState(NamedTuple):
    """The states of R runs, stacked.

    Attributes:
      states: with a leading axis R.
      diverged: (R,) int32, the step at which a run diverged and was stopped, or -1.
      losses: (R,) float32, sum of the losses of all targets since the sums were last emptied.
      targets: (R,) float32, the number of those targets.
    """

    states: TrainState
    diverged: Array
    losses: Array
    targets: Array

    def emptied(self) -> "EnsembleState":
        """Return the state with the sums at 0."""
        return self._replace(
            losses=jnp.zeros_like(self.losses), targets=jnp.zeros_like(self.targets)
        )


def with_hyperparameters(config: Config, hyperparameters: RunHyperparameters) -> Config:
    """Return the config with a run's traced numbers; for use in the program that traces them."""
    traced = {"optim.learning_rate": hyperparameters.learning_rate}
    traced |= dict(hyperparameters.settings)
    for name, value in traced.items():
        section, _, key = name.partition(".")
        changed = getattr(config, section).model_copy(update={key: value})
        config = config.model_copy(update={section: changed})
    return config
