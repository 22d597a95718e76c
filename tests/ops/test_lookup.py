"""Table lookup and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from charjax.ops.lookup import lookup

TOKENS = np.array([[3, 1, 1], [0, 3, 3]])


def test_gradient_is_the_sum_of_what_came_back_to_each_row():
    table = jnp.arange(10.0).reshape(5, 2)
    gradients = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    rows, back = jax.vjp(lambda table: lookup(table, TOKENS), table)
    np.testing.assert_array_equal(rows, np.asarray(table)[TOKENS])
    expected = np.zeros((5, 2), np.float32)
    np.add.at(expected, TOKENS, gradients)
    np.testing.assert_allclose(back(gradients)[0], expected, rtol=1e-6)


def test_two_gradients_by_the_same_tokens_that_are_added_to_something():
    """XLA of jaxlib 0.10 and 0.11 ends the process where it fuses them (see ops.choice)."""

    def both(table):
        def loss(activation, table):
            return jnp.sum(activation(lookup(table, TOKENS) @ table.T))

        return [jax.grad(loss, argnums=1)(f, table) for f in (jnp.sin, jnp.cos)]

    table = jnp.asarray(np.random.default_rng(1).normal(size=(5, 2)), jnp.float32)
    together = jax.jit(both)(table)
    for gradients, alone in zip(together, both(table), strict=True):
        np.testing.assert_allclose(gradients, alone, rtol=1e-5, atol=1e-6)
