"""Layer-norm GRU and LSTM, and minLSTM, against plain loops over their equations in float64."""

import jax
import numpy as np
import pytest

from charjax.config import parse_config
from charjax.initlab.activations.layers import find_layers, layer_values
from charjax.models import build
from tests.models.families import V, make_model, make_variables

B, T, H = 2, 7, 6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm(x, scale, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-5) * scale + bias


def gru(p, x, h, _):
    """Ba et al.: z and r together, the candidate apart."""

    def parts(y, name):
        y, s, b = y @ p[f"{name}_kernel"], p[f"{name}_scale"], p[f"{name}_bias"]
        both = norm(y[:, : 2 * H], s[: 2 * H], b[: 2 * H])
        return (*np.split(both, 2, axis=-1), norm(y[:, 2 * H :], s[2 * H :], b[2 * H :]))

    (x_r, x_z, x_n), (a_r, a_z, a_n) = parts(x, "input"), parts(h, "hidden")
    z = sigmoid(x_z + a_z)
    return (1 - z) * np.tanh(x_n + sigmoid(x_r + a_r) * a_n) + z * h, None


def lstm(p, x, h, c):
    gates = norm(x @ p["input_kernel"], p["input_scale"], p["input_bias"])
    gates += norm(h @ p["hidden_kernel"], p["hidden_scale"], p["hidden_bias"])
    i, f, g, o = np.split(gates, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(norm(c, p["cell_norm"]["scale"], p["cell_norm"]["bias"])), c


def min_lstm(p, x, h, _):
    f, i, n = np.split(x @ p["gates"]["kernel"] + p["gates"]["bias"], 3, axis=-1)
    f, i = sigmoid(f), sigmoid(i)
    return (f * h + i * n) / (f + i), None


CELLS = {
    "gru": (gru, {"norm": "layernorm"}),
    "lstm": (lstm, {"norm": "layernorm"}),
    "minlstm": (min_lstm, {}),
}


def make(kind):
    _, options = CELLS[kind]
    settings = {"d_embed": 5, "d_hidden": H, "n_layer": 2, "dropout": 0.0}
    model = make_model(kind, **(settings | options))
    return model, make_variables(model)


def plain_loop(kind, params, tokens_BT):
    """Return the logits, and the last h of every layer."""
    update, _ = CELLS[kind]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x_TBD, states = params["token_embedding"]["embedding"][tokens_BT.T], []
    for name in ("cell_0", "cell_1"):
        h, c, outputs = np.zeros((B, H)), np.zeros((B, H)), []
        for x in x_TBD:
            h, c = update(params[name], x, h, c)
            outputs.append(h)
        x_TBD = np.stack(outputs)
        states.append(h)
    logits = x_TBD @ params["readout"]["kernel"] + params["readout"]["bias"]
    return logits.swapaxes(0, 1), states


@pytest.mark.parametrize(
    "kind",
    [pytest.param("gru", marks=pytest.mark.slow), "lstm", "minlstm"],
)
@pytest.mark.parametrize("length", [T, 30], ids=["embeddings", "a table"])
def test_the_equations(kind, length):
    """With more tokens than symbols the first layer looks its products up."""
    model, variables = make(kind)
    tokens_BT = np.random.default_rng(3).integers(0, V, (B, length)).astype(np.int32)
    logits_BTV, cache = jax.jit(model.apply)(variables, tokens_BT)
    expected_BTV, states = plain_loop(kind, variables["params"], tokens_BT)
    np.testing.assert_allclose(logits_BTV, expected_BTV, atol=3e-5)
    found = [state if kind == "minlstm" else state[0] for state in cache]
    np.testing.assert_allclose(np.stack(found), np.stack(states), atol=3e-5)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_the_size_of_the_kernels_does_not_matter(kind):
    """Normalised products do not change with a factor of the kernels, but for epsilon."""
    model, variables = make(kind)
    tokens_BT = np.random.default_rng(3).integers(0, V, (B, T)).astype(np.int32)
    run = jax.jit(model.apply)
    logits_BTV, _ = run(variables, tokens_BT)
    larger = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 8 * leaf if "cell" in str(path) and "kernel" in str(path) else leaf,
        variables,
    )
    np.testing.assert_allclose(run(larger, tokens_BT)[0], logits_BTV, atol=2e-3)


def test_gates_of_a_minlstm_that_are_both_shut_stay_finite():
    """f / (f + i) of two gates that are 0 in float32 is the ratio all the same."""
    model, variables = make("minlstm")
    bias = variables["params"]["cell_0"]["gates"]["bias"].at[: 2 * H].set(-300.0)
    variables["params"]["cell_0"]["gates"]["bias"] = bias
    tokens_BT = np.zeros((B, T), np.int32)

    def loss(params):
        return model.apply({"params": params}, tokens_BT)[0].sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert (np.asarray(gradient["cell_0"]["gates"]["bias"]) != 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_what_probes_see_of_a_cells_products(kind):
    model, variables = make(kind)
    tokens_BT = np.random.default_rng(3).integers(0, V, (B, T)).astype(np.int32)
    _, values = layer_values(model, variables, tokens_BT, T, train=False)
    names = [layer.name for layer in find_layers(model)]
    products_BTG = values[names.index("cell_0")].preactivation
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    first = p["token_embedding"]["embedding"][tokens_BT[:, 0]] @ p["cell_0"]["input_kernel"]
    groups = [slice(0, 2 * H), slice(2 * H, 3 * H)] if kind == "gru" else [slice(0, 4 * H)]
    for group in groups:
        scale, bias = p["cell_0"]["input_scale"][group], p["cell_0"]["input_bias"][group]
        # The state before the first time is 0, and so is its normalised product.
        expected = norm(first[:, group], scale, bias) + p["cell_0"]["hidden_bias"][group]
        np.testing.assert_allclose(products_BTG[:, 0, group], expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_plain_cells_have_no_norms(kind):
    config = parse_config({"model": {"kind": kind, "context_length": 4}})
    model = build(config.model, 5, "float32")
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 2), np.int32))
    assert set(shapes["params"]["cell_0"]) == {
        "input_kernel",
        "hidden_kernel",
        "input_bias",
        "hidden_bias",
    }
    assert model.is_plain
    assert not make(kind)[0].is_plain
