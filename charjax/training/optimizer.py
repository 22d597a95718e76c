"""The optimiser and its schedule, from the config.

The learning rate is a function of the step and is applied in `train_step`, so that it is known
to the metrics and a skipped step does not hold the schedule back.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from charjax.config import OptimConfig

Schedule = Callable[[Array], Array]


def make_optimizer(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Clipping and the direction of a step; the caller multiplies it by -learning_rate.

    adamw: Loshchilov and Hutter 2019, algorithm 2, with the decay scaled by the rate, as PyTorch
    and nanoGPT do; rmsprop: Tieleman and Hinton 2012; sgd: with Polyak momentum.

    `update` takes `learning_rate_factors`, a pytree of scalars or None, which multiply the
    direction but not the decay (see `charjax.init.scheme`).
    """
    parts = [optax.clip_by_global_norm(config.grad_clip)] if config.grad_clip else []
    if config.kind == "adamw":
        parts.append(optax.scale_by_adam(config.beta1, config.beta2, config.eps))
    elif config.kind == "rmsprop":
        parts.append(optax.scale_by_rms(config.rms_decay, config.eps, eps_in_sqrt=False))
    if config.momentum and config.kind != "adamw":
        parts.append(optax.trace(config.momentum))
    parts.append(_scale_by_factors())
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=is_matrix))
    return _promoting(optax.chain(optax.identity(), *parts))


def _scale_by_factors() -> optax.GradientTransformationExtraArgs:
    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        factors = extra.get("learning_rate_factors")
        if factors is not None:
            grads = jax.tree.map(jnp.multiply, grads, factors)
        return grads, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _promoting(inner: optax.GradientTransformationExtraArgs) -> Any:
    """optax raises a float to its int32 count, which strict dtype promotion refuses."""

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(grads, state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def is_matrix(params: Any) -> Any:
    """True for each parameter of two or more axes: those that decay and are penalised."""
    return jax.tree.map(lambda parameter: parameter.ndim >= 2, params)


def make_schedule(config: OptimConfig) -> Schedule:
    """The learning rate as a function of the number of steps taken before this one (float32)."""
    decay = _DECAYS[config.schedule](config)

    def schedule(step: Array) -> Array:
        t = step.astype(jnp.float32)
        rate = decay(t)
        if config.warmup_steps:
            warm = config.learning_rate * (t + 1.0) / (config.warmup_steps + 1.0)
            rate = jnp.where(t < config.warmup_steps, warm, rate)
        return jnp.asarray(rate, jnp.float32)

    return schedule


def _constant(config: OptimConfig) -> Schedule:
    return lambda t: jnp.full_like(t, config.learning_rate)


def _cosine(config: OptimConfig) -> Schedule:
    """Half a cosine from the end of the warm-up to decay_steps (Loshchilov and Hutter 2017)."""
    length = max(1, (config.decay_steps or 1) - config.warmup_steps)
    low, high = config.min_learning_rate, config.learning_rate

    def decay(t: Array) -> Array:
        done = jnp.clip((t - config.warmup_steps) / length, 0.0, 1.0)
        return low + 0.5 * (1.0 + jnp.cos(math.pi * done)) * (high - low)

    return decay


def _step(config: OptimConfig) -> Schedule:
    boundaries = jnp.asarray(config.boundaries, jnp.float32)
    return lambda t: (
        config.learning_rate * config.factor ** jnp.sum((t >= boundaries).astype(jnp.float32))
    )


def _exponential(config: OptimConfig) -> Schedule:
    """`factor` every decay_steps, from the first boundary on; char-rnn's is a staircase."""
    begin = float(config.boundaries[0]) if config.boundaries else 0.0

    def decay(t: Array) -> Array:
        power = jnp.maximum(t - begin, 0.0) / float(config.decay_steps or 1)
        power = jnp.floor(power) if config.staircase else power
        return jnp.maximum(config.learning_rate * config.factor**power, config.min_learning_rate)

    return decay


_DECAYS: dict[str, Callable[[OptimConfig], Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "step": _step,
    "exponential": _exponential,
}
