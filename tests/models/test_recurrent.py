"""The scan equals a plain loop over the equations, as PyTorch writes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.config import parse_config
from charjax.models import build, recurrent, recurrent_cells
from charjax.ops import choice

V, B, T, D, H = 11, 2, 7, 5, 6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rnn(x, a, h, c):
    return np.tanh(x + a), c


def gru(x, a, h, c):
    x_r, x_z, x_n = np.split(x, 3, axis=-1)
    a_r, a_z, a_n = np.split(a, 3, axis=-1)
    r, z = sigmoid(x_r + a_r), sigmoid(x_z + a_z)
    n = np.tanh(x_n + r * a_n)
    return (1 - z) * n + z * h, c


def lstm(x, a, h, c):
    i, f, g, o = np.split(x + a, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def plain_loop(params, tokens_BT, update):
    """Compute logits, and the last h and c of every layer, in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    xs = [
        params["token_embedding"]["embedding"][tokens_BT[:, t]] for t in range(tokens_BT.shape[1])
    ]
    states = []
    for name in sorted(name for name in params if name.startswith("cell_")):
        cell, h, c, outputs = params[name], np.zeros((B, H)), np.zeros((B, H)), []
        for x in xs:
            x_gates = x @ cell["input_kernel"] + cell["input_bias"]
            h_gates = h @ cell["hidden_kernel"] + cell["hidden_bias"]
            h, c = update(x_gates, h_gates, h, c)
            outputs.append(h)
        xs = outputs
        states.append((h, c))
    logits = np.stack(xs, axis=1) @ params["readout"]["kernel"] + params["readout"]["bias"]
    return logits, states


def make(kind, dtype=jnp.float32, **settings):
    section = {"kind": kind, "n_layer": 2, "d_embed": D, "d_hidden": H} | settings
    model = build(parse_config({"model": section}).model, V, dtype)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    rng = np.random.default_rng(0)
    return model, jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), jnp.float32), shapes
    )


@pytest.mark.parametrize(("kind", "update"), [("rnn", rnn), ("gru", gru), ("lstm", lstm)])
@pytest.mark.parametrize("length", [T, 3])
@pytest.mark.quick("*-gru-gru", "3-rnn-rnn", "3-lstm-lstm")
def test_scan_equals_loop(kind, update, length):
    """Cover more tokens than symbols (symbols are projected) and fewer (tokens are)."""
    assert B * T > V > B * 3
    model, variables = make(kind)
    tokens_BT = np.random.default_rng(3).integers(0, V, (B, length))
    logits, cache = jax.jit(model.apply)(variables, tokens_BT)
    expected, states = plain_loop(variables["params"], tokens_BT, update)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    for state, (h, c) in zip(cache, states, strict=True):
        for actual, wanted in zip(state, (h, c), strict=False):
            np.testing.assert_allclose(actual, wanted, atol=1e-5)


@pytest.mark.slow
def test_projecting_symbols_has_the_same_gradient():
    model, variables = make("gru", n_layer=1)
    tokens_BT = np.random.default_rng(4).integers(0, V, (B, T))

    def loss(params, pieces):
        cache, total = None, 0.0
        for piece in pieces:
            logits, cache = model.apply({"params": params}, piece, cache)
            total += jnp.sum(jnp.sin(logits))
        return total

    gradient = jax.jit(jax.grad(loss))
    whole = gradient(variables["params"], [tokens_BT])
    parts = gradient(variables["params"], [tokens_BT[:, :3], tokens_BT[:, 3:]])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), whole, parts)


@pytest.mark.parametrize(("kind", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_parameters_are_those_of_pytorch(kind, gates):
    """torch.nn.GRU(D, H, num_layers=2): per layer gates * H * (inputs + H + 2)."""
    _, variables = make(kind)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == V * D + gates * H * (D + H + 2) + gates * H * (H + H + 2) + H * V + V
    assert variables["params"]["cell_1"]["hidden_kernel"].shape == (H, gates * H)


def test_dropout_is_on_every_layers_output_and_not_on_the_state():
    model, variables = make("rnn", n_layer=1, dropout=0.5)
    tokens_BT = np.random.default_rng(5).integers(0, V, (B, T))
    expected, state = jax.jit(model.apply)(variables, tokens_BT)
    rngs = {"dropout": jax.random.key(0)}
    logits, same = model.apply(variables, tokens_BT, train=True, rngs=rngs)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    assert not np.allclose(logits, expected)


@pytest.mark.parametrize(
    ("kind", "n_layer", "dtype"),
    [
        ("gru", 2, jnp.float32),
        pytest.param("gru", 2, jnp.bfloat16, marks=pytest.mark.slow),
        pytest.param("lstm", 2, jnp.float32, marks=pytest.mark.slow),
        pytest.param("lstm", 1, jnp.bfloat16, marks=pytest.mark.slow),
        pytest.param("rnn", 1, jnp.float32, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_the_op_that_owns_the_scan_makes_the_same_model(monkeypatch, kind, n_layer, dtype):
    """Compare parameters, loss, states, gradients, with dropout; project symbols, then tokens."""
    model, variables = make(kind, dtype, n_layer=n_layer, dropout=0.5)
    tokens_BT = np.random.default_rng(6).integers(0, V, (B, T + 3))

    def run(owned):
        monkeypatch.setattr(recurrent, "owns_scan", lambda T: owned)

        def loss(params, cache):
            whole, cache = model.apply(
                {"params": params},
                tokens_BT[:, :T],
                cache,
                train=True,
                rngs={"dropout": jax.random.key(2)},
            )
            last, cache = model.apply({"params": params}, tokens_BT[:, T:], cache, num_outputs=2)
            assert last.shape == (B, 2, V)
            return jnp.sum(jnp.sin(whole)) + jnp.sum(jnp.sin(last)), cache

        cache = jax.tree.map(lambda leaf: leaf + 0.3, model.init_cache(B))
        initial = jax.jit(model.init)(jax.random.key(0), tokens_BT)
        return initial, jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
            variables["params"], cache
        )

    (init, got), (init_by_steps, want) = run(True), run(False)
    jax.tree.map(np.testing.assert_array_equal, init, init_by_steps)
    close = {"atol": 1e-5, "rtol": 1e-4} if dtype == jnp.float32 else {"atol": 0.2, "rtol": 0.1}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), got, want)


def test_one_step_is_the_cell_itself(monkeypatch):
    """Generate a character at a time: no device runs a loop."""
    model, variables = make("gru")
    monkeypatch.setattr(choice, "on_cpu", lambda: False)
    monkeypatch.setattr(recurrent_cells, "recurrence", lambda *arguments: pytest.fail("called"))
    model.apply(variables, np.zeros((B, 1), np.int32), model.init_cache(B))
