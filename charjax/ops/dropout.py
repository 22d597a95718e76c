"""Masks of dropout."""

import jax
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from charjax.ops.choice import stores_masks

# Under which a policy of `jax.checkpoint` may save a mask.
MASK = "mask"


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
    return checkpoint_name(lax.optimization_barrier(keep), MASK) if stores_masks() else keep
