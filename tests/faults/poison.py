"""Losses and gradients that are not finite, at chosen steps."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from charjax.training import program, step


def poison_steps(where: str, value: float, steps: Sequence[int]) -> None:
    """Make the loss, or only the gradients, NaN or infinite at given steps.

    The first step is number 1. It is compiled into the step, as an overflow would be.
    """
    clean_step, clean_loss = step.make_train_step, step.cross_entropy
    factors: list[Array] = []

    def make_train_step(*arguments: Any) -> Any:
        inner = clean_step(*arguments)

        def train_step(state: Any, batch: Any, key: Array) -> Any:
            now = jnp.any(state.counters.step + 1 == jnp.asarray([*steps, -1]))
            factors[:] = [jnp.where(now, jnp.float32(value), jnp.float32(1))]
            return inner(state, batch, key)

        return train_step

    def cross_entropy(logits: Array, targets: Array) -> Array:
        losses = clean_loss(logits, targets)
        if where == "gradients":
            return _worse_gradients(losses, factors[0])
        return losses * factors[0] if where == "loss" else losses

    program.make_train_step = make_train_step
    step.cross_entropy = cross_entropy


@jax.custom_vjp
def _worse_gradients(losses: Array, factor: Array) -> Array:
    return losses


def _forward(losses: Array, factor: Array) -> tuple[Array, Array]:
    return losses, factor


def _backward(factor: Array, gradients: Array) -> tuple[Array, Array]:
    return gradients * factor, jnp.zeros_like(factor)


_worse_gradients.defvjp(_forward, _backward)
