"""Each probe against a plain computation, or a known case."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from charjax.config import InitConfig
from charjax.data.batches import Batch
from charjax.init import find_scheme, initialise
from charjax.initlab.activations.layers import find_layers, layer_values
from charjax.initlab.predictions import predict_layers, weight_moments
from charjax.initlab.probes.attention import (
    attention_entropy,
    attention_inputs,
    predict_entropy,
)
from charjax.initlab.probes.depth import (
    effective_rank,
    input_correlation,
    predict_correlation,
    token_cosine,
)
from charjax.initlab.probes.hessian import extreme_eigenvalues, hessian_extremes
from charjax.initlab.probes.jacobian import embedding_jacobian, spectrum
from charjax.training.state import Scales, TrainState, zero_counters
from charjax.training.step import cross_entropy
from tests.models.families import V, make_model, make_variables


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, V, shape).astype(np.int32)


# Depth


def test_correlation_and_cosine_are_means_over_pairs():
    rng = np.random.default_rng(0)
    z_BPD = rng.normal(size=(5, 7, 6)).astype(np.float32)
    weights_BT = np.ones((5, 4), np.float32)
    weights_BT[:, 3:] = 0.0

    def cosines(vectors):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.mean([a @ b for i, a in enumerate(unit) for b in unit[:i]])

    # The last four places are those of targets, of which the last is padding.
    np.testing.assert_allclose(
        input_correlation(z_BPD, weights_BT), cosines(z_BPD[:, 5]), atol=1e-6
    )
    expected = np.mean([cosines(row[:6]) for row in z_BPD])
    np.testing.assert_allclose(token_cosine(z_BPD, weights_BT), expected, atol=1e-6)
    same = np.broadcast_to(z_BPD[:1, :1], z_BPD.shape)
    np.testing.assert_allclose(token_cosine(same, weights_BT), 1.0, rtol=1e-5)
    assert np.isnan(token_cosine(z_BPD[:, :1], weights_BT[:, :1]))


def test_effective_rank_of_known_matrices():
    eye = np.eye(6)
    assert effective_rank(eye) == pytest.approx(6)
    assert effective_rank(np.outer(eye[0], eye[1])) == pytest.approx(1)
    shares = np.array([0.5, 0.25, 0.25])
    assert effective_rank(np.diag(3 * shares)) == pytest.approx(math.exp(1.5 * math.log(2)))
    assert math.isnan(effective_rank(np.zeros((3, 3))))


@pytest.mark.slow
def test_correlation_of_a_wide_stack_follows_the_map():
    model = make_model("mlp", d_embed=32, hidden=(512, 512, 512), context_length=4)
    variables = make_variables(model)
    scheme = find_scheme(InitConfig(scheme="critical", sigma_w=1.3, sigma_b=0.3))
    variables = {
        "params": initialise(scheme, variables["params"], model.roles, jax.random.key(0), 0).params
    }
    inputs_BS, ones = tokens(64, 4), np.ones((64, 1), np.float32)
    _, layers = jax.jit(lambda v: layer_values(model, v, inputs_BS, 1, train=True))(variables)
    measured = [float(input_correlation(row.preactivation, ones)) for row in layers]
    squares = [float(np.mean(np.square(row.value))) for row in layers]
    moments = weight_moments(model, variables["params"])
    prediction = predict_layers(model, moments, squares)
    expected = predict_correlation(model, moments, prediction, measured)
    assert math.isnan(expected[0])
    # The readout's 29 logits are too few to be wide.
    np.testing.assert_allclose(measured[1:4], expected[1:4], atol=0.02)
    # Biases make inputs alike: the numbers move by more than the tolerance forgives.
    assert expected[3] - measured[0] > 0.2


# Attention


def test_attention_weights_are_those_the_model_uses():
    """Combine them with the values and the last product to the block's output."""
    model = make_model("transformer", n_layer=1, positions="rotary")
    variables = make_variables(model)
    inputs_BS = tokens(2, 9)
    look = jax.jit(lambda v: layer_values(model, v, inputs_BS, 9, train=False))
    _, layers = look(variables)
    by_name = {layer.name: row for layer, row in zip(find_layers(model), layers, strict=True)}
    qkv_BTE = by_name["block_0/attention/qkv"].value
    p_BHTS = model.attention_weights(qkv_BTE)
    np.testing.assert_allclose(p_BHTS.sum(-1), 1.0, rtol=1e-5)
    v_BTHK = qkv_BTE[..., 16:].reshape(2, 9, 2, 4)
    o_BTD = jnp.einsum("bhts,bshk->bthk", p_BHTS, v_BTHK).reshape(2, 9, 8)
    kernel = variables["params"]["block_0"]["attention"]["out"]["kernel"]
    np.testing.assert_allclose(
        o_BTD @ kernel, by_name["block_0/attention/out"].value, rtol=1e-4, atol=1e-5
    )
    entropy_H = attention_entropy(model, qkv_BTE, jnp.ones((2, 9)))
    plain = -np.sum(np.where(p_BHTS > 0, p_BHTS * np.log(np.maximum(p_BHTS, 1e-30)), 0), -1)
    np.testing.assert_allclose(entropy_H, plain.mean(axis=(0, 2)), rtol=1e-5)


@pytest.mark.slow
def test_attention_weights_of_shared_heads_that_are_normalised_capped_and_windowed():
    """Combine them with the values of their group to the block's output, as the model does."""
    model = make_model("transformer-gated", n_layer=1, d_model=16)
    variables = make_variables(model)
    inputs_BS = tokens(2, 9)
    look = jax.jit(lambda v: layer_values(model, v, inputs_BS, 9, train=False))
    _, rows = look(variables)
    layers = find_layers(model)
    outputs = [row.value for row in rows]
    by_name = {layer.name: value for layer, value in zip(layers, outputs, strict=True)}
    ((qkv_BTE, params),) = attention_inputs(layers, outputs, variables["params"])
    assert qkv_BTE.shape == (2, 9, 16 + 2 * 2 * 4)
    p_BHTS = model.attention_weights(qkv_BTE, params)
    np.testing.assert_allclose(p_BHTS.sum(-1), 1.0, rtol=1e-5)
    assert (np.count_nonzero(p_BHTS, axis=-1) <= 5).all()
    v_BTJK = qkv_BTE[..., 24:].reshape(2, 9, 2, 4)
    v_BTHK = jnp.repeat(v_BTJK, 2, axis=2)
    o_BTD = jnp.einsum("bhts,bshk->bthk", p_BHTS, v_BTHK).reshape(2, 9, 16)
    kernel = variables["params"]["block_0"]["attention"]["out"]["kernel"]
    np.testing.assert_allclose(
        o_BTD @ kernel, by_name["block_0/attention/out"], rtol=1e-4, atol=1e-5
    )
    prediction = predict_layers(
        model, weight_moments(model, variables["params"]), np.ones(len(layers))
    )
    expected = predict_entropy(model, prediction, np.ones((2, 9), np.float32), 9)
    # No theory; and weights that are equal are of five keys at most.
    assert np.isnan(expected.predicted_L).all()
    np.testing.assert_allclose(expected.uniform, np.mean(np.log([1, 2, 3, 4, 5, 5, 5, 5, 5])))
    assert math.isnan(prediction.preactivation_std[-1])


def test_attention_without_scores_is_uniform():
    model = make_model("transformer", n_layer=1)
    weights_BT = np.ones((2, 9), np.float32)
    entropy_H = attention_entropy(model, jnp.zeros((2, 9, 24)), weights_BT)
    uniform = np.mean(np.log(np.arange(1, 10)))
    np.testing.assert_allclose(entropy_H, uniform, rtol=1e-6)
    params = jax.tree.map(jnp.zeros_like, make_variables(model))["params"]
    prediction = predict_layers(model, weight_moments(model, params), np.ones(9))
    expected = predict_entropy(model, prediction, weights_BT, 9)
    np.testing.assert_allclose([expected.uniform, *expected.predicted_L], uniform)


# Jacobian


def test_jacobian_of_an_mlp_by_hand():
    model = make_model("mlp")
    variables = make_variables(model)
    params, inputs_BS = variables["params"], tokens(3, 4)

    def hidden(x):
        for name in ("hidden_0", "hidden_1"):
            x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
        return x

    expected = jax.jacrev(hidden)(params["token_embedding"]["embedding"][inputs_BS[0]].ravel())
    found = jax.jit(lambda v: embedding_jacobian(model, v, inputs_BS))(variables)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gru", "transformer-other"])
@pytest.mark.quick("gru")
def test_jacobian_along_a_direction_is_a_finite_difference(name):
    """Move a table of untied embeddings; all symbols of the context are different."""
    model = make_model(name)
    variables = make_variables(model)
    inputs_BS = np.arange(1, 7, dtype=np.int32)[None]
    table = variables["params"]["token_embedding"]["embedding"]
    direction = np.random.default_rng(1).normal(size=(6, table.shape[1])).astype(np.float32)

    @jax.jit
    def output(size):
        moved = table.at[inputs_BS[0]].add(size * direction)
        params = variables["params"] | {"token_embedding": {"embedding": moved}}
        _, layers = layer_values(model, {"params": params}, inputs_BS, 1, train=True)
        return layers[-2].value[0, -1]

    expected = (output(1e-2) - output(-1e-2)) / 2e-2
    found = jax.jit(lambda v: embedding_jacobian(model, v, inputs_BS))(variables)
    np.testing.assert_allclose(found @ direction.ravel(), expected, rtol=2e-2, atol=2e-3)


def test_spectrum_of_a_known_matrix():
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))
    found = spectrum(turned[:3].T @ np.diag([1.0, 2.0, 4.0]))
    expected = (7 / 3, math.sqrt(14) / 3, 4, 1, 4, 3, 7, np.var([1, 4, 16]) / 49)
    np.testing.assert_allclose(list(vars(found).values()), expected)
    flat = spectrum(turned[:2].T @ np.diag([3.0, 3.0]) @ turned[:2])
    assert (flat.rank, flat.smallest, flat.condition) == (2, 0.0, math.inf)


def test_a_bigram_has_nothing_between():
    with pytest.raises(ValueError, match="nothing between"):
        embedding_jacobian(make_model("bigram"), {}, tokens(1, 1))


# Hessian


@pytest.mark.parametrize("spread", ["even", "clustered", "negative"])
def test_the_ends_of_a_known_spectrum_are_found(spread):
    rng = np.random.default_rng(0)
    values = {
        "even": np.linspace(-3.0, 5.0, 200),
        "clustered": np.r_[np.full(150, 1.0), np.linspace(-0.2, 0.9, 48), 3.0, 3.001],
        "negative": -np.geomspace(0.01, 10.0, 200),
    }[spread]
    turned, _ = np.linalg.qr(rng.normal(size=(200, 200)))
    matrix = jnp.asarray(turned @ np.diag(values) @ turned.T, jnp.float32)
    start = jnp.asarray(rng.normal(size=200), jnp.float32)
    found = extreme_eigenvalues(lambda v: matrix @ v, start, 1e-4)
    size = np.abs(values).max()
    np.testing.assert_allclose(found.largest, values.max(), atol=2e-3 * size)
    assert np.abs(values - found.largest).min() <= found.residual + 1e-4 * size
    np.testing.assert_allclose(found.smallest, values.min(), atol=2e-3 * size)
    assert found == extreme_eigenvalues(lambda v: matrix @ v, start, 1e-4)


def test_a_multiple_of_the_identity_has_one_eigenvalue():
    found = extreme_eigenvalues(lambda v: 2.0 * v, jnp.ones(10))
    assert (found.largest, found.smallest) == (pytest.approx(2), pytest.approx(2))
    assert found.stable_rate == pytest.approx(1.0)


def test_zeros_and_nan_have_an_answer():
    zero = extreme_eigenvalues(jnp.zeros_like, jnp.ones(10))
    assert (zero.largest, zero.smallest, zero.stable_rate) == (0, 0, math.inf)
    assert math.isnan(extreme_eigenvalues(lambda v: v * jnp.nan, jnp.ones(10)).largest)


def test_largest_eigenvalue_is_that_of_the_dense_hessian():
    """Use the function of gradient descent's parameters, multiplied by m sqrt(f)."""
    model = make_model("mlp", hidden=(4,), d_embed=2, context_length=2)
    params = make_variables(model)["params"]
    inputs_BS, targets_BT = tokens(16, 2), tokens(16, 1, seed=1)
    factors = jax.tree.map(lambda p: jnp.float32(0.25), params)
    factors["readout"]["kernel"] = jnp.float32(4.0)
    multipliers = jax.tree.map(lambda p: jnp.float32(3.0), params)
    sizes = jax.tree.map(lambda f, m: m * jnp.sqrt(f), factors, multipliers)
    divided = jax.tree.map(lambda p: p / 3.0, params)
    state = TrainState(divided, (), {}, (), zero_counters(), Scales(factors, multipliers))
    flat, unravel = ravel_pytree(jax.tree.map(lambda p, s: p / s, params, sizes))

    @jax.jit
    @jax.hessian
    def dense(x):
        moved = jax.tree.map(jnp.multiply, unravel(x), sizes)
        logits, _ = model.apply({"params": moved}, inputs_BS, num_outputs=1)
        return jnp.mean(cross_entropy(logits, targets_BT))

    expected = np.linalg.eigvalsh(np.asarray(dense(flat), np.float64))
    batch = Batch(inputs_BS, targets_BT, np.ones((16, 1), np.float32), np.array(True))
    found = hessian_extremes(model, state, batch, jax.random.key(0))
    np.testing.assert_allclose(found.largest, expected[-1], rtol=1e-3)
    np.testing.assert_allclose(found.stable_rate, 2 / expected[-1], rtol=1e-3)
