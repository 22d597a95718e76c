"""Schemes on the options of today's transformers and of recurrent networks: rules and sizes."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import models, theory
from charjax.config import FAMILIES, parse_config
from charjax.init import check_cover, initialise, scheme_for, scheme_names
from tests.init.test_schemes import COVERED, SETTINGS

V, D = 27, 48
MODERN = {"norm": "rmsnorm", "qk_norm": True, "n_kv_head": 1, "window": 4}
MODERN |= {"d_ff": 100, "norm_epsilon": 1e-6}
MODERN |= {"attn_softcap": 5.0, "final_softcap": 5.0}
OPTIONS = {
    "swiglu": ("transformer", MODERN | {"activation": "swiglu"}),
    "geglu": ("transformer", {"activation": "geglu", "n_kv_head": 2}),
    "relu2": ("transformer", {"activation": "relu2", "bias": True, "qk_norm": True}),
    "gru": ("gru", {"norm": "layernorm"}),
    "lstm": ("lstm", {"norm": "layernorm"}),
}


# Options that a scheme does not go with.
CONFLICTS = {"mup_zero_query": ("qk_norm",), "fixup": ("activation",), "umup": ("activation",)}


def configured(name, scheme):
    kind, options = OPTIONS[name]
    options = {k: v for k, v in options.items() if k not in CONFLICTS.get(scheme, ())}
    wanted = {k: v for k, v in SETTINGS.get(scheme, {}).items() if k in FAMILIES[kind].model_fields}
    if kind == "transformer":
        wanted.pop("activation", None)
        if wanted.get("residual") in ("rezero", "plain", "fixup") and not options.get("qk_norm"):
            options = {k: v for k, v in options.items() if k != "norm"}
        options = {"d_model": D, "n_layer": 2, "n_head": 4} | options
    else:
        options = {"d_hidden": 16, "d_embed": 8} | options
    tree = {"kind": kind, "context_length": 8, **options, **wanted}
    return parse_config({"model": tree, "init": {"scheme": scheme}})


@functools.cache
def shapes_of(model):
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]


def drawn(name, scheme):
    config = configured(name, scheme)
    model = models.build(config.model, V, jnp.float32)
    found, shapes = scheme_for(config), shapes_of(model)
    check_cover(found, scheme, shapes, model.roles)
    params = initialise(found, shapes, model.roles, jax.random.key(1), 2, jnp.zeros(V)).params
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {"/".join(part.key for part in path): np.asarray(x) for path, x in leaves}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.quick("swiglu", "gru")
def test_every_scheme_of_the_family_covers_the_options(name):
    """Check shapes alone; a scheme for another family is refused as without the options."""
    kind, _ = OPTIONS[name]
    for scheme in scheme_names():
        draw = functools.partial(drawn_shapes, name, scheme)
        if kind in COVERED[scheme]:
            draw()
            continue
        with pytest.raises(Exception, match=r"choose another scheme"):
            draw()


def drawn_shapes(name, scheme):
    config = configured(name, scheme)
    model = models.build(config.model, V, jnp.float32)
    found, shapes = scheme_for(config), shapes_of(model)
    check_cover(found, scheme, shapes, model.roles)
    params = jax.eval_shape(
        lambda key: initialise(found, shapes, model.roles, key, 2, jnp.zeros(V)).params,
        jax.random.key(1),
    )
    assert params == shapes


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.quick("geglu", "lstm")
def test_norms_begin_as_the_identity(name):
    """All scales 1 and all shifts 0, in a scheme that draws biases too."""
    for path, x in drawn(name, "pytorch").items():
        if re.search(r"norm[^/]*/scale|_scale$", path):
            np.testing.assert_array_equal(x, 1.0, path)
        if re.search(r"norm[^/]*/bias", path):
            np.testing.assert_array_equal(x, 0.0, path)


@pytest.mark.parametrize(
    ("scheme", "sizes"),
    [
        # Xavier of the m of its own kernel, values smaller by beta = (8 L)^(-1/4), and queries and
        # keys not.
        ("deepnorm", {"query": (D, D, 1), "key": (D, 24, 1), "value": (D, 24, 16**-0.25)}),
        ("tfixup", {"query": (D, D, 1), "key": (D, 24, 1), "value": (D, 24, 0.67 * 2**-0.25)}),
    ],
)
@pytest.mark.quick("deepnorm-sizes0")
def test_values_of_fewer_heads_are_drawn_smaller_and_keys_are_not(scheme, sizes):
    leaves = drawn("geglu", scheme)
    keys, values = np.split(leaves["block_0/attention/key_value/kernel"], 2, axis=-1)
    parts = {"query": leaves["block_0/attention/query/kernel"], "key": keys, "value": values}
    for name, (n, m, factor) in sizes.items():
        expected = factor * math.sqrt(2 / (n + m))
        assert parts[name].std() == pytest.approx(expected, rel=0.1), name
    beta = sizes["value"][2]
    for kernel, (n, m) in {"gate": (D, 128), "up": (D, 128), "down": (128, D)}.items():
        std = leaves[f"block_0/mlp/{kernel}/kernel"].std()
        assert std == pytest.approx(beta * math.sqrt(2 / (n + m)), rel=0.1), kernel


@pytest.mark.parametrize("name", ["swiglu", "geglu", "relu2"])
@pytest.mark.quick("geglu", "relu2")
def test_he_gives_the_mlps_units_a_mean_square_near_one(name):
    """Draw for an input of mean square 1; GELU and SiLU are only nearly ReLU."""
    leaves = drawn(name, "he_normal")
    up = leaves["block_0/mlp/up/kernel"]
    x = np.random.default_rng(0).normal(size=(4000, D))
    x /= np.sqrt(np.mean(x**2, axis=-1, keepdims=True))
    if name == "relu2":
        assert up.std() == pytest.approx((2 / 3) ** 0.25 / math.sqrt(D), rel=0.05)
        units = np.maximum(x @ up, 0) ** 2
        assert np.mean(units**2) == pytest.approx(1.0, rel=0.1)
        return
    gate = leaves["block_0/mlp/gate/kernel"]
    assert gate.std() == pytest.approx(math.sqrt(2 / D), rel=0.05)
    assert up.std() == pytest.approx(1 / math.sqrt(D), rel=0.05)
    function = theory.find_activation("silu" if name == "swiglu" else "gelu").function
    exact = theory.second_moment(
        2.0, theory.find_activation("silu" if name == "swiglu" else "gelu")
    )
    assert np.mean((function(x @ gate) * (x @ up)) ** 2) == pytest.approx(exact, rel=0.12)
    assert 0.7 < exact < 1.0


def test_theory_of_relu2():
    """E[max(0, z)^4] = 3/2 q^2 and E[(2 max(0, z))^2] = 2 q."""
    activation = theory.find_activation("relu2")
    for q in (0.3, 1.0, 2.5):
        assert theory.second_moment(q, activation) == pytest.approx(1.5 * q**2, rel=1e-9)
        assert theory.derivative_moment(q, activation, 1) == pytest.approx(2 * q, rel=1e-9)


def test_forget_biases_of_a_minlstm():
    """With b_i = -b_f the gates add up to 1, so that f' is the forget gate itself."""
    tree = {"model": {"kind": "minlstm", "d_hidden": 64}, "init": {"scheme": "chrono"}}
    config = parse_config(tree)
    model = models.build(config.model, V, jnp.float32)
    params = initialise(scheme_for(config), shapes_of(model), model.roles, jax.random.key(0), 1)
    forget, write, candidate = np.split(params.params["cell_0"]["gates"]["bias"], 3)
    np.testing.assert_array_equal(write, -forget)
    assert (candidate == 0).all()
    # log U(1, T - 1) for T = 64, the context.
    assert 0 < forget.min() < 1.5 < 3 < forget.max() < math.log(63)
