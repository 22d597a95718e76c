"""minGRU: its scan against a plain loop over the equations, and one step at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.models.min_gru import Scan
from tests.models.families import V, make_model, make_variables

B, T = 3, 11


@pytest.fixture(scope="module")
def model():
    return make_model("mingru", d_embed=5, d_hidden=6, n_layer=2, dropout=0.0)


@pytest.fixture(scope="module")
def variables(model):
    return make_variables(model)


@pytest.fixture
def tokens_BT():
    return np.random.default_rng(3).integers(0, V, (B, T)).astype(np.int32)


def plain_loop(params, tokens_BT):
    """Logits, and the last state of every layer, in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x_BTD, states = params["token_embedding"]["embedding"][tokens_BT], []
    for name in ("cell_0", "cell_1"):
        gates = params[name]["gates"]
        h_BH, outputs = np.zeros((B, 6)), []
        for x_BD in x_BTD.swapaxes(0, 1):
            product_BG = x_BD @ gates["kernel"] + gates["bias"]
            z_BH, n_BH = 1 / (1 + np.exp(-product_BG[:, :6])), product_BG[:, 6:]
            h_BH = (1 - z_BH) * h_BH + z_BH * n_BH
            outputs.append(h_BH)
        x_BTD = np.stack(outputs, axis=1)
        states.append(h_BH)
    return x_BTD @ params["readout"]["kernel"] + params["readout"]["bias"], states


def test_scan_equals_the_equations(model, variables, tokens_BT):
    logits_BTV, cache = jax.jit(model.apply)(variables, tokens_BT)
    expected_BTV, states = plain_loop(variables["params"], tokens_BT)
    np.testing.assert_allclose(logits_BTV, expected_BTV, atol=1e-5)
    np.testing.assert_allclose(np.stack(cache), np.stack(states), atol=1e-5)


def test_one_step_at_a_time_equals_the_scan(model, variables, tokens_BT):
    expected_BTV, last = jax.jit(model.apply)(variables, tokens_BT)
    step, cache = jax.jit(model.apply), model.init_cache(B)
    for t in range(T):
        logits_B1V, cache = step(variables, tokens_BT[:, t : t + 1], cache)
        np.testing.assert_allclose(logits_B1V[:, 0], expected_BTV[:, t], atol=1e-5)
    np.testing.assert_allclose(np.stack(cache), np.stack(last), atol=1e-5)


@pytest.mark.slow
def test_a_state_does_not_depend_on_later_inputs():
    """Both arguments of the scan: values and coefficients of later times have no gradient."""
    rng = np.random.default_rng(0)
    b_BTH, a_BTH = rng.normal(size=(1, T, 2)), rng.uniform(size=(1, T, 2))
    h_BH = jnp.asarray(rng.normal(size=(1, 2)), jnp.float32)

    def state(b_BTH, a_BTH):
        return jnp.sum(Scan().apply({}, b_BTH, a_BTH, h_BH)[:, 4])

    arguments = (jnp.asarray(b_BTH, jnp.float32), jnp.asarray(a_BTH, jnp.float32))
    for gradient_BTH in jax.grad(state, argnums=(0, 1))(*arguments):
        assert (gradient_BTH[:, 5:] == 0.0).all()
        assert (gradient_BTH[:, :5] != 0.0).all()


@pytest.mark.parametrize("gate", [-100.0, 100.0], ids=["keeps", "writes"])
@pytest.mark.slow
def test_saturated_gates_stay_finite_over_a_long_text(gate):
    """Coefficients that are 0 or 1 to the last digit, and products of thousands of them."""
    length = 4096
    a_BTH = jnp.full((1, length, 1), jax.nn.sigmoid(-gate))
    z_BTH = jax.nn.sigmoid(gate) * jnp.ones((1, length, 1))

    def last(n_BTH):
        return Scan().apply({}, z_BTH * n_BTH, a_BTH, jnp.ones((1, 1)))[0, -1, 0]

    value, gradient_BTH = jax.jit(jax.value_and_grad(last))(jnp.full((1, length, 1), 0.5))
    assert value == (1.0 if gate < 0 else 0.5)
    assert np.isfinite(gradient_BTH).all()
