"""Everything that a step reads and writes, and so everything that a checkpoint holds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from charjax.config import Config
from charjax.init import find_scheme, initialise
from charjax.models.contract import CharModel
from charjax.training.optimizer import make_optimizer


class Counters(NamedTuple):
    """Steps taken, steps skipped because they were not finite, and how many of those in a row."""

    step: Array
    skipped: Array
    skipped_in_a_row: Array


class TrainState(NamedTuple):
    """The state of a run.

    Attributes:
      params: the parameters, float32.
      opt_state: the optimiser's moments and count.
      model_state: other collections of the model, such as batch norm's running statistics.
      carry: the recurrent state carried from batch to batch, or ().
      counters: int32 scalars.
    """

    params: Any
    opt_state: Any
    model_state: Any
    carry: Any
    counters: Counters


def zero_counters() -> Counters:
    """The counters of a run that has not begun."""
    return Counters(*(jnp.zeros((), jnp.int32) for _ in Counters._fields))


def create_state(model: CharModel, config: Config, key: Array) -> TrainState:
    """The state at step 0: parameters by the config's scheme, everything else at zero.

    Also used under `jax.eval_shape`, for the shapes alone.
    """
    tokens_BT = jnp.zeros((1, model.lookback + 1), jnp.int32)
    variables = jax.eval_shape(model.init, key, tokens_BT)
    shapes = variables["params"]
    depth = getattr(model, "n_layer", 0)
    params = initialise(find_scheme(config.init), shapes, model.roles, key, depth)
    # Only batch norm has further collections: its running mean is zero and its variance one.
    others = {name: tree for name, tree in variables.items() if name != "params"}
    model_state = jax.tree_util.tree_map_with_path(_statistic, others)
    return begin_state(model, config, params, model_state)


def begin_state(model: CharModel, config: Config, params: Any, model_state: Any) -> TrainState:
    """The state at step 0 from parameters and the model's other collections."""
    carry: Any = ()
    if config.data.sampling == "contiguous" and model.memory == "carried":
        carry = model.init_cache(config.train.batch_size * config.optim.accumulate_steps)
    opt_state = make_optimizer(config.optim).init(params)
    return TrainState(params, opt_state, model_state, carry, zero_counters())


def _statistic(path: tuple[Any, ...], shape: Any) -> Array:
    fill = jnp.ones if "var" in jax.tree_util.keystr(path) else jnp.zeros
    return fill(shape.shape, shape.dtype)
