"""Predictions of the theory for initialised networks, against measurements."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import theory
from charjax.config import InitConfig
from charjax.init import find_scheme, initialise
from charjax.initlab.activations.layers import find_layers, layer_values
from charjax.initlab.predictions import predict_layers, predict_loss, weight_moments
from charjax.training.step import cross_entropy
from tests.models.families import V, make_model, make_variables


@functools.partial(jax.jit, static_argnums=0)
def look(model, variables, inputs_BS, targets_BT):
    logits_BTV, layers = layer_values(model, variables, inputs_BS, 8, train=True)
    loss = jnp.mean(cross_entropy(logits_BTV, targets_BT))
    measured = [
        (
            jnp.sqrt(jnp.mean(z_BPD**2)),
            jnp.std(h_BPD),
            jnp.mean(h_BPD**2),
            jnp.mean(jnp.abs(h_BPD) > 0.97),
        )
        for h_BPD, z_BPD in layers
    ]
    return loss, measured, weight_moments(model, variables["params"])


def drawn(model, scheme, seed=0):
    """Return variables of a scheme, and a batch of 64 rows."""
    variables = make_variables(model)
    depth = getattr(model, "n_layer", 0)
    params = initialise(scheme, variables["params"], model.roles, jax.random.key(seed), depth)
    rng = np.random.default_rng(seed)
    inputs_BS = rng.integers(0, V, (64, 8 + model.lookback)).astype(np.int32)
    targets_BT = rng.integers(0, V, (64, 8)).astype(np.int32)
    return variables | {"params": params.params}, inputs_BS, targets_BT


def predicted(name, scheme, **settings):
    model = make_model(name, **settings)
    scheme = find_scheme(InitConfig(**scheme))
    variables, inputs_BS, targets_BT = drawn(model, scheme)
    loss, measured, moments = look(model, variables, inputs_BS, targets_BT)
    squares = [float(row[2]) for row in measured]
    prediction = predict_layers(model, moments, squares, times=8)
    repeats = np.mean(inputs_BS[:, -8:] == targets_BT)
    expected_loss = predict_loss(model, scheme, moments, prediction, squares, repeats)
    return model, measured, prediction, float(loss), expected_loss


CASES = {
    "mlp": (
        {"scheme": "lecun_normal", "gain": 5 / 3},
        {"d_embed": 32, "hidden": (256, 256, 256)},
        {"hidden_0", "hidden_1", "hidden_2", "readout"},
    ),
    "mlp-batch_norm": (
        {"scheme": "lecun_normal"},
        {"d_embed": 32, "hidden": (256,)},
        {"hidden_0", "readout"},
    ),
    "wavenet": (
        {"scheme": "pytorch"},
        {"d_embed": 64, "d_hidden": 256},
        {"level_0", "level_1", "level_2", "readout"},
    ),
    "rnn": (
        {"scheme": "normal", "std": 0.1},
        {"d_embed": 32, "d_hidden": 256, "activation": "relu"},
        {"cell_0", "readout"},
    ),
    "transformer": (
        {"scheme": "gpt2"},
        {"d_model": 128, "n_head": 4, "n_layer": 1, "activation": "gelu_tanh"},
        {f"block_0/{name}" for name in ("attention/qkv", "mlp/up", "mlp/down")}
        | {"final_norm", "readout"},
    ),
    "bow": ({"scheme": "pytorch"}, {"d_embed": 128}, {"readout"}),
    "bigram": ({"scheme": "pytorch"}, {}, {"logits"}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.quick("rnn")
def test_theory_meets_a_wide_network(name):
    scheme, settings, known = CASES[name]
    model, measured, prediction, loss, expected_loss = predicted(name, scheme, **settings)
    for i, layer in enumerate(find_layers(model)):
        if layer.name not in known:
            assert math.isnan(prediction.preactivation_std[i]), layer.name
            continue
        rms, std, _, saturated = measured[i]
        np.testing.assert_allclose(rms, prediction.preactivation_std[i], rtol=0.06)
        np.testing.assert_allclose(std, prediction.std[i], rtol=0.06)
        if layer.activation == "tanh":
            np.testing.assert_allclose(saturated, prediction.saturated[i], atol=0.03)
    np.testing.assert_allclose(loss, expected_loss, rtol=0.03)


def test_stack_is_that_of_propagate():
    """Predict from variances alone, without drawing a network."""
    model = make_model("mlp", hidden=(8, 8, 8))
    moments = jax.jit(weight_moments, static_argnums=0)(model, make_variables(model)["params"])
    ones = [1.5] * 5
    prediction = predict_layers(model, moments._replace(weights=ones, biases=[0.2] * 5), [0.7] * 5)
    layers = theory.propagate(3, theory.find_activation("tanh"), 1.5, 0.2, 0.7)
    np.testing.assert_allclose(prediction.preactivation_std[1:4] ** 2, layers.preactivation_D)
    np.testing.assert_allclose(prediction.std[1:4], layers.std_D)


@pytest.mark.parametrize("name", ["bigram", "gru", "transformer"])
def test_moments_are_those_of_the_parameters(name):
    """Compare every kernel, by name, also under vmap, as in a sweep."""
    model = make_model(name)
    variables = make_variables(model)
    stacked = jax.tree.map(lambda x: np.stack([x, 2 * x]), variables["params"])
    found = jax.jit(jax.vmap(lambda p: weight_moments(model, p)))(stacked)
    for i, layer in enumerate(find_layers(model)):
        if layer.kernel is None:
            assert np.isnan(found.weights[:, i]).all()
            continue
        leaf = variables["params"]
        for part in layer.kernel.split("/"):
            leaf = leaf[part]
        tied = layer.name == "readout" and layer.kernel.endswith("embedding")
        fan_in = 1 if layer.role == "embedding" else leaf.shape[1 if tied else 0]
        expected = fan_in * np.mean(np.square(leaf))
        np.testing.assert_allclose(found.weights[:, i], [expected, 4 * expected], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "scheme", "settings"),
    [
        ("gru", "default", {}),
        ("mlp", "unigram_readout", {}),
        ("transformer", "deepnorm", {"residual": "deepnorm"}),
        ("transformer", "rezero", {"residual": "rezero"}),
    ],
)
def test_where_there_is_no_theory_there_is_no_loss(name, scheme, settings):
    model = make_model(name, **settings)
    moments = weight_moments(model, make_variables(model)["params"])
    ones = np.ones(len(find_layers(model)))
    prediction = predict_layers(model, moments, ones)
    found = find_scheme(InitConfig(scheme=scheme))
    assert math.isnan(predict_loss(model, found, moments, prediction, ones, 0.0))


@pytest.mark.parametrize("shift", [-2.0, 0.5, 6.0])
@pytest.mark.parametrize("std", [0.0, 0.3, 2.0])
def test_loss_with_one_logit_shifted(std, shift):
    """Compare with a sample, and exactly for constant logits."""
    size = 20
    exact = math.log(size - 1 + math.exp(shift)) - 0.25 * shift
    expected = exact
    close = 1e-12
    if std:
        z = std * np.random.default_rng(0).standard_normal((200_000, size))
        z[:, 0] += shift
        expected = np.mean(np.log(np.exp(z).sum(axis=1))) - 0.25 * shift
        close = 0.01
    np.testing.assert_allclose(
        theory.initial_loss(std, size, shift, 0.25), expected, rtol=0, atol=close
    )
