"""Runs of a one-hidden-layer MLP trained by the compiled kernel of `charjax-kernels`.

The kernel takes up to STEPS steps of a run at once, its parameters and moments in the core's
second-level cache; batches and learning rates are drawn before, as for every other run.

Letters: S steps, B rows of a batch, C context, E width of an embedding, H hidden units,
N parameters, P parameters' arrays.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from charjax.config import Config
from charjax.data.batches import BatchSource
from charjax.models.contract import CharModel
from charjax.ops.kernels import find_kernels
from charjax.training.ensemble_state import (
    EnsembleState,
    RunHyperparameters,
    with_hyperparameters,
)
from charjax.training.optimizer import make_schedule
from charjax.training.state import Counters, TrainState

# Steps of a call: more batches than these leave the cache before they are read.
STEPS = 32
# Hidden units up to which a run's state fits into a core's cache (measured: benchmarks/NOTES.md).
_MOST_HIDDEN = 512
# Settings that the kernel takes as data of each run, by optimiser.
_TRACED = {"adamw": {"optim.weight_decay", "optim.eps"}, "sgd": set[str]()}

RunLoop = Callable[[EnsembleState, BatchSource, RunHyperparameters, Array], EnsembleState]


def is_covered(model: CharModel, config: Config, traced: Collection[str] = ()) -> bool:
    """Return true if the kernel trains such runs; the others take the vmapped step.

    Args:
      model: the network.
      config: of the runs.
      traced: the settings in which the runs differ.
    """
    sizes, optim, train = model.single_layer_sizes, config.optim, config.train
    if sizes is None or sizes[2] > _MOST_HIDDEN or config.data.layout != "pairs":
        return False
    # "auto" is chosen only when the session starts, and a plan records its kernels before that.
    if config.runtime.dtype != "float32":
        return False
    if optim.kind not in _TRACED or not set(traced) <= _TRACED[optim.kind]:
        return False
    is_adamw = optim.kind == "adamw" and not optim.cautious_decay
    is_sgd = optim.kind == "sgd" and not optim.momentum and not optim.weight_decay
    changes_gradients = optim.l2 or optim.clip_value or optim.accumulate_steps != 1
    changes_losses = train.label_smoothing or train.z_loss
    return (is_adamw or is_sgd) and not (changes_gradients or changes_losses or optim.keeps_ema)


def make_run_loop(model: CharModel, config: Config, traced: Collection[str] = ()) -> RunLoop | None:
    """Return the loop over the steps of one run, to be vmapped; None where there is no kernel.

    Its arguments are a run, the source of batches, the run's hyperparameters and the number of
    steps; but for the last, and the source, they may have an axis of runs.
    """
    package = find_kernels()
    if package is None or model.single_layer_sizes is None:
        return None
    if not is_covered(model, config, traced):
        return None
    _, E, H = model.single_layer_sizes
    attributes = {
        "vocabulary": np.int64(model.vocab_size),
        "embedding": np.int64(E),
        "hidden": np.int64(H),
        "max_skipped": np.int64(config.train.max_skipped),
    }

    def run_steps(
        run: EnsembleState,
        source: BatchSource,
        hyperparameters: RunHyperparameters,
        steps: Array,
    ) -> EnsembleState:
        run_source = dataclasses.replace(source, key=hyperparameters.batch_key)
        run_config = with_hyperparameters(config, hyperparameters)
        schedule = make_schedule(run_config.optim)
        constants = (
            _factors(run.states),
            _numbers(run_config, hyperparameters.max_loss),
        )
        packed = _pack(run)
        shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in packed)
        kernel = jax.ffi.ffi_call(package.TRAIN_MLP, shapes, vmap_method="broadcast_all")

        def body(loop: tuple[Array, Any]) -> tuple[Array, Any]:
            done, packed = loop
            count = jnp.minimum(steps - done, STEPS)
            step_S = run.states.counters.step + done + jnp.arange(STEPS, dtype=jnp.int32)
            batch = jax.vmap(run_source.draw)(step_S)
            rates_S = jax.vmap(schedule)(step_S)
            targets_SB, weights_SB = batch.targets[..., 0], batch.weights[..., 0]
            drawn = (rates_S, batch.inputs, targets_SB, weights_SB)
            return done + count, tuple(kernel(*packed, *constants, *drawn, count, **attributes))

        _, packed = jax.lax.while_loop(lambda loop: loop[0] < steps, body, (jnp.int32(0), packed))
        return _unpack(packed, run)

    return run_steps


def _pack(run: EnsembleState) -> tuple[Array, ...]:
    """Return parameters (N,), moments (N,) twice or (0,), counters (5,) and sums (2,)."""
    state = run.states
    adam = _adam_state(state)
    empty = jnp.zeros(0, jnp.float32)
    mean, square = (empty, empty) if adam is None else (_flat(adam.mu), _flat(adam.nu))
    count = jnp.int32(0) if adam is None else adam.count
    counters = jnp.stack([count, *state.counters, run.diverged])
    return _flat(state.params), mean, square, counters, jnp.stack([run.losses, run.targets])


def _unpack(packed: tuple[Array, ...], run: EnsembleState) -> EnsembleState:
    """Return `run` with what `_pack` took from it replaced."""
    flat, mean, square, (count, *counters, diverged), (losses, targets) = packed
    state = run.states
    params, opt_state, adam = _split(flat, state.params), state.opt_state, _adam_state(state)
    if adam is not None:
        like = state.params
        moments = optax.ScaleByAdamState(count, _split(mean, like), _split(square, like))
        opt_state = tuple(moments if part is adam else part for part in opt_state)
    state = state._replace(params=params, opt_state=opt_state, counters=Counters(*counters))
    return EnsembleState(state, diverged, losses, targets)


def _adam_state(state: TrainState) -> optax.ScaleByAdamState | None:
    found = (part for part in state.opt_state if isinstance(part, optax.ScaleByAdamState))
    return next(found, None)


def _flat(tree: Any) -> Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def _split(flat_N: Array, like: Any) -> Any:
    """Undo `_flat`."""
    leaves, tree = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves]).tolist()
    parts = [
        flat_N[end - leaf.size : end].reshape(leaf.shape)
        for end, leaf in zip(ends, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, parts)


def _factors(state: TrainState) -> Array:
    """Return the scheme's factors of each array (4, P): of it, its rate, epsilon and decay."""
    ones = jax.tree.map(lambda leaf: jnp.ones((), jnp.float32), state.params)
    multipliers, rates, epsilons, decays = ones, ones, ones, ones
    if state.scales:
        multipliers, rates = state.scales.multipliers, state.scales.learning_rates
    if state.adam_scales:
        epsilons, decays = state.adam_scales.epsilons, state.adam_scales.decays
    rows = (multipliers, rates, epsilons, decays)
    return jnp.stack([jnp.stack(jax.tree.leaves(row)) for row in rows])


def _numbers(config: Config, max_loss: Array) -> Array:
    """Return the numbers of the optimiser, and the greatest loss, (6,) float32."""
    optim = config.optim
    values = (optim.beta1, optim.beta2, optim.eps, optim.weight_decay, optim.grad_clip, max_loss)
    return jnp.stack([jnp.asarray(value, jnp.float32) for value in values])
