"""The optimiser and its schedule, from the config.

The learning rate is a function of the step and is applied here, not by optax, so that it is known
to the metrics and a skipped step does not hold the schedule back.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from charjax.config import OptimConfig
from charjax.ops.adam import AdamStep, Moments, adam_update

Schedule = Callable[[Array], Array]


class Taken(NamedTuple):
    """How a step is taken.

    Attributes:
      rate: the learning rate.
      scale: what gradients are multiplied by before anything else.
      finite: whether it is taken; otherwise parameters and state stay as they are, to the bit.
      factors: a pytree of scalars that multiply a parameter's direction but not its decay (see
        `charjax.init.scheme`), or None.
      epsilons: likewise, of scalars that multiply AdamW's epsilon.
      decays: likewise, of scalars that multiply AdamW's decay.
    """

    rate: Array
    scale: Array
    finite: Array
    factors: Any = None
    epsilons: Any = None
    decays: Any = None


class Optimizer(NamedTuple):
    """Two pure functions.

    Attributes:
      init: parameters -> state.
      apply: parameters, gradients, state, Taken -> new parameters and state.
    """

    init: Callable[[Any], Any]
    apply: Callable[[Any, Any, Any, Taken], tuple[Any, Any]]


def make_optimizer(config: OptimConfig) -> Optimizer:
    """The optimiser of a config, but for clipping (see `clip_factor`).

    adamw: Loshchilov and Hutter 2019, with the decay scaled by the rate, as PyTorch
    and nanoGPT do; rmsprop: Tieleman and Hinton 2012; sgd: with Polyak momentum. The state is
    optax's for each of them.
    """
    chain = _chain(config)
    if config.kind == "adamw":
        return Optimizer(chain.init, _adamw(config))
    return Optimizer(chain.init, _by_optax(chain))


def clip_factor(config: OptimConfig, grad_norm: Array) -> Array:
    """What gradients of this global norm are multiplied by, so that it is at most grad_clip."""
    if not config.grad_clip:
        return jnp.ones(())
    return jnp.where(grad_norm < config.grad_clip, 1.0, config.grad_clip / grad_norm)


def _adamw(config: OptimConfig) -> Callable[[Any, Any, Any, Taken], tuple[Any, Any]]:
    """optax's chain, parameter by parameter: as few loops over each as can be."""

    def apply(params: Any, grads: Any, state: Any, taken: Taken) -> tuple[Any, Any]:
        place = next(i for i, part in enumerate(state) if isinstance(part, optax.ScaleByAdamState))
        adam = state[place]
        count = jnp.where(taken.finite, optax.safe_increment(adam.count), adam.count)
        step = AdamStep(
            # A step that is not taken divides by what comes before the first one otherwise.
            jnp.maximum(count, 1),
            taken.scale,
            taken.finite,
            taken.rate,
            config.beta1,
            config.beta2,
            config.eps,
        )
        leaves, tree = jax.tree.flatten(params)
        factors, epsilons, decays = (
            [None] * len(leaves) if scalars is None else jax.tree.leaves(scalars)
            for scalars in (taken.factors, taken.epsilons, taken.decays)
        )
        new = [
            adam_update(
                leaf,
                gradient,
                Moments(mean, square),
                step,
                decay=config.weight_decay if leaf.ndim >= 2 else 0.0,
                rate_factor=factor,
                epsilon_factor=epsilon,
                decay_factor=decay,
            )
            for leaf, gradient, mean, square, factor, epsilon, decay in zip(
                leaves,
                *map(jax.tree.leaves, (grads, adam.mu, adam.nu)),
                factors,
                epsilons,
                decays,
                strict=True,
            )
        ]
        moments = optax.ScaleByAdamState(
            count,
            jax.tree.unflatten(tree, [held.mean for _, held in new]),
            jax.tree.unflatten(tree, [held.square for _, held in new]),
        )
        return jax.tree.unflatten(tree, [leaf for leaf, _ in new]), (
            *state[:place],
            moments,
            *state[place + 1 :],
        )

    return apply


def _by_optax(
    chain: optax.GradientTransformation,
) -> Callable[[Any, Any, Any, Taken], tuple[Any, Any]]:
    def apply(params: Any, grads: Any, state: Any, taken: Taken) -> tuple[Any, Any]:
        grads = jax.tree.map(lambda g: g * taken.scale, grads)
        # optax raises a float to its int32 count, which strict dtype promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, new_state = chain.update(
                grads, state, params, learning_rate_factors=taken.factors
            )
        new = jax.tree.map(lambda p, u: p - taken.rate * u, params, updates)
        return keep_unless(taken.finite, (new, new_state), (params, state))

    return apply


def keep_unless(finite: Array, new: Any, old: Any) -> Any:
    """The new pytree, or the old one to the bit."""
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def _chain(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """The same as optax has it; an identity stands where clipping does, for the state's sake."""
    parts = [optax.identity()] if config.grad_clip else []
    if config.kind == "adamw":
        parts.append(optax.scale_by_adam(config.beta1, config.beta2, config.eps))
    elif config.kind == "rmsprop":
        parts.append(optax.scale_by_rms(config.rms_decay, config.eps, eps_in_sqrt=False))
    if config.momentum and config.kind != "adamw":
        parts.append(optax.trace(config.momentum))
    parts.append(_scale_by_factors())
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=is_matrix))
    return optax.chain(optax.identity(), *parts)


def _scale_by_factors() -> optax.GradientTransformationExtraArgs:
    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        factors = extra.get("learning_rate_factors")
        if factors is not None:
            grads = jax.tree.map(jnp.multiply, grads, factors)
        return grads, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


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
