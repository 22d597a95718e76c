"""Masks of dropout."""

import jax
from jax import Array, lax

from charjax.ops.choice import stores_masks


def keep_mask(key: Array, rate: float, shape: tuple[int, ...]) -> Array:
    """Draw the elements that are not dropped.

    Args:
      key: typed PRNG key.
      rate: part that is dropped.
      shape: of the mask.

    Returns:
      True with probability 1 - rate, of the shape given.
    """
    keep = jax.random.bernoulli(key, 1 - rate, shape)
    return lax.optimization_barrier(keep) if stores_masks() else keep
