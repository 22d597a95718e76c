"""Rows of a table."""

from jax import Array, lax

from charjax.ops.choice import scatters_stand_apart


def lookup(table_VD: Array, tokens: Array) -> Array:
    """Return the row of each token: (..., D) for tokens of shape (...).

    The gradient is a scatter-add. XLA fuses the other parts of the table's gradient (a tied
    readout's, a penalty's) into the scatter, unless a barrier separates them.
    """
    return (lax.optimization_barrier(table_VD) if scatters_stand_apart() else table_VD)[tokens]
