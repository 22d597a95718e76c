"""AdamW's update of one parameter, in an order of selections that XLA fuses into two loops."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array


class Moments(NamedTuple):
    """Of a parameter's gradient, of its shape: the running mean, and that of the square."""

    mean: Array
    square: Array


class AdamStep(NamedTuple):
    """What a step is to every parameter: float32 scalars, but for `finite` and the settings.

    Attributes:
      number: of the step, from 1.
      scale: what the gradient is multiplied by first.
      finite: whether the step is taken; otherwise all stays as it is, to the bit.
      rate: the learning rate.
      beta1, beta2, eps: of Adam.
    """

    number: Array
    scale: Array
    finite: Array
    rate: Array
    beta1: float
    beta2: float
    eps: float


def adam_update(
    parameter: Array,
    gradient: Array,
    moments: Moments,
    step: AdamStep,
    *,
    decay: float = 0.0,
    rate_factor: Array | None = None,
    epsilon_factor: Array | None = None,
    decay_factor: Array | None = None,
) -> tuple[Array, Moments]:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), with the decay scaled by the rate.

    The moments are selected before they are used: selected afterwards, they would be written
    twice, once for the selection and once for the parameter (measured, with `scale` folded in: a
    step takes 0.86 to 0.96 of the time; see benchmarks/NOTES.md).

    Args:
      parameter: any shape.
      gradient: of that shape; multiplied by `step.scale` here, and not in a pass of its own.
      moments: of that shape.
      step: what all parameters have in common.
      decay: of the weights.
      rate_factor: a scalar that multiplies the direction but not the decay; None: 1.
      epsilon_factor: a scalar that multiplies `step.eps`; None: 1.
      decay_factor: a scalar that multiplies `decay`; None: 1.

    Returns:
      The new parameter and moments.
    """
    chosen = _chooser(step.finite)
    # Two products with the gradient itself: one that both read would be written down for them.
    mean = gradient * ((1 - step.beta1) * step.scale) + step.beta1 * moments.mean
    square = (1 - step.beta2) * jnp.square(gradient * step.scale) + step.beta2 * moments.square
    mean, square = chosen(mean, moments.mean), chosen(square, moments.square)
    number = step.number.astype(jnp.float32)
    unbiased_mean = mean / (1 - step.beta1**number)
    unbiased_square = square / (1 - step.beta2**number)
    eps = step.eps if epsilon_factor is None else step.eps * epsilon_factor
    direction = unbiased_mean / (jnp.sqrt(unbiased_square) + eps)
    if rate_factor is not None:
        direction = direction * rate_factor
    if decay:
        decayed = decay if decay_factor is None else decay * decay_factor
        direction = direction + decayed * parameter
    return chosen(parameter - step.rate * direction, parameter), Moments(mean, square)


def _chooser(finite: Array) -> Any:
    return lambda new, old: jnp.where(finite, new, old)
