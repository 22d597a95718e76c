"""Schedule-free AdamW, and the averaged parameters that it is evaluated at."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import ScheduleFreeState

from charjax.config import OptimConfig
from charjax.training.optimizers.stages import add_decay, scale_by_factors


def schedule_free_adamw(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Return `optax.contrib.schedule_free_adamw` (Defazio et al. 2024, arXiv:2405.15682).

    The rate is an argument of the update: the average weighs the parameters after each step by the
    square of the largest rate so far. The arguments are those of
    `charjax.training.optimizer.make_optimizer`, but for clipping, which comes before it.
    """
    squares = optax.scale_by_rms(config.beta2, config.eps, eps_in_sqrt=False, bias_correction=True)
    parts = [squares, scale_by_factors(), *([add_decay(config)] if config.weight_decay else [])]
    chain = optax.chain(*parts)

    def build(learning_rate: Array) -> optax.GradientTransformationExtraArgs:
        descent = optax.with_extra_args_support(optax.chain(chain, optax.scale(-1.0)))

        def update(grads: Any, state: Any, params: Any = None, **factors: Any) -> tuple[Any, Any]:
            updates, state = descent.update(grads, state, params, **factors)
            return jax.tree.map(lambda u: learning_rate * u, updates), state

        base = optax.GradientTransformationExtraArgs(descent.init, update)
        return optax.contrib.schedule_free(base, learning_rate, config.beta1)

    def update(
        grads: Any, state: Any, params: Any = None, *, learning_rate: Array, **factors: Any
    ) -> tuple[Any, Any]:
        return build(learning_rate).update(grads, state, params, **factors)

    return optax.GradientTransformationExtraArgs(build(jnp.zeros(())).init, update)


def averaged_by(opt_state: Any, params: Any) -> Any | None:
    """Return the average that a schedule-free optimizer's state holds; None for any other state."""
    is_ours = lambda part: isinstance(part, ScheduleFreeState)  # noqa: E731
    for part in jax.tree.leaves(opt_state, is_leaf=is_ours):
        if is_ours(part):
            return optax.contrib.schedule_free_eval_params(part, params)
    return None
