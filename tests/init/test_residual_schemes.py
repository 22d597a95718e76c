"""Fixup and zero outputs, and muP with zero queries: what holds at the first step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import models
from charjax.config import load_config, parse_config
from charjax.init import initialise, scheme_for
from charjax.initlab.sweeps.axes import Axes
from charjax.initlab.sweeps.grid import make_groups
from charjax.training.state import create_state, variables_of

V, T, D = 13, 7, 16


@functools.cache
def made(scheme, n_layer=2, optim="adamw", **settings):
    """Return a model, its configuration and its state at step 0."""
    section = {"kind": "transformer", "context_length": T, "n_head": 2, "d_model": D}
    section |= {"n_layer": n_layer, **settings}
    config = parse_config({"model": section, "init": {"scheme": scheme}, "optim": {"kind": optim}})
    model = models.build(config.model, V, jnp.float32)
    return model, config, create_state(model, config, jax.random.key(0))


def logits_of(model, state):
    tokens = np.random.default_rng(0).integers(0, V, (3, T))
    return tokens, np.asarray(model.apply(variables_of(state), tokens)[0])


@pytest.mark.parametrize(("scheme", "residual"), [("fixup", "fixup"), ("zero_output", "pre_norm")])
@pytest.mark.quick("fixup-*")
def test_every_block_is_the_identity(scheme, residual):
    model, _, state = made(scheme, residual=residual)
    tokens, logits = logits_of(model, state)
    p = jax.tree.map(np.asarray, state.params)
    table = p["token_embedding"]["embedding"]
    x = table[tokens] * (np.sqrt(D) if scheme == "fixup" else 1.0)
    x = x + p["position_embedding"]["embedding"]
    if residual == "pre_norm":
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(logits, x @ table.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("scheme", "residual"), [("fixup", "fixup"), ("zero_output", "pre_norm")])
@pytest.mark.quick("zero_output-*")
def test_a_readout_of_its_own_begins_at_zero(scheme, residual):
    model, _, state = made(scheme, residual=residual, tie_embeddings=False)
    np.testing.assert_array_equal(logits_of(model, state)[1], 0.0)


def test_fixup_is_smaller_by_depth():
    """L^(-1/(2m - 2)) with L = 2 n_layer branches of m = 4 and 2 layers."""
    _, config, state = made("fixup", residual="fixup")
    model = models.build(config.model, V, jnp.float32)
    scheme, key = scheme_for(config), jax.random.key(1)
    one, many = (
        initialise(scheme, state.params, model.roles, key, depth).params["block_0"]
        for depth in (1, 32)
    )
    for path, power in ((("attention", "qkv"), -1 / 6), (("mlp", "up"), -1 / 2)):
        deep, shallow = (tree[path[0]][path[1]]["kernel"] for tree in (many, one))
        np.testing.assert_allclose(deep, 32**power * shallow, rtol=1e-5)


def test_fixup_has_one_number_before_each_layer_and_one_per_branch():
    params = made("fixup", n_layer=1, residual="fixup")[-1].params
    leaves = jax.tree_util.tree_leaves_with_path(params)
    numbers = {
        "/".join(part.key for part in path): float(leaf) for path, leaf in leaves if not leaf.ndim
    }
    shifts = (
        "block_0/shift_1",
        "block_0/shift_2",
        "block_0/mlp/shift_up",
        "block_0/mlp/shift_down",
    )
    expected = {f"{name}/bias": 0.0 for name in (*shifts, "final_shift")}
    assert numbers == expected | {"block_0/residual_gain_1": 1.0, "block_0/residual_gain_2": 1.0}


@pytest.mark.parametrize(("kind", "factor"), [("sgd", 0.1), ("adamw", 1.0)])
def test_fixup_trains_its_numbers_slowly_with_sgd(kind, factor):
    state = made("fixup", optim=kind, residual="fixup")[-1]
    if state.scales == ():
        assert factor == 1.0
        return
    block = state.scales.learning_rates["block_1"]
    assert block["residual_gain_2"] == block["mlp"]["shift_up"]["bias"] == np.float32(factor)
    assert block["mlp"]["up"]["kernel"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "least", "most"), [("mlp", 0.7, 1.4), ("attention", 16 ** (2 / 3) - 1, 16)]
)
@pytest.mark.longest
def test_the_first_step_of_fixup_by_depth(layer, least, most):
    """A step of SGD on all branches moves the logits by as much at 32 blocks as at 2.

    That holds where a branch is a product of its m layers: of an MLP. Of attention only values and
    outputs are one; with the factor of m = 4 each of L branches moves by L^(-1/3), and the scores,
    which are smaller too, make all positions more alike.
    """
    tokens = np.random.default_rng(0).integers(0, V, (8, T))
    moves = []
    for n_layer in (2, 32):
        model, _, state = made("fixup", n_layer=n_layer, residual="fixup")

        def logits(params, model=model):
            return model.apply({"params": params}, tokens)[0]

        def loss(params, logits=logits):
            logs = jax.nn.log_softmax(logits(params)[:, :-1])
            return -jnp.mean(jnp.take_along_axis(logs, tokens[:, 1:, None], -1))

        params, gradients = state.params, jax.jit(jax.grad(loss))(state.params)
        stepped = {
            name: tree
            | {layer: jax.tree.map(lambda p, g: p - 1e-3 * g, tree[layer], gradients[name][layer])}
            for name, tree in params.items()
            if name.startswith("block")
        }
        moves.append(float(jnp.linalg.norm(logits(params | stepped) - logits(params))))
    assert least < moves[1] / moves[0] < most


@pytest.mark.parametrize("n_kv_head", [None, 1])
@pytest.mark.quick("None")
def test_zero_queries_attend_to_all_positions_alike(n_kv_head):
    model, _, state = made("mup_zero_query", n_kv_head=n_kv_head)
    attention = state.params["block_1"]["attention"]
    if n_kv_head:
        query, others = attention["query"]["kernel"], attention["key_value"]["kernel"]
    else:
        query, others = jnp.split(attention["qkv"]["kernel"], [D], axis=1)
    assert not query.any()
    assert float(jnp.std(others)) == pytest.approx(D**-0.5, rel=0.1)
    rows = np.random.default_rng(0).normal(size=(1, T, D))
    qkv = np.concatenate([rows @ query, rows @ others], axis=-1).astype(np.float32)
    weights = np.asarray(model.attention_weights(jnp.asarray(qkv)))
    expected = np.tri(T) / np.arange(1, T + 1)[:, None]
    np.testing.assert_allclose(weights, np.broadcast_to(expected, weights.shape), rtol=1e-5)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "muon"])
@pytest.mark.quick("adamw")
def test_zero_queries_have_the_factors_of_mup(kind):
    ours, theirs = (made(scheme, optim=kind)[-1] for scheme in ("mup_zero_query", "mup"))
    assert jax.tree.all(jax.tree.map(np.array_equal, ours.scales, theirs.scales))
    assert jax.tree.all(jax.tree.map(np.array_equal, ours.adam_scales, theirs.adam_scales))


def test_a_sweep_gives_each_scheme_its_architecture():
    names = ("gpt2", "fixup", "mup_zero_query", "zero_output")
    groups = make_groups(load_config(None, []), Axes(names, (None,), (), (), (), (0,)))
    found = {name: group.config.model for group in groups for name in group.configs}
    assert {name: model.residual for name, model in found.items()} == {
        "gpt2": "pre_norm",
        "fixup": "fixup",
        "mup_zero_query": "pre_norm",
        "zero_output": "pre_norm",
    }
    assert found["mup_zero_query"].attention_scale == "inverse"
    assert found["gpt2"].attention_scale == found["zero_output"].attention_scale == "inverse_sqrt"
    assert found["fixup"].scale_embeddings
