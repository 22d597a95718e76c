"""The state of a training run: all that a step reads and writes, and a checkpoint holds."""

import re
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from charjax.config import Config
from charjax.init import find_adam_factors, find_factors, initialise, scheme_for
from charjax.models.contract import CharModel
from charjax.models.mixture import COUNTS
from charjax.programs.command import open_store
from charjax.programs.facts import config_facts
from charjax.training.optimizer import make_optimizer
from charjax.training.optimizers.schedule_free import averaged_by

# Parameters as they are trained, or their average where one is kept.
Weights = Literal["averaged", "trained"]


class Counters(NamedTuple):
    """Numbers of steps; int32 scalars.

    Attributes:
      step: steps done, the skipped ones included.
      skipped: steps that were not finite and so changed nothing.
      skipped_in_a_row: how many of those came last.
    """

    step: Array
    skipped: Array
    skipped_in_a_row: Array

    def after(self, finite: Array) -> "Counters":
        """Return the counters after one more step, skipped if it was not finite."""
        skipped = 1 - finite.astype(jnp.int32)
        in_a_row = (self.skipped_in_a_row + 1) * skipped
        return Counters(self.step + 1, self.skipped + skipped, in_a_row)


class Scales(NamedTuple):
    """A scheme's factors of parameters and of learning rates; two pytrees of float32 scalars."""

    learning_rates: Any
    multipliers: Any


class AdamScales(NamedTuple):
    """A scheme's factors of AdamW's epsilon and of the decay; pytrees of float32 scalars."""

    epsilons: Any
    decays: Any


# Leaves that are 1 where a saved state lacks them: the run was saved by an earlier version.
ADAM_SCALES = re.compile(r"(.*/)?adam_scales/.*")


class InitData(NamedTuple):
    """Data of the training text that a scheme may use.

    Attributes:
      log_unigram_V: log frequencies of the targets.
      inputs_BS: inputs of the run's first batch.
      num_outputs: targets per row of that batch.
    """

    log_unigram_V: Array
    inputs_BS: Array
    num_outputs: int


class TrainState(NamedTuple):
    """The state of a run.

    Attributes:
      params: the parameters, float32.
      opt_state: the optimizer's moments and count.
      model_state: other collections of the model, such as batch norm's running statistics.
      carry: the recurrent state carried from batch to batch, or ().
      counters: int32 scalars.
      scales: the scheme's factors, or () if all are 1. They are part of the state, not of the
        program: one program trains several schemes, and a checkpoint does not depend on later
        changes of a scheme.
      adam_scales: likewise the factors of AdamW's epsilon and of the decay.
      average: a moving average of the parameters (optim.ema), or ().
      tables: of the counts beside a network (model.counts), which no step changes, or ().
    """

    params: Any
    opt_state: Any
    model_state: Any
    carry: Any
    counters: Counters
    scales: Scales | tuple[()] = ()
    adam_scales: AdamScales | tuple[()] = ()
    average: Any = ()
    tables: Any = ()


def variables_of(state: TrainState, weights: Weights = "trained") -> dict[str, Any]:
    """Return the variables of `model.apply`: multiplied parameters, and other collections.

    Args:
      state: of one run.
      weights: "averaged": what a run is evaluated and sampled at, the moving average of optim.ema
        or schedule-free AdamW's; the trained parameters where neither is kept.
    """
    params = state.params
    if weights == "averaged" and (average := average_of(state)) is not None:
        params = average
    variables = {"params": apply_multipliers(params, state.scales), **state.model_state}
    return variables | {COUNTS: state.tables} if state.tables != () else variables


def average_of(state: TrainState) -> Any | None:
    """Return the averaged parameters of a state, without multipliers; None if it has none."""
    if state.average != ():
        return state.average
    return averaged_by(state.opt_state, state.params)


def apply_multipliers(params: Any, scales: Scales | tuple[()]) -> Any:
    """Multiply parameters by their multipliers, as the model reads them; also of stacked states."""
    if not isinstance(scales, Scales):
        return params
    return jax.tree.map(lambda p, m: p * _aligned(m, p), params, scales.multipliers)


def remove_multipliers(params: Any, scales: Scales | tuple[()]) -> Any:
    """Divide parameters by their multipliers: the inverse of `apply_multipliers`."""
    if not isinstance(scales, Scales):
        return params
    return jax.tree.map(lambda p, m: p / _aligned(m, p), params, scales.multipliers)


def optimizer_factors(state: TrainState) -> dict[str, Any]:
    """Return the scheme's factors as keyword arguments of the optimizer's update."""
    factors = {}
    if isinstance(state.scales, Scales):
        factors["rate_factors"] = state.scales.learning_rates
    if isinstance(state.adam_scales, AdamScales):
        factors["epsilon_factors"], factors["decay_factors"] = state.adam_scales
    return factors


def scales_of(model: CharModel, config: Config, shapes: Any) -> Scales | tuple[()]:
    """Return the config's scheme's factors for parameters of these shapes; () if all are 1."""
    scheme = scheme_for(config)
    if not scheme.scaled:
        return ()
    return Scales(*find_factors(scheme, shapes, model.roles, getattr(model, "n_layer", 0)))


def adam_scales_of(model: CharModel, config: Config, shapes: Any) -> AdamScales | tuple[()]:
    """Return the scheme's factors of AdamW's epsilon and the decay; () if all are 1."""
    scheme = scheme_for(config)
    if not scheme.scales_adam:
        return ()
    depth = getattr(model, "n_layer", 0)
    return AdamScales(*find_adam_factors(scheme, shapes, model.roles, depth))


def _aligned(factor: Array, parameter: Array) -> Array:
    """Reshape a factor, a scalar or one per stacked state, to broadcast over the parameter."""
    return factor.reshape(factor.shape + (1,) * (parameter.ndim - factor.ndim))


def zero_counters() -> Counters:
    """Return the counters at step 0."""
    return Counters(*(jnp.zeros((), jnp.int32) for _ in Counters._fields))


def create_state(
    model: CharModel,
    config: Config,
    key: Array,
    data: InitData | None = None,
    *,
    with_scales: bool = False,
) -> TrainState:
    """Return the state at step 0: parameters by the config's scheme, everything else at zero.

    Also used under `jax.eval_shape`, for the shapes alone.

    Args:
      model: the model.
      config: the configuration.
      key: typed key of this run's draw.
      data: of the text; needed by schemes that read it.
      with_scales: include the factors even if all are 1, so that the states of all schemes have
        one structure and can be stacked.

    Raises:
      UserError: the scheme does not suit the config or the model.
    """
    tokens_BT = jnp.zeros((1, model.lookback + 1), jnp.int32)
    variables = jax.eval_shape(model.init, key, tokens_BT)
    shapes = variables["params"]
    depth = getattr(model, "n_layer", 0)
    scheme = scheme_for(config)
    frequencies = data.log_unigram_V if data else None
    drawn = initialise(scheme, shapes, model.roles, key, depth, frequencies)
    # Only batch norm has further collections: its running mean is zero and its variance one.
    others = {name: tree for name, tree in variables.items() if name != "params"}
    model_state = jax.tree_util.tree_map_with_path(_statistic, others)
    params = drawn.params
    if scheme.adjust is not None:
        if data is None:
            raise ValueError(f"{config.init.scheme} needs a batch; none given")
        variables = {"params": params, **model_state}
        params = scheme.adjust(model, variables, data.inputs_BS, data.num_outputs)
    scales: Scales | tuple[()] = ()
    adam_scales: AdamScales | tuple[()] = ()
    if scheme.scaled or with_scales:
        scales = Scales(drawn.learning_rates, drawn.multipliers)
    if scheme.scales_adam or with_scales:
        adam_scales = AdamScales(*find_adam_factors(scheme, shapes, model.roles, depth))
    return initial_state(model, config, params, model_state, scales, adam_scales)


def initial_state(
    model: CharModel,
    config: Config,
    params: Any,
    model_state: Any,
    scales: Scales | tuple[()] = (),
    adam_scales: AdamScales | tuple[()] = (),
) -> TrainState:
    """Return the state at step 0 with these parameters, other collections and factors."""
    carry: Any = ()
    if config.data.sampling == "contiguous" and model.memory == "carried":
        carry = model.init_cache(config.train.batch_size * config.optim.accumulate_steps)
    opt_state = make_optimizer(config.optim, model.roles).init(params)
    # Distinct arrays, so that they can be donated.
    average = jax.tree.map(jnp.copy, params) if config.optim.keeps_ema else ()
    return TrainState(
        params, opt_state, model_state, carry, zero_counters(), scales, adam_scales, average
    )


def _statistic(path: tuple[Any, ...], shape: Any) -> Array:
    fill = jnp.ones if "var" in jax.tree_util.keystr(path) else jnp.zeros
    return fill(shape.shape, shape.dtype)


Tables = dict[str, jax.ShapeDtypeStruct]


def state_shapes(model: CharModel, config: Config, tables: Tables | None = None) -> Any:
    """Return the shapes and dtypes of a run's state.

    The tables of counts depend on their text, so their shapes come from the notes of the
    checkpoint; without them, those of a mixture are left out.
    """
    if model.fitted:
        return fitted_state(tables or {})

    def create(key: Array) -> TrainState:
        placeholder = InitData(
            jnp.zeros(model.vocab_size), jnp.zeros((1, model.lookback + 1), jnp.int32), 1
        )
        return create_state(model, config, key, placeholder)

    def trace() -> Any:
        return jax.eval_shape(create, jax.random.key(0))

    store, settings = open_store(), config_facts(config)
    if store is None or settings is None:
        shapes = trace()
    else:
        shapes = store.shapes((settings, str(model.vocab_size)), trace)
    return shapes._replace(tables=tables) if tables else shapes


def fitted_state(params: dict[str, Any]) -> TrainState:
    """Return the state of a family that is fitted in one step."""
    counters = zero_counters()._replace(step=jnp.ones((), jnp.int32))
    return TrainState(params, (), {}, (), counters)


def model_bytes(variables: dict[str, Any]) -> dict[str, int]:
    """Return the bytes of all that a model predicts from, by kind.

    Args:
      variables: of `model.apply`.

    Returns:
      "weights": parameters, and statistics of a batch norm; "tables": of the counts beside a
      network, where it has them.
    """
    tables = {"tables": variables[COUNTS]} if COUNTS in variables else {}
    weights = {name: tree for name, tree in variables.items() if name != COUNTS}
    parts = {"weights": weights, **tables}
    return {
        name: sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for name, tree in parts.items()
    }


def parameter_count(params: Any) -> int:
    """Return the number of elements in a pytree of parameters, or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
