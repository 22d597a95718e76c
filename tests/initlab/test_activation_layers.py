"""Statistics of each layer against handwritten forward and backward passes, for every family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.initlab.activations.layers import BINS, find_layers, measure_layers
from charjax.training.step import cross_entropy
from tests.models.families import TRAINED, V, make_model, make_variables

SHAPE = (3, 7)


def batch(seed=0, shape=SHAPE, num_outputs=None):
    rng = np.random.default_rng(seed)
    inputs_BS = rng.integers(0, V, shape).astype(np.int32)
    targets_BT = rng.integers(0, V, (shape[0], num_outputs or shape[1])).astype(np.int32)
    return inputs_BS, targets_BT, np.ones(targets_BT.shape, np.float32)


@functools.partial(jax.jit, static_argnums=0)
def measure(model, variables, inputs_BS, targets_BT, weights_BT):
    return measure_layers(model, variables, inputs_BS, targets_BT, weights_BT, train=True)


@functools.partial(jax.jit, static_argnums=0)
def measure_and_differentiate(model, variables, inputs_BS, targets_BT, weights_BT):
    """Return the results of `measure`, and the loss and gradients of the unmodified model."""
    others = {key: tree for key, tree in variables.items() if key != "params"}
    plain = model.clone(dropout=0.0) if hasattr(model, "dropout") else model

    def alone(params):
        (logits_BTV, _), _ = plain.apply(
            {"params": params, **others},
            inputs_BS,
            num_outputs=targets_BT.shape[1],
            train=True,
            mutable=list(others),
        )
        return logits_loss(logits_BTV, targets_BT)

    measured = measure_layers(model, variables, inputs_BS, targets_BT, weights_BT, train=True)
    return measured, jax.value_and_grad(alone)(variables["params"])


@functools.cache
def measured(name):
    model = make_model(name, **({"n_layer": 1} if name == "transformer" else {}))
    variables = make_variables(model)
    return model, variables, *measure_and_differentiate(model, variables, *batch())


def at(model, name):
    return [layer.name for layer in find_layers(model)].index(name)


def same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-6)


def check_layer(model, stats, name, h, slope, z=None):
    """Compare a layer's row with its values, their gradient, and its product."""
    i = at(model, name)
    h, slope, z = np.float64(h), np.float64(slope), np.float64(h if z is None else z)
    same([stats.mean[i], stats.std[i]], [h.mean(), h.std()])
    same([stats.gradient_mean[i], stats.gradient_std[i]], [slope.mean(), slope.std()])
    same(stats.preactivation_std[i], np.sqrt(np.mean(z**2)))
    for x, low, high, counts in (
        (h, stats.activation_low, stats.activation_high, stats.activation_counts),
        (slope, stats.gradient_low, stats.gradient_high, stats.gradient_counts),
    ):
        edges = max(x.min(), x.mean() - 4 * x.std()), min(x.max(), x.mean() + 4 * x.std())
        same([low[i], high[i]], edges)
        expected, _ = np.histogram(np.clip(x, *edges), BINS, edges)
        assert counts[i].sum() == x.size
        # Rounding moves what lies on an edge by one bin.
        assert np.abs(np.cumsum(counts[i]) - np.cumsum(expected)).max() <= 2


def logits_loss(logits_BTV, targets_BT):
    return jnp.mean(cross_entropy(logits_BTV, targets_BT))


# These are computed by hand below.
BY_HAND = ("mlp", "mlp-batch_norm", "wavenet", "rnn")
# A probe of a mixture is refused (tests/models/test_mixture.py).
PROBED = [name for name in TRAINED if not name.endswith(("-counts", "-words"))]


@pytest.mark.parametrize("name", [name for name in PROBED if name not in BY_HAND])
@pytest.mark.quick("gru")
def test_loss_and_slopes_are_those_of_the_model_left_alone(name):
    """Check that gradients at the layers add up to those of the parameters below them."""
    model, variables, (loss, stats, parameters), (expected, gradients) = measured(name)
    params = variables["params"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    layers = find_layers(model)
    assert np.isfinite(np.concatenate([np.ravel(column) for column in stats])).all()
    flat = {
        "/".join(part.key for part in path): (np.asarray(leaf), np.asarray(slope))
        for (path, leaf), slope in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(gradients), strict=True
        )
    }
    for i, layer in enumerate(layers):
        if layer.kernel is None:
            assert np.isnan(parameters.weight_std[i])
            continue
        weights, slope = flat[layer.kernel]
        same(parameters.weight_std[i], weights.std())
        same(parameters.gradient_std[i], slope.std())
        same(parameters.gradient_norm[i], np.linalg.norm(slope))
        same(parameters.gradient_to_data[i], slope.std() / weights.std())
        # A vector that is looked up has the sum of the gradients of its occurrences.
        tied = layer.role == "embedding" and getattr(model, "tie_embeddings", False)
        is_table = layer.role == "embedding" and (not tied or layer.name == "position_embedding")
        bias = layer.name + "/bias"
        if is_table or (layer.activation == "linear" and bias in flat):
            summed = slope if is_table else flat[bias][1]
            count = int(stats.activation_counts[i].sum())
            np.testing.assert_allclose(
                float(stats.gradient_mean[i]) * count, summed.sum(), rtol=1e-3, atol=1e-5
            )


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.quick("batch")
@pytest.mark.slow
def test_mlp_equals_a_pass_by_hand(norm):
    model = make_model("mlp", norm=norm)
    variables = make_variables(model)
    inputs_BS, targets_BT, weights_BT = batch(shape=(64, 4), num_outputs=1)
    _, stats, _ = measure(model, variables, inputs_BS, targets_BT, weights_BT)
    params = variables["params"]

    def layers(perturbations):
        h = params["token_embedding"]["embedding"][inputs_BS].reshape(64, -1) + perturbations[0]
        values, products = [h], [h]
        for i in range(2):
            z = h @ params[f"hidden_{i}"]["kernel"]
            if norm == "batch":
                unit = (z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-5)
                z = unit * params[f"norm_{i}"]["scale"] + params[f"norm_{i}"]["bias"]
            else:
                z += params[f"hidden_{i}"]["bias"]
            h = jnp.tanh(z) + perturbations[i + 1]
            values.append(h)
            products.append(z)
        logits = h @ params["readout"]["kernel"] + params["readout"]["bias"] + perturbations[3]
        return logits_loss(logits[:, None], targets_BT), ([*values, logits], [*products, logits])

    perturbations = [jnp.zeros((64, width)) for width in (16, 16, 8, V)]
    gradients, (values, products) = jax.jit(jax.grad(layers, has_aux=True))(perturbations)
    names = ["token_embedding", "hidden_0", "hidden_1", "readout"]
    assert [layer.name for layer in find_layers(model)] == names
    for name, h, slope, z in zip(names, values, gradients, products, strict=True):
        check_layer(model, stats, name, h, slope, z)
        if name.startswith("hidden"):
            same(stats.saturated[at(model, name)], np.mean(np.abs(h) > 0.97))
            assert 0 < stats.saturated[at(model, name)] < 0.5


@pytest.mark.slow
def test_wavenet_place_read_in_two_pairs_has_the_slopes_of_both():
    model = make_model("wavenet", context_length=4)
    variables = make_variables(model)
    params = variables["params"]
    inputs_BS, targets_BT, weights_BT = batch(shape=(3, 8), num_outputs=5)
    _, stats, _ = measure(model, variables, inputs_BS, targets_BT, weights_BT)

    def layer(push):
        x = params["token_embedding"]["embedding"][inputs_BS]
        x = jnp.concatenate([x[:, :-1], x[:, 1:]], -1)
        z = x @ params["level_0"]["kernel"] + params["level_0"]["bias"]
        h = jnp.tanh(z) + push
        y = jnp.concatenate([h[:, :-2], h[:, 2:]], -1)
        y = jnp.tanh(y @ params["level_1"]["kernel"] + params["level_1"]["bias"])
        logits = y @ params["readout"]["kernel"] + params["readout"]["bias"]
        return logits_loss(logits, targets_BT), (h, z)

    slope, (h, z) = jax.jit(jax.grad(layer, has_aux=True))(jnp.zeros((3, 7, 8)))
    check_layer(model, stats, "level_0", h, slope, z)


@pytest.mark.slow
def test_recurrent_gradient_holds_what_later_times_do_with_the_state():
    model = make_model("rnn", activation="relu")
    variables = make_variables(model)
    params = variables["params"]
    inputs_BS, targets_BT, weights_BT = batch()
    _, stats, _ = measure(model, variables, inputs_BS, targets_BT, weights_BT)

    def unrolled(pushes_TBH):
        cell, h = params["cell_0"], jnp.zeros((3, 8))
        states, products = [], []
        for t, push_BH in enumerate(pushes_TBH):
            x = params["token_embedding"]["embedding"][inputs_BS[:, t]]
            z = x @ cell["input_kernel"] + h @ cell["hidden_kernel"]
            z += cell["input_bias"] + cell["hidden_bias"]
            h = jax.nn.relu(z) + push_BH
            states.append(h)
            products.append(z)
        h_BTH = jnp.stack(states, 1)
        logits = h_BTH @ params["readout"]["kernel"] + params["readout"]["bias"]
        return logits_loss(logits, targets_BT), (h_BTH, jnp.stack(products, 1))

    slope, (h, z) = jax.jit(jax.grad(unrolled, has_aux=True))(jnp.zeros((7, 3, 8)))
    check_layer(model, stats, "cell_0", h, slope, z)
    i = at(model, "cell_0")
    same(stats.dead[i], (np.asarray(h) <= 0).all(axis=(0, 1)).mean())
    assert stats.saturated[i] == 0.0


def test_transformer_layers_are_in_the_order_of_computation():
    names = [layer.name for layer in find_layers(make_model("transformer", n_layer=1))]
    block = ["attention/qkv", "attention/out", "mlp/up", "mlp/down"]
    assert names == [
        "token_embedding",
        "position_embedding",
        "stream",
        *(f"block_0/{name}" for name in block),
        "block_0",
        "final_norm",
        "readout",
    ]


@pytest.mark.slow
def test_stream_is_the_sum_of_what_is_added_to_it():
    """Check that means add up exactly; variances would only for uncorrelated parts."""
    model, _, (_, stats, _), _ = measured("transformer")
    mean = {layer.name: stats.mean[i] for i, layer in enumerate(find_layers(model))}
    same(mean["token_embedding"] + mean["position_embedding"], mean["stream"])
    added = mean["block_0/attention/out"] + mean["block_0/mlp/down"]
    same(mean["stream"] + added, mean["block_0"])


@pytest.mark.parametrize(
    "residual", ["pre_norm", "deepnorm", "rezero", "layerscale", "plain", "fixup"]
)
@pytest.mark.quick("deepnorm", "layerscale")
def test_every_residual_form_has_its_layers(residual):
    model = make_model("transformer", residual=residual)
    shapes = jax.eval_shape(
        functools.partial(measure_layers, model, train=False),
        make_variables(model),
        *batch(num_outputs=1),
    )
    layers = find_layers(model)
    assert shapes[1].activation_counts.shape == (len(layers), BINS)
    assert ("final_norm" in [x.name for x in layers]) == (residual in ("pre_norm", "layerscale"))


@pytest.mark.slow
def test_vmapped_equals_one_at_a_time():
    model = make_model("mlp", norm="batch")
    variables = make_variables(model)
    stacked = jax.tree.map(lambda x: np.stack([x, 0.7 * x]), variables)
    args = batch(shape=(64, 4), num_outputs=1)
    run = lambda v: measure(model, v, *args)  # noqa: E731
    together = jax.vmap(run)(stacked)
    for k in range(2):
        alone = run(jax.tree.map(lambda x, k=k: x[k], stacked))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            close = 1 if a.dtype == jnp.int32 else 1e-5
            np.testing.assert_allclose(a[k], b, rtol=1e-4, atol=close)


def test_dead_and_saturated_units_of_a_known_net():
    """Saturate 4 of 16 units at tanh(3) = 0.995, 4 for half of the batch, and 8 never."""
    model = make_model("mlp", hidden=(16,), context_length=1)
    variables = jax.tree.map(jnp.zeros_like, make_variables(model))
    table_VE = jnp.zeros((V, 4)).at[1, 0].set(1.0)
    kernel = jnp.zeros((4, 16)).at[0, 4:8].set(3.0)
    bias = jnp.zeros(16).at[:4].set(3.0)
    params = variables["params"] | {
        "token_embedding": {"embedding": table_VE},
        "hidden_0": {"kernel": kernel, "bias": bias},
    }
    inputs_BS = np.array([[0], [1], [0], [1]], np.int32)
    weights_BT = np.ones((4, 1), np.float32)
    loss, stats, parameters = measure(
        model, {"params": params}, inputs_BS, np.zeros_like(inputs_BS), weights_BT
    )
    i = at(model, "hidden_0")
    same([stats.dead[i], stats.saturated[i]], [0.25, 0.375])
    same(loss, np.log(V))
    readout = at(model, "readout")
    same([stats.std[readout], stats.saturated[readout], stats.dead[readout]], 0.0)
    assert stats.activation_counts[readout, 0] == 4 * V
    assert parameters.gradient_to_data[readout] == np.inf


@pytest.mark.parametrize("name", ["transformer", "gru"])
@pytest.mark.slow
def test_padding_does_not_count(name):
    """Ignore padding, and count every other position once."""
    model, variables, *_ = measured(name)
    inputs_BS, targets_BT, weights_BT = batch()
    weights_BT[:, 5:] = 0.0
    runs = []
    for token in (0, 5):
        inputs_BS[:, 5:] = targets_BT[:, 5:] = token
        args = (inputs_BS, targets_BT, weights_BT)
        runs.append(measure_and_differentiate(model, variables, *args)[0])
    for a, b in zip(*map(jax.tree.leaves, runs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert runs[0][1].activation_counts[-1].sum() == 3 * 5 * V


def test_a_counting_family_has_no_layers():
    with pytest.raises(ValueError, match="no layers"):
        find_layers(make_model("ngram"))
