"""The optimizer and its schedule, from the config.

The learning rate is a function of the step and an argument of the update, so that the metrics have
it and a skipped step does not hold the schedule back.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from charjax.config import OptimConfig
from charjax.config.notes import wsd_span
from charjax.models.roles import Roles
from charjax.ops.adam import Moments, adam_update
from charjax.training.optimizers.directions import DECAYING, DIRECTIONS
from charjax.training.optimizers.muon import scale_adam_part, scale_by_muon
from charjax.training.optimizers.schedule_free import schedule_free_adamw
from charjax.training.optimizers.stages import add_decay, scale_by_factors
from charjax.training.own_optimizer import is_own, own_direction

Schedule = Callable[[Array], Array]


def make_optimizer(config: OptimConfig, roles: Roles = ()) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer of a config, without clipping (see `clip_factor`).

    adamw: Loshchilov and Hutter 2019, with the decay scaled by the rate, as PyTorch
    and nanoGPT do; rmsprop: Tieleman and Hinton 2012; sgd: with Polyak momentum; the others:
    `charjax.training.optimizers`. The state is optax's for each of them.

    Its `update(gradients, state, params, **arguments)` returns updates to be added to the
    parameters, and the new state. The keyword arguments:
      learning_rate: of this step.
      scale: multiplies gradients before anything else.
      finite: if False, the state stays as it is, to the bit, and the updates have no meaning.
      rate_factors: a pytree of scalars that multiply a parameter's direction but not its decay
        (see `charjax.init.scheme`); by default all 1.
      epsilon_factors, decay_factors: pytrees of scalars that multiply AdamW's epsilon and decay;
        Muon reads the first for what AdamW trains.

    Args:
      config: the section [optim].
      roles: of the model's parameters; only muon reads them.
    """
    if config.kind == "schedule_free_adamw":
        return _guarded(schedule_free_adamw(config))
    chain = _directions(config, roles)
    if config.kind == "adamw":
        return optax.GradientTransformationExtraArgs(chain.init, _fused_adamw(config))

    def descend(grads: Any, state: Any, params: Any = None, **factors: Any) -> tuple[Any, Any]:
        directions, state = chain.update(grads, state, params, **factors)
        return jax.tree.map(jnp.negative, directions), state

    return from_optax(optax.GradientTransformationExtraArgs(chain.init, descend))


def from_optax(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Adapt an optax optimizer of learning rate 1 to the arguments of `make_optimizer`'s."""
    extended = optax.with_extra_args_support(transformation)

    def update(
        grads: Any, state: Any, params: Any = None, *, learning_rate: Array, **factors: Any
    ) -> tuple[Any, Any]:
        updates, state = extended.update(
            grads, state, params, learning_rate=learning_rate, **factors
        )
        return jax.tree.map(lambda u: learning_rate * u, updates), state

    return _guarded(optax.GradientTransformationExtraArgs(transformation.init, update))


def _guarded(
    transformation: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Add the arguments `scale` and `finite`."""

    def update(
        grads: Any, state: Any, params: Any = None, *, scale: Array, finite: Array, **others: Any
    ) -> tuple[Any, Any]:
        grads = jax.tree.map(lambda g: g * scale, grads)
        # optax raises a float to its int32 count, which strict dtype promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, new_state = transformation.update(grads, state, params, **others)
        return updates, keep_unless(finite, new_state, state)

    return optax.GradientTransformationExtraArgs(transformation.init, update)


def clip_factor(config: OptimConfig, grad_norm: Array) -> Array:
    """Return the factor that makes gradients of this global norm at most grad_clip long."""
    if not config.grad_clip:
        return jnp.ones(())
    return jnp.where(grad_norm < config.grad_clip, 1.0, config.grad_clip / grad_norm)


def keep_unless(finite: Array, new: Any, old: Any) -> Any:
    """Return the new pytree, or the old one to the bit where the step is not finite."""
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def _fused_adamw(config: OptimConfig) -> Callable[..., tuple[Any, Any]]:
    """Return the update of optax's chain, in as few loops over each parameter as can be."""

    def update(
        grads: Any,
        state: Any,
        params: Any = None,
        *,
        finite: Array,
        rate_factors: Any = None,
        epsilon_factors: Any = None,
        decay_factors: Any = None,
        **scalars: Array,
    ) -> tuple[Any, Any]:
        place = next(i for i, part in enumerate(state) if isinstance(part, optax.ScaleByAdamState))
        adam = state[place]
        count = jnp.where(finite, optax.safe_increment(adam.count), adam.count)
        leaves, tree = jax.tree.flatten(params)
        factors = [
            [None] * len(leaves) if factor is None else jax.tree.leaves(factor)
            for factor in (rate_factors, epsilon_factors, decay_factors)
        ]
        updated = [
            adam_update(
                leaf,
                gradient,
                Moments(mean, square),
                # A step that is not finite divides by what comes before the first one otherwise.
                jnp.maximum(count, 1),
                finite=finite,
                beta1=config.beta1,
                beta2=config.beta2,
                eps=config.eps,
                decay=config.weight_decay if leaf.ndim >= 2 else 0.0,
                cautious=config.cautious_decay,
                rate_factor=rate_factor,
                epsilon_factor=epsilon_factor,
                decay_factor=decay_factor,
                **scalars,
            )
            for leaf, gradient, mean, square, rate_factor, epsilon_factor, decay_factor in zip(
                leaves, *map(jax.tree.leaves, (grads, adam.mu, adam.nu)), *factors, strict=True
            )
        ]
        updates, means, squares = (
            jax.tree.unflatten(tree, column)
            for column in zip(*((u, m.mean, m.square) for u, m in updated), strict=True)
        )
        moments = optax.ScaleByAdamState(count, means, squares)
        return updates, (*state[:place], moments, *state[place + 1 :])

    return update


def _directions(config: OptimConfig, roles: Roles = ()) -> optax.GradientTransformationExtraArgs:
    """Return optax's chain; an identity stands in place of clipping, for the state's sake.

    Its updates have the direction of the gradient, and no learning rate.
    """
    parts: list[Any] = [optax.identity()] if config.grad_clip else []
    if is_own(config):
        parts.append(own_direction(config))
    elif config.kind == "adamw":
        parts.append(optax.scale_by_adam(config.beta1, config.beta2, config.eps))
    elif config.kind == "rmsprop":
        parts.append(optax.scale_by_rms(config.rms_decay, config.eps, eps_in_sqrt=False))
    elif config.kind == "muon":
        parts.append(scale_by_muon(config, roles))
    elif config.kind in DIRECTIONS:
        parts.append(DIRECTIONS[config.kind](config))
    if _is_used(config.momentum) and config.kind in ("sgd", "rmsprop"):
        parts.append(optax.trace(config.momentum))
    parts.append(scale_by_factors())
    if _is_used(config.weight_decay) and config.kind not in DECAYING:
        parts.append(add_decay(config))
    if config.kind == "muon":
        parts.append(scale_adam_part(config, roles))
    return optax.chain(optax.identity(), *parts)


def _is_used(number: Any) -> bool:
    """Return whether a number is not 0; a traced one never is."""
    return isinstance(number, Array) or bool(number)


def make_schedule(config: OptimConfig) -> Schedule:
    """Return the learning rate as a function of the number of earlier steps; float32."""
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
    """Return half a cosine from warm-up to decay_steps (Loshchilov and Hutter 2017)."""
    length = max(1, (config.decay_steps or 1) - config.warmup_steps)
    low, high = config.min_learning_rate, config.learning_rate

    def decay(t: Array) -> Array:
        done = jnp.clip((t - config.warmup_steps) / length, 0.0, 1.0)
        return low + 0.5 * (1.0 + jnp.cos(math.pi * done)) * (high - low)

    return decay


def _wsd(config: OptimConfig) -> Schedule:
    """Return warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395).

    The tail 1-sqrt is that of Haegele et al. 2024 (arXiv:2405.18392).
    """
    begin, end = wsd_span(config)
    low, high = config.min_learning_rate, config.learning_rate
    tails: dict[str, Callable[[Array], Array]] = {
        "linear": lambda done: 1.0 - done,
        "1-sqrt": lambda done: 1.0 - jnp.sqrt(done),
        "cosine": lambda done: 0.5 * (1.0 + jnp.cos(math.pi * done)),
    }

    def decay(t: Array) -> Array:
        done = jnp.clip((t - begin) / max(1, end - begin), 0.0, 1.0)
        return low + tails[config.tail](done) * (high - low)

    return decay


def _step(config: OptimConfig) -> Schedule:
    boundaries = jnp.asarray(config.boundaries, jnp.float32)
    return lambda t: (
        config.learning_rate * config.factor ** jnp.sum((t >= boundaries).astype(jnp.float32))
    )


def _exponential(config: OptimConfig) -> Schedule:
    """Multiply by `factor` every decay_steps from the first boundary on; char-rnn in steps."""
    begin = float(config.boundaries[0]) if config.boundaries else 0.0

    def decay(t: Array) -> Array:
        power = jnp.maximum(t - begin, 0.0) / float(config.decay_steps or 1)
        power = jnp.floor(power) if config.staircase else power
        return jnp.maximum(config.learning_rate * config.factor**power, config.min_learning_rate)

    return decay


_DECAYS: dict[str, Callable[[OptimConfig], Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "wsd": _wsd,
    "step": _step,
    "exponential": _exponential,
}
