"""Directions of optax's optimizers, by name.

A direction points along the gradient. The learning rate, the scheme's factors and the decoupled
decay come after it (`charjax.training.optimizer`), so momentum holds no learning rate.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from charjax.config import OptimConfig
from charjax.training.optimizers.stages import add_decay

Direction = Callable[[OptimConfig], optax.GradientTransformation]


def _adafactor(config: OptimConfig) -> optax.GradientTransformation:
    """Return `optax.adafactor`'s: clipped by root mean square, scaled by the parameter's."""
    parts = [
        optax.scale_by_factored_rms(epsilon=config.eps),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    ]
    if config.momentum:
        parts.append(optax.ema(config.momentum, debias=False))
    return optax.chain(*parts)


def _fromage(config: OptimConfig) -> optax.GradientTransformation:
    """Return the step of Bernstein et al. 2020 over the learning rate eta.

    W + step = (W - eta |W| / |g| g) / sqrt(1 + eta^2).
    """
    trust = optax.scale_by_trust_ratio(1e-6)

    def update(
        grads: Any, state: Any, params: Any = None, *, learning_rate: Array, **factors: Any
    ) -> tuple[Any, Any]:
        grads, state = trust.update(grads, state, params)
        root = jnp.sqrt(1.0 + jnp.square(learning_rate))
        # (1 - 1 / root) / learning_rate, without cancellation.
        shrink = learning_rate / (root * (root + 1.0))
        return jax.tree.map(lambda g, p: g / root + shrink * p, grads, params), state

    return optax.GradientTransformationExtraArgs(trust.init, update)


def _lamb(config: OptimConfig) -> optax.GradientTransformation:
    parts = [optax.scale_by_adam(config.beta1, config.beta2, config.eps)]
    if config.weight_decay:
        parts.append(add_decay(config))
    return optax.chain(*parts, optax.scale_by_trust_ratio())


def _lars(config: OptimConfig) -> optax.GradientTransformation:
    parts = [add_decay(config)] if config.weight_decay else []
    ratio = optax.scale_by_trust_ratio(trust_coefficient=config.trust_coefficient)
    return optax.chain(*parts, ratio, optax.trace(config.momentum))


def _sm3(config: OptimConfig) -> optax.GradientTransformation:
    """Return `optax.sm3`'s; scalars are arrays of one number, which it cannot do without."""
    inner = optax.scale_by_sm3(config.momentum)

    def init(params: Any) -> Any:
        return inner.init(jax.tree.map(jnp.atleast_1d, params))

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(jax.tree.map(jnp.atleast_1d, grads), state)
        return jax.tree.map(lambda u, g: u.reshape(g.shape), updates, grads), state

    return optax.GradientTransformation(init, update)


def _betas(make: Callable[..., Any], **others: Any) -> Direction:
    return lambda config: make(config.beta1, config.beta2, eps=config.eps, **others)


DIRECTIONS: dict[str, Direction] = {
    "adabelief": _betas(optax.scale_by_belief),
    "adadelta": lambda config: optax.scale_by_adadelta(config.rms_decay, config.eps),
    "adafactor": _adafactor,
    "adagrad": lambda config: optax.scale_by_rss(eps=config.eps),
    "adamax": _betas(optax.scale_by_adamax),
    "adan": lambda config: optax.scale_by_adan(
        config.beta1, config.beta2, config.beta3, eps=config.eps
    ),
    "ademamix": lambda config: optax.contrib.scale_by_ademamix(
        config.beta1, config.beta2, config.beta3, config.alpha, eps=config.eps
    ),
    "adopt": _betas(optax.contrib.scale_by_adopt),
    "amsgrad": _betas(optax.scale_by_amsgrad),
    "fromage": _fromage,
    "lamb": _lamb,
    "lars": _lars,
    "lion": lambda config: optax.scale_by_lion(config.beta1, config.beta2),
    "nadamw": _betas(optax.scale_by_adam, nesterov=True),
    "novograd": _betas(optax.scale_by_novograd),
    "radam": _betas(optax.scale_by_radam),
    "signum": lambda config: optax.chain(
        optax.ema(config.momentum, debias=False), optax.scale_by_sign()
    ),
    "sm3": _sm3,
    "yogi": _betas(optax.scale_by_yogi),
}
# Their directions contain the decay, which is a part of what the trust ratio measures.
DECAYING = ("lamb", "lars")
