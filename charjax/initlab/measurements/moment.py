"""A run at a step of its training, as every measurement reads it.

Letters: N parameters.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from charjax.config import Config
from charjax.data.batches import Batch
from charjax.models.contract import CharModel
from charjax.training.state import Scales, TrainState, apply_multipliers, variables_of
from charjax.training.step import cross_entropy, make_train_step


@dataclasses.dataclass(frozen=True)
class Moment:
    """One run at a step; nothing of it is changed.

    Dropout is left out of all measurements, and so is a carried recurrent state.

    Attributes:
      model: of the run, without dropout and in float32.
      trained_model: as it is trained.
      config: of the run; its numbers may be traced.
      initial: the state at step 0.
      state: the state at the step.
      first: the batch of the first step.
      batch: the batch of the next step.
      key: of the next step's dropout.
    """

    model: CharModel
    trained_model: CharModel
    config: Config
    initial: TrainState
    state: TrainState
    first: Batch
    batch: Batch
    key: Array

    @functools.cached_property
    def after(self) -> TrainState:
        """The state after the next step."""
        return make_train_step(self.trained_model, self.config)(self.state, self.batch, self.key)[0]


def step_sizes(state: TrainState) -> Any:
    """Return the factors that make plain gradient descent's parameters of the state's, a pytree.

    With a multiplier m and a learning-rate factor f, gradient descent moves the multiplied
    parameters as it would move those over m sqrt(f) without them.
    """
    if not isinstance(state.scales, Scales):
        return jax.tree.map(lambda _: jnp.float32(1.0), state.params)
    rates, multipliers = state.scales
    return jax.tree.map(lambda f, m: m * jnp.sqrt(f), rates, multipliers)


def moved(state: TrainState, sizes: Any, moves: Any) -> dict[str, Any]:
    """Return the variables of a model at the state's parameters plus `sizes` times `moves`."""
    variables = variables_of(state)
    params = jax.tree.map(lambda p, size, move: p + size * move, variables["params"], sizes, moves)
    return {**variables, "params": params}


def batch_loss(model: CharModel, variables: Any, batch: Batch, *, train: bool = True) -> Array:
    """Return a batch's mean loss in nats per target; batch norm has its statistics in training."""
    others = [name for name in variables if name != "params"]
    (logits_BTV, _), _ = model.apply(
        variables, batch.inputs, num_outputs=batch.targets.shape[1], train=train, mutable=others
    )
    losses_BT = cross_entropy(logits_BTV, batch.targets) * batch.weights
    return jnp.sum(losses_BT) / jnp.maximum(jnp.sum(batch.weights), 1.0)


def multiplied(state: TrainState, params: Any) -> dict[str, Any]:
    """Return the variables of a model with other trained parameters."""
    return {"params": apply_multipliers(params, state.scales), **state.model_state}
