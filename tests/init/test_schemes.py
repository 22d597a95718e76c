"""The registry and the three pytrees: coverage, errors, and the requirements of schemes."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import models
from charjax.config import FAMILIES, InitConfig, parse_config
from charjax.errors import UserError
from charjax.init import check_cover, find_scheme, initialise, scheme_for, scheme_names
from charjax.init.site import find_sites
from charjax.models.roles import dense, parameter_of

TRAINED = [kind for kind in FAMILIES if kind != "ngram"]
SETTINGS = {
    "tfixup": {"residual": "plain"},
    "deepnorm": {"residual": "deepnorm"},
    "rezero": {"residual": "rezero"},
    "layerscale": {"residual": "layerscale"},
    "irnn": {"activation": "relu"},
    "spectral": {"tie_embeddings": False},
    "umup": {"tie_embeddings": False},
    "fixup": {"residual": "fixup"},
    "small_readout": {"tie_embeddings": False},
    "zero_readout": {"tie_embeddings": False},
}
# Kernels of linear layers alone: none multiplies a state.
LINEAR_LAYERS = {"bow", "mlp", "wavenet", "mingru", "minlstm", "transformer"}
WITH_WIDTH = LINEAR_LAYERS | {"rnn", "gru", "lstm"}
ONLY = {
    ("small_init", "tfixup", "deepnorm", "rezero", "layerscale"): {"transformer"},
    ("depth_mup", "completep", "mup_zero_query", "umup"): {"transformer"},
    ("fixup", "zero_output"): {"transformer"},
    ("identity",): WITH_WIDTH - {"bow"},
    ("idinit",): LINEAR_LAYERS - {"bow"},
    ("delta_orthogonal",): {"mlp", "wavenet"},
    ("small_readout", "zero_readout", "mup", "spectral"): WITH_WIDTH,
    ("unigram_readout",): WITH_WIDTH - {"transformer"},
    ("forget_bias", "chrono"): {"gru", "lstm", "minlstm"},
    ("irnn",): {"rnn"},
    ("lsuv",): LINEAR_LAYERS,
    ("zeros",): WITH_WIDTH - {"transformer"} | {"bigram"},
}
COVERED = {name: set(TRAINED) for name in scheme_names()}
COVERED |= {name: kinds for names, kinds in ONLY.items() for name in names}


def configured(kind, scheme, **numbers):
    """Return a config of a family with the scheme's requirements, as far as possible."""
    known = FAMILIES[kind].model_fields
    wanted = {k: v for k, v in SETTINGS.get(scheme, {}).items() if k in known}
    if kind == "transformer" and scheme == "irnn":
        del wanted["activation"]
    small = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_hidden": 16, "d_embed": 8}
    small = {k: v for k, v in small.items() if k in known}
    tree = {"kind": kind, "context_length": 8, **small, **wanted}
    return parse_config({"model": tree, "init": {"scheme": scheme, **numbers}})


@functools.cache
def shapes_of(model):
    tokens = jnp.zeros((1, model.lookback + 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.quick("bow", "gru", "transformer")
def test_every_scheme_covers_the_families_it_says_and_no_other(kind):
    for scheme in scheme_names():
        config = configured(kind, scheme)
        model = models.build(config.model, 27, jnp.float32)
        shapes = shapes_of(model)

        def draw(key, config=config, shapes=shapes, model=model):
            found = scheme_for(config)
            check_cover(found, config.init.scheme, shapes, model.roles)
            return initialise(found, shapes, model.roles, key, 4, jnp.zeros(27))

        if kind not in COVERED[scheme]:
            with pytest.raises(UserError, match="choose another scheme"):
                jax.eval_shape(draw, jax.random.key(0))
            continue
        params, *factors = jax.eval_shape(draw, jax.random.key(0))
        assert params == shapes
        for tree in factors:
            assert jax.tree.structure(tree) == jax.tree.structure(shapes)
            assert {(x.shape, x.dtype) for x in jax.tree.leaves(tree)} == {
                ((), jnp.dtype("float32"))
            }


def test_a_parameter_needs_exactly_one_role():
    with pytest.raises(ValueError, match="covered by 0 roles"):
        parameter_of((("kernel", dense()),), "bias")
    with pytest.raises(ValueError, match="covered by 2 roles"):
        parameter_of((("k.*", dense()), ("kernel", dense())), "kernel")


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"scheme": "kaimin_tanh"}, "did you mean kaiming_tanh"),
        ({"scheme": "gpt2", "std": 0.1}, "init.std: 0.1 given; only init.scheme"),
        ({"scheme": "normal", "scale": 0.1}, "init.scale: 0.1 given"),
        ({"scheme": "lsuv", "gain": 2.0}, "would undo it"),
        ({"scheme": "gpt2", "sigma_w": 2.0}, 'only init.scheme = "critical" reads it'),
        ({"scheme": "mup", "base_depth": 2}, 'only init.scheme = "depth_mup" or "completep"'),
        ({"scheme": "metainit", "gain": 2.0}, "would undo it"),
        ({"scheme": "lsuv", "meta_steps": 2}, 'only init.scheme = "metainit" reads it'),
    ],
)
def test_mistakes_in_the_section(init, message):
    with pytest.raises(UserError, match=message):
        find_scheme(InitConfig(**init))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"init": {"scheme": "deepnorm"}}, "model.residual=pre_norm; it needs model.residual=deep"),
        ({"init": {"scheme": "tfixup"}}, "it needs model.residual=plain"),
        ({"init": {"scheme": "spectral"}}, "tie_embeddings=true; it needs model.tie_emb.*=false"),
        (
            {"init": {"scheme": "mup"}, "optim": {"kind": "lion"}},
            "it needs optim.kind=adamw or sgd or muon",
        ),
        (
            {"init": {"scheme": "completep"}, "optim": {"kind": "sgd"}},
            "it needs optim.kind=adamw: set that",
        ),
        (
            {"init": {"scheme": "mup"}, "model": {"residual": "plain"}},
            "it needs model.residual=pre",
        ),
        (
            {"init": {"scheme": "mup"}, "model": {"kind": "bigram"}},
            "it needs model.kind=bow or mlp",
        ),
        ({"init": {"scheme": "irnn"}, "model": {"kind": "rnn"}}, "it needs model.activation=relu"),
        (
            {"init": {"scheme": "chrono"}, "model": {"kind": "rnn"}},
            "it needs model.kind=gru or lstm or minlstm",
        ),
        ({"init": {"scheme": "fixup"}}, "it needs model.residual=fixup"),
        ({"init": {"scheme": "umup"}}, "tie_embeddings=true; it needs model.tie_emb.*=false"),
        (
            {"init": {"scheme": "umup"}, "optim": {"kind": "sgd"}},
            "it needs optim.kind=adamw: set that",
        ),
        (
            {"init": {"scheme": "mup_zero_query"}, "model": {"attention_scale": "inverse_sqrt"}},
            "attention_scale=inverse_sqrt; it needs model.attention_scale=inverse",
        ),
        (
            {"init": {"scheme": "mup_zero_query"}, "model": {"qk_norm": True}},
            "it needs model.qk_norm=false",
        ),
        (
            {"init": {"scheme": "delta_orthogonal"}, "model": {"kind": "gru"}},
            "it needs model.kind=mlp or wavenet",
        ),
    ],
)
def test_a_scheme_says_what_it_needs(tree, message):
    with pytest.raises(UserError, match=message) as error:
        scheme_for(parse_config(tree))
    assert "\n" not in str(error.value)


def test_all_factors_are_one_where_a_scheme_has_none():
    config = configured("transformer", "gpt2")
    model = models.build(config.model, 27, jnp.float32)
    scheme = scheme_for(config)
    drawn = initialise(scheme, shapes_of(model), model.roles, jax.random.key(0), 2)
    assert not scheme.scaled
    np.testing.assert_array_equal(jax.tree.leaves(drawn[1:]), 1.0)


def test_the_gain_of_a_recurrent_network_is_by_its_activation():
    for activation, gain in (("tanh", 5 / 3), ("relu", 2**0.5)):
        tree = {"kind": "rnn", "d_embed": 64, "d_hidden": 64, "activation": activation}
        config = parse_config({"model": tree, "init": {"scheme": "he_normal"}})
        model = models.build(config.model, 27, jnp.float32)
        scheme = scheme_for(config)
        drawn = initialise(scheme, shapes_of(model), model.roles, jax.random.key(0), 1).params
        assert float(jnp.std(drawn["cell_0"]["hidden_kernel"])) * 8 == pytest.approx(gain, rel=0.05)


@pytest.mark.parametrize(
    "scheme",
    [
        # Only schemes that read the activation can differ; the others are among the slow tests.
        pytest.param(n, marks=[] if n in ("he_normal", "orthogonal", "mup") else [pytest.mark.slow])
        for n in scheme_names()
        if "transformer" in COVERED[n]
    ],
)
def test_both_forms_of_gelu_are_drawn_alike(scheme):
    """Treat them as ReLU in every scheme, for the kernel before them."""
    drawn = []
    config = configured("transformer", scheme)
    for activation in ("gelu", "gelu_tanh"):
        model = models.build(config.model, 27, jnp.float32).clone(activation=activation)
        found = scheme_for(config)
        params = initialise(found, shapes_of(model), model.roles, jax.random.key(0), 2).params
        drawn.append(params["block_1"]["mlp"]["up"]["kernel"])
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("scheme", ["default", "gpt2", "orthogonal", "mup"])
@pytest.mark.quick("orthogonal", "mup")
def test_parameters_drawn_together_have_the_bits_of_those_drawn_alone(scheme):
    config, key = configured("transformer", scheme), jax.random.key(3)
    model, scheme = models.build(config.model, 11, jnp.float32), scheme_for(config)
    shapes = shapes_of(model)
    drawn = initialise(scheme, shapes, model.roles, key, 2).params
    sites = find_sites(shapes, model.roles, 2)
    for site, leaf in zip(sites, jax.tree.leaves(drawn), strict=True):
        site_key = jax.random.fold_in(key, zlib.crc32(site.path.encode()))
        np.testing.assert_array_equal(leaf, scheme.rule_of(site).draw(site_key, site), site.path)
