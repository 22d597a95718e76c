"""AdamW's update of one parameter, in an order of selections that XLA fuses into two loops."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Moments(NamedTuple):
    """Running means of a parameter's gradient and of its square, of the parameter's shape."""

    mean: Array
    square: Array


def adam_update(
    parameter: Array,
    gradient: Array,
    moments: Moments,
    number: Array,
    *,
    learning_rate: Array,
    scale: Array,
    finite: Array,
    beta1: float,
    beta2: float,
    eps: float | Array,
    decay: float | Array = 0.0,
    cautious: bool = False,
    rate_factor: Array | None = None,
    epsilon_factor: Array | None = None,
    decay_factor: Array | None = None,
) -> tuple[Array, Moments]:
    """Apply AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), its decay scaled by the rate.

    The moments are selected before they are used: selected afterwards, they would be written
    twice, once for the selection and once for the parameter (measured, with `scale` folded in: a
    step takes 0.86 to 0.96 of the time; see benchmarks/NOTES.md).

    Args:
      parameter: any shape.
      gradient: of that shape; multiplied by `scale` here, and not in a pass of its own.
      moments: of that shape.
      number: float32 or int32 scalar, the number of this step, from 1.
      learning_rate: float32 scalar.
      scale: float32 scalar.
      finite: scalar; if False, the moments stay as they are, to the bit.
      beta1: decay rate of the mean.
      beta2: decay rate of the square.
      eps: added to the denominator.
      decay: weight decay.
      cautious: decay only numbers that the direction moves towards 0 (Chen et al. 2025,
        arXiv:2510.12402).
      rate_factor: a scalar that multiplies the direction but not the decay; None: 1.
      epsilon_factor: a scalar that multiplies `eps`; None: 1.
      decay_factor: a scalar that multiplies `decay`; None: 1.

    Returns:
      The update, to be added to the parameter if `finite`, and the new moments.
    """
    # Two products with the gradient itself: one that both read would be written down for them.
    mean = gradient * ((1 - beta1) * scale) + beta1 * moments.mean
    square = (1 - beta2) * jnp.square(gradient * scale) + beta2 * moments.square
    mean = jnp.where(finite, mean, moments.mean)
    square = jnp.where(finite, square, moments.square)
    number = number.astype(jnp.float32)
    unbiased_mean = mean / (1 - beta1**number)
    unbiased_square = square / (1 - beta2**number)
    eps_here = eps if epsilon_factor is None else eps * epsilon_factor
    direction = unbiased_mean / (jnp.sqrt(unbiased_square) + eps_here)
    if rate_factor is not None:
        direction = direction * rate_factor
    if isinstance(decay, Array) or decay:
        decay_here = decay if decay_factor is None else decay * decay_factor
        decayed = jnp.where(direction * parameter >= 0, parameter, 0.0) if cautious else parameter
        direction = direction + decay_here * decayed
    return -learning_rate * direction, Moments(mean, square)
