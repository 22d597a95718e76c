"""The precision of sums."""

import jax.numpy as jnp
from jax.typing import DTypeLike


def wide_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Return the dtype of sums, statistics, states and logits beside products in `dtype`.

    It is float32, and float64 only where the products are in float64 themselves, as they are
    when derivatives are compared with finite differences.
    """
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)
