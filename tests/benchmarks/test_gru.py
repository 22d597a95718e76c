"""The GRU benchmark's variants compute one function, and one that computes another is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gru
from benchmarks.gru import VARIANTS, Weights, plain


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape) * 0.4, jnp.float32)


@pytest.mark.slow
def test_the_variants_are_one_function():
    D, H, x_TBD = 3, 4, draw(5, 2, 3)
    weights = Weights(draw(D, 3 * H), draw(H, 3 * H), draw(3 * H), 0.5 * draw(3 * H))
    scale_TBH = draw(5, 2, H)

    def both(layer):
        loss = lambda x, w: jnp.sum(layer(x, w) * scale_TBH)  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(x_TBD, weights)

    value, gradients = both(plain)
    for layer in VARIANTS.values():
        other, others = both(layer)
        np.testing.assert_allclose(other, value, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), others, gradients)


def test_a_program_computes_a_loss_and_its_gradient():
    program = gru.Program(lambda w: w * w, jnp.float32(3.0))
    program(2)
    assert program.exact() == (9.0, 6.0)


def test_a_contestant_that_computes_something_else_is_refused():
    expected = (2.0, {"w": np.array([1.0, 10.0])})
    assert gru.agreed("same", expected, expected)["gradient_difference"] == 0.0
    with pytest.raises(ValueError, match="gradients by"):
        gru.agreed("other", (2.0, {"w": np.array([1.002, 10.0])}), expected)
