"""The parts of a run: text, model, devices, and the functions that the loop calls.

Nothing here writes to disk.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from charjax import backend, hardware, parallel
from charjax.config import Config
from charjax.config.fields import MOST_STEPS
from charjax.data.batches import BatchSource, make_source
from charjax.data.datasets import Dataset, load_dataset
from charjax.data.host_batches import Block, make_host_source
from charjax.data.splits import Split, target_counts
from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError
from charjax.init import check_cover, scheme_for
from charjax.models import build_model
from charjax.models.contract import CharModel
from charjax.models.mixture import Mixture
from charjax.models.roles import Role
from charjax.programs.command import open_store
from charjax.programs.facts import config_facts
from charjax.random_streams import purpose_key
from charjax.training.counts import predicted_by_the_rest, table_shapes, with_tables
from charjax.training.cpu_plan import needs_one_heap
from charjax.training.devices import check_memory, make_run_mesh
from charjax.training.feed import Source, one_batch
from charjax.training.own_checks import check_own
from charjax.training.precision import DType, choose_dtype, with_dtype
from charjax.training.state import (
    InitData,
    Tables,
    TrainState,
    apply_multipliers,
    create_state,
    initial_state,
    remove_multipliers,
)

# Upper limit of a context length that is derived from the longest line.
_LONGEST_CONTEXT = 1024


@dataclasses.dataclass(frozen=True)
class Session:
    """The parts of a run.

    Attributes:
      config: resolved, the context length included.
      dataset: the text's tokens, split.
      model: the module.
      devices: all devices, those of other processes of the run included.
      mesh: the devices in use.
      source: training batches by step, of a text on the device or on the host; None for a fitted
        family.
      val_source: validation batches, for eval.protocol = "random" alone.
    """

    config: Config
    dataset: Dataset
    model: CharModel
    devices: list[jax.Device]
    mesh: Mesh
    source: Source | None
    val_source: Source | None

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every target of the training split occurs once (on average, if random)."""
        if self.source is None:
            return 1.0
        return self.source.steps_per_epoch(self.dataset.splits["train"].num_targets)

    @functools.cached_property
    def table_shapes(self) -> Tables:
        """Shapes of the tables of counts beside a network, for which the text is counted."""
        if not isinstance(self.model, Mixture):
            return {}
        dataset = self.dataset
        return table_shapes(self.model, dataset.splits["train"], dataset.tokenizer)


def open_session(
    config: Config,
    tokenizer: Tokenizer | None = None,
    digest: str | None = None,
    saved_dtype: DType | None = None,
) -> Session:
    """Load the text and build the model, for the devices as they were started.

    They are those of all processes of the run.

    Args:
      config: the configuration.
      tokenizer: the alphabet of another run, for fine-tuning; by default that of the text.
      digest: SHA-256 that the text must have; by default any.
      saved_dtype: that of the run that is resumed.

    Raises:
      UserError: a mistake in the data, or the model does not fit the devices.
    """
    dataset = load_dataset(config.data, tokenizer, digest)
    return make_session(config, dataset, jax.devices(), saved_dtype, notes_slow_dtype=True)


def start_for_training(config: Config, *, several: bool = False) -> list[jax.Device]:
    """Start JAX for a training run, whose batches the cores of a CPU may share.

    Args:
      config: the configuration.
      several: whether the run may have several processes.

    Returns:
      The local devices.

    Raises:
      UserError: the device is not available.
    """
    large_calls = needs_one_heap(config, hardware.cores())
    if (store := open_store()) is not None:
        store.notes["large_calls"] = large_calls
    return backend.start_backend(
        config.runtime, core_devices=True, large_calls=large_calls, several=several
    )


def make_session(
    config: Config,
    dataset: Dataset,
    devices: list[jax.Device],
    saved_dtype: DType | None = None,
    *,
    notes_slow_dtype: bool = False,
) -> Session:
    """Build the model and the batches for a text that has been loaded.

    With runtime.dtype = "auto" the dtype is chosen here, for these devices.

    Args:
      config: the configuration.
      dataset: the text.
      devices: of all processes.
      saved_dtype: that of the run that is resumed.
      notes_slow_dtype: whether bfloat16, where it is given, is measured on a CPU, and noted with
        the text's notes if it is slower.
    """
    if note := _context_note(config, dataset):
        dataset = dataclasses.replace(dataset, notes=(*dataset.notes, note))
    config = with_context(config, dataset)
    model = build_model(config, dataset.tokenizer)
    if not model.fitted:
        _check_scheme(config, model)
    mesh = make_run_mesh(config, devices)
    if config.runtime.dtype == "auto" or notes_slow_dtype:
        dtype, note = choose_dtype(config, model, mesh, _targets(config), saved_dtype)
        config = with_dtype(config, dtype)
        model = build_model(config, dataset.tokenizer)
        notes = dataset.notes if note is None else (*dataset.notes, note)
        dataset = dataclasses.replace(dataset, notes=notes)
    if not model.fitted:
        check_own(config, model)
    if not model.fitted:
        check_memory(config, model, mesh)
    source = val_source = None
    if not model.fitted:
        rows = config.train.batch_size * config.optim.accumulate_steps
        train = dataset.splits["train"]
        log_probs = None
        if isinstance(model, Mixture):
            log_probs = predicted_by_the_rest(config, model, train, dataset.tokenizer)
        source = _source(config, model, mesh, train, rows, config.data.sampling, log_probs)
        if config.eval.protocol == "random" and "val" in dataset.splits:
            rows = parallel.round_up(config.eval.batch_size, mesh)
            val = dataset.splits["val"]
            val_source = _source(config, model, mesh, val, rows, "random")
    session = Session(config, dataset, model, devices, mesh, source, val_source)
    return session if config.train.epochs is None else _with_steps(session, config.train.epochs)


def _targets(config: Config) -> int:
    """Return the targets of a window."""
    return 1 if config.data.layout == "pairs" else config.model.context_length or 1


def _with_steps(session: Session, epochs: float) -> Session:
    """Set train.steps to the steps of so many epochs, rounded up."""
    # Rounded, so that 0.1 x 30 does not come to 4.
    steps = max(1, math.ceil(round(epochs * session.steps_per_epoch, 6)))
    if steps > MOST_STEPS:
        raise UserError(
            f"train.epochs: {epochs:g} given, which comes to {steps:,} steps; at most "
            f"{MOST_STEPS:,} are possible: lower it, or raise train.batch_size"
        )
    return dataclasses.replace(session, config=session.config.with_steps(steps))


def with_context(config: Config, dataset: Dataset) -> Config:
    """Return the configuration with a context length, by default that of the longest line.

    If that is over 4 times the 99th percentile, a few lines would make every step expensive, and
    the percentile is used. Longer lines continue in further windows; they are not cut.
    """
    if config.model.context_length is not None:
        return config
    longest = config.model.model_copy(update={"context_length": _context_of_lines(dataset)})
    return config.model_copy(update={"model": longest})


def _context_of_lines(dataset: Dataset) -> int:
    outlying = dataset.longest_line > 4 * dataset.long_line
    return min(dataset.long_line if outlying else dataset.longest_line, _LONGEST_CONTEXT)


def _context_note(config: Config, dataset: Dataset) -> str | None:
    """Return a note if the default context length is not that of the longest line."""
    length = _context_of_lines(dataset)
    if config.model.context_length is not None or length >= _LONGEST_CONTEXT:
        return None
    if length == dataset.longest_line:
        return None
    return (
        f"the longest line has {dataset.longest_line:,} characters, over 4 times the 99th "
        f"percentile: model.context_length is that percentile, {length:,}, and longer lines are "
        "carried on in further windows"
    )


def _check_scheme(config: Config, model: CharModel) -> None:
    scheme = scheme_for(config)
    if scheme.about or set(Role) - scheme.rules.keys():
        tokens_BT = jnp.zeros((1, model.lookback + 1), jnp.int32)
        shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
        check_cover(scheme, config.init.scheme, shapes, model.roles)


def _source(
    config: Config,
    model: CharModel,
    mesh: Mesh,
    split: Split,
    rows: int,
    sampling: Any,
    log_probs: np.ndarray | None = None,
) -> Source:
    """Return the batches of a split, with what counts of the rest of it predict if it trains."""
    context, layout = config.model.context_length, config.data.layout
    assert context is not None
    assert layout is not None
    pairs = layout == "pairs"
    # Where it trains, what counts predict is given, and they read nothing.
    before = 0 if log_probs is not None else model.window_lookback
    lookback = max(model.lookback, before)
    settings: dict[str, Any] = {
        "layout": layout,
        "sampling": sampling,
        "window": 1 if pairs else context,
        "lookback": max(context - 1, model.lookback) if pairs else lookback,
        "batch_size": rows,
        "seed": config.train.seed,
    }
    if log_probs is None and split.tokens.nbytes > config.data.device_bytes:
        return make_host_source(split, **settings)
    return parallel.place(make_source(split, log_probs, **settings), parallel.replicated(mesh))


def first_state(session: Session, params: Any = None) -> TrainState:
    """Return the state at step 0 on the mesh; `params` replace parameters of the model."""
    key = purpose_key(session.config.train.seed, "init")
    is_divided = parallel.fsdp_size(session.mesh) > 1

    def draw(key: Array, source: BatchSource | Block | None) -> TrainState:
        state = seed_state(session, key, source)
        # The parameters may just fit the device that draws them: moments are made in their place.
        return state._replace(opt_state=(), carry=(), average=()) if is_divided else state

    # On one device: all of them would draw the same numbers.
    state = _drawn(session, draw, (key, parallel.first_copy(first_source(session))))
    if params is not None:
        # The function of another run, in this run's parametrisation; what that has not, as drawn.
        drawn = apply_multipliers(state.params, state.scales)
        state = state._replace(params=remove_multipliers({**drawn, **params}, state.scales))
    if is_divided or params is not None:
        # Some optimizers keep parameters in their state.
        state = _complete(session, state)
    if isinstance(session.model, Mixture):
        dataset = session.dataset
        state = with_tables(state, session.model, dataset.splits["train"], dataset.tokenizer)
    return place(session, state)


def _drawn(session: Session, draw: Callable[..., TrainState], arguments: Any) -> TrainState:
    """Return the drawn state, by a program that an earlier start of the command may have stored."""
    config, program = session.config, jax.jit(draw)
    store, settings = open_store(), config_facts(config)
    # A scheme that reads the text has counts of it as constants.
    if store is None or settings is None or scheme_for(config).reads_data:
        return program(*arguments)
    names = "state", settings, str(session.model.vocab_size), str(session.mesh.shape)
    mesh = parallel.make_mesh(list(session.mesh.local_devices[:1]), 1)
    drawn: TrainState = store.get(
        names, arguments, mesh, lambda: program.lower(*arguments), jax.stages.Lowered.compile
    )(*arguments)
    return drawn


def first_source(session: Session, step: int = 0) -> BatchSource | Block | None:
    """Return what draws the batch of one step, whole on every device; None for a fitted family."""
    return None if session.source is None else one_batch(session.source, step, session.mesh)


def _complete(session: Session, state: TrainState) -> TrainState:
    """Return the state at step 0 with these parameters, each part made on the mesh."""

    def complete(params: Any, model_state: Any, scales: Any, adam_scales: Any) -> TrainState:
        parts = model_state, scales, adam_scales
        return initial_state(session.model, session.config, params, *parts)

    parts = state.params, state.model_state, state.scales, state.adam_scales
    if parallel.fsdp_size(session.mesh) == 1:
        return complete(*parts)
    shardings = state_shardings(session, jax.eval_shape(complete, *parts))
    where = shardings.params, shardings.model_state, shardings.scales, shardings.adam_scales
    made: TrainState = jax.jit(complete, out_shardings=shardings)(*parallel.place(parts, where))
    return made


def seed_state(
    session: Session, key: Array, source: BatchSource | Block | None, *, with_scales: bool = False
) -> TrainState:
    """Return the state at step 0 of a run with this "init" key and these batches; for use in jit.

    `with_scales` is that of `create_state`.
    """
    config, model, dataset = session.config, session.model, session.dataset
    data = None
    if scheme_for(config).reads_data:
        assert source is not None
        train, size = dataset.splits["train"], dataset.tokenizer.vocab_size
        # One added to each count, so that unseen symbols have a finite logarithm.
        counts_V = jnp.asarray(target_counts(train, size) + 1, jnp.float32)
        batch = source.draw(jnp.int32(0))
        log_V = jnp.log(counts_V / jnp.sum(counts_V))
        data = InitData(log_V, batch.inputs, batch.targets.shape[1])
    return create_state(model, config, key, data, with_scales=with_scales)


def place(session: Session, state: TrainState) -> TrainState:
    """Place a state on the mesh: whole on every device, the carry divided like the batch."""
    shardings = state_shardings(session, state)
    return parallel.place(state, shardings)


def state_shardings(session: Session, state: TrainState) -> TrainState:
    """Return the sharding of each part of a state.

    Parameters, their average and the optimizer's moments are divided where the mesh has an axis for
    that; the carry is divided like the batch.
    """
    whole, split = parallel.replicated(session.mesh), parallel.split_over(session.mesh)
    everywhere = jax.tree.map(lambda _: whole, state)
    return everywhere._replace(
        params=parallel.divided(state.params, session.mesh),
        opt_state=parallel.divided(state.opt_state, session.mesh),
        average=parallel.divided(state.average, session.mesh),
        carry=jax.tree.map(lambda _: split, state.carry),
    )
