"""MetaInit: the gradient quotient, and its descent over norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import models
from charjax.config import parse_config
from charjax.init.metainit import LEAST, adjust_norms, gradient_quotient

V = 7


@pytest.mark.parametrize("curvature", [0.5, 2.0, -1.0])
@pytest.mark.quick("2.0")
def test_the_quotient_of_a_parabola_is_its_curvature(curvature):
    """g = a p and H g = a^2 p: |(1 - a) - 1| = |a|, but for epsilon in the divisor."""
    params = {"p": jnp.array([[3.0, -2.0]]), "q": jnp.array([1.5])}

    def loss(params):
        return sum(curvature / 2 * jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    p = np.array([3.0, -2.0, 1.5])
    g, Hg = curvature * p, curvature**2 * p
    exact = np.mean(np.abs((g - Hg) / (g + 1e-5 * np.where(g >= 0, 1, -1)) - 1))
    assert float(gradient_quotient(loss, params)) == pytest.approx(exact, rel=1e-4)
    assert exact == pytest.approx(abs(curvature), rel=1e-3)


def test_where_a_gradient_is_zero_the_quotient_is_one():
    assert float(gradient_quotient(lambda p: jnp.sum(0.0 * p), jnp.ones(3))) == 1.0


def adjusted(kind, steps, **settings):
    section = {"kind": kind, "context_length": 3, **settings}
    model = models.build(parse_config({"model": section}).model, V, jnp.float32)
    inputs_BS = jnp.zeros((6, model.lookback + 1), jnp.int32)
    variables = model.init(jax.random.key(0), inputs_BS)
    found = jax.jit(lambda v: adjust_norms(model, v, inputs_BS, 1, steps=steps))(variables)
    return variables["params"], found


@pytest.mark.slow
def test_a_norm_moves_by_a_tenth_with_momentum():
    """One step: 0.1. Two in one direction: 0.1 + 0.19; with a turn: 0.1 - 0.01 = 0.09."""
    before, once = adjusted("bigram", 1)
    (table,), (first,) = jax.tree.leaves(before), jax.tree.leaves(once)
    (second,) = jax.tree.leaves(adjusted("bigram", 2)[1])
    start = np.linalg.norm(table)
    assert abs(np.linalg.norm(first) - start) == pytest.approx(0.1, rel=1e-3)
    moved = abs(np.linalg.norm(second) - start)
    assert moved == pytest.approx(0.29, rel=1e-3) or moved == pytest.approx(0.09, rel=1e-3)
    np.testing.assert_allclose(second / np.linalg.norm(second), table / start, rtol=1e-4)


@pytest.mark.slow
def test_only_norms_of_weights_change():
    before, after = adjusted("mlp", 3, d_embed=4, hidden=(8,))
    for path, old in jax.tree_util.tree_leaves_with_path(before):
        new = after
        for part in path:
            new = new[part.key]
        if old.ndim < 2:
            np.testing.assert_array_equal(new, old)
            continue
        assert np.linalg.norm(new) != np.linalg.norm(old)
        ratio = np.linalg.norm(new) / np.linalg.norm(old)
        np.testing.assert_allclose(new, ratio * old, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_norm_stays_positive():
    _, after = adjusted("bigram", 200)
    assert np.linalg.norm(jax.tree.leaves(after)[0]) >= LEAST * (1 - 1e-4)
