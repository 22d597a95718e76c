"""Stages of an optimizer's chain: the scheme's factors, and the decay of matrices."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from charjax.config import OptimConfig


def is_matrix(params: Any) -> Any:
    """Return True for each parameter of two or more axes: those that decay and are penalised."""
    return jax.tree.map(lambda parameter: parameter.ndim >= 2, params)


def scale_by_factors() -> optax.GradientTransformationExtraArgs:
    """Multiply directions by the argument `rate_factors`, where it is given."""

    def update(grads: Any, state: Any, params: Any = None, **factors: Any) -> Any:
        rate_factors = factors.get("rate_factors")
        if rate_factors is not None:
            grads = jax.tree.map(jnp.multiply, grads, rate_factors)
        return grads, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def add_decay(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Add weight_decay times each matrix to its direction."""
    if not config.cautious_decay:
        decayed = optax.add_decayed_weights(config.weight_decay, mask=is_matrix)
        return optax.with_extra_args_support(decayed)

    def update(grads: Any, state: Any, params: Any = None, **factors: Any) -> Any:
        decayed = jax.tree.map(
            lambda u, p, matrix: u + config.weight_decay * cautious(u, p) if matrix else u,
            grads,
            params,
            is_matrix(params),
        )
        return decayed, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def cautious(direction: Array, parameter: Array) -> Array:
    """Return the parameter where a step along `-direction` makes it smaller too, elsewhere 0.

    Cautious weight decay (Chen et al. 2025, arXiv:2510.12402).
    """
    return jnp.where(direction * parameter >= 0, parameter, jnp.zeros_like(parameter))
