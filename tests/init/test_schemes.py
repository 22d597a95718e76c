"""Each scheme draws what its paper says, and covers every parameter of every family."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import models
from charjax.config import FAMILIES, InitConfig, parse_config
from charjax.errors import UserError
from charjax.init import find_scheme, initialise, scheme_names
from charjax.init.schemes import parameter_of
from charjax.models.roles import Parameter, Role, dense

TRAINED = [kind for kind in FAMILIES if kind != "ngram"]


_KEY = jax.random.key(0)


def drawn(scheme: str, shape=(512, 1024), parameter=None, depth=0, **numbers) -> np.ndarray:
    """One kernel drawn by a scheme."""
    roles = (("kernel", parameter or dense(Role.HIDDEN)),)
    shapes = {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
    init = InitConfig(scheme=scheme, **numbers)
    tree = initialise(find_scheme(init), shapes, roles, jax.random.key(1), depth)
    return np.asarray(tree["kernel"])


@pytest.mark.parametrize(
    ("scheme", "parameter", "std"),
    [
        ("default", dense(Role.HIDDEN), 1 / math.sqrt(512)),
        ("default", Parameter(Role.EMBEDDING), 1 / math.sqrt(1024)),
        ("pytorch", dense(Role.READOUT), 1 / math.sqrt(3 * 512)),
        ("pytorch", Parameter(Role.EMBEDDING), 1.0),
        ("gpt2", dense(Role.HIDDEN), 0.02),
        ("gpt2", dense(Role.RESIDUAL_OUTPUT), 0.02 / math.sqrt(2 * 6)),
        ("naive", dense(Role.HIDDEN), 1.0),
        ("naive_readout", dense(Role.READOUT), 0.01),
        ("naive_hidden", dense(Role.HIDDEN), 0.2),
        ("kaiming_tanh", dense(Role.HIDDEN), 5 / 3 / math.sqrt(512)),
        ("kaiming_tanh", dense(Role.READOUT), 0.01),
        ("uniform", dense(Role.HIDDEN), 0.08 / math.sqrt(3)),
    ],
)
def test_standard_deviation(scheme, parameter, std):
    values = drawn(scheme, parameter=parameter, depth=6)
    assert abs(values.std() / std - 1) < 0.01
    assert abs(values.mean()) < 0.01 * std


def test_numbers_of_a_scheme():
    assert abs(drawn("normal", std=0.3).std() / 0.3 - 1) < 0.01
    assert np.abs(drawn("uniform", scale=0.5)).max() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("gates", [1, 3, 4])
def test_recurrent_kernels_are_orthogonal_gate_by_gate(gates):
    kernel = drawn("default", (64, 64 * gates), dense(Role.RECURRENT, gates=gates))
    for gate in np.split(kernel, gates, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(64), atol=1e-5)


def test_pytorch_recurrent_cells_use_the_hidden_width():
    roles = (("input", dense()), ("recurrent", dense(Role.RECURRENT)), ("bias", _GATE_BIAS))
    shapes = {
        "input": jax.ShapeDtypeStruct((4, 400), jnp.float32),
        "recurrent": jax.ShapeDtypeStruct((400, 400), jnp.float32),
        "bias": jax.ShapeDtypeStruct((400,), jnp.float32),
    }
    scheme = find_scheme(InitConfig(scheme="pytorch"))
    tree = initialise(scheme, shapes, roles, jax.random.key(0), 0)
    for leaf in tree.values():
        assert np.abs(leaf).max() == pytest.approx(1 / 20, rel=0.03)


_GATE_BIAS = Parameter(Role.GATE_BIAS)


def test_naive_arms_are_the_same_draw_scaled():
    arms = [drawn(s) for s in ("naive", "naive_hidden")]
    np.testing.assert_allclose(arms[0] * 0.2, arms[1], rtol=1e-6)


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("scheme", scheme_names())
def test_every_scheme_covers_every_family(kind, scheme):
    config = parse_config({"model": {"kind": kind, "context_length": 8}})
    model = models.build(config.model, 27, jnp.float32)
    tokens = jnp.zeros((1, model.lookback + 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    found = find_scheme(InitConfig(scheme=scheme))
    tree = jax.eval_shape(lambda key: initialise(found, shapes, model.roles, key, 4), _KEY)
    assert tree == shapes


def test_a_parameter_needs_exactly_one_role():
    with pytest.raises(ValueError, match="covered by 0 roles"):
        parameter_of((("kernel", dense()),), "bias")
    with pytest.raises(ValueError, match="covered by 2 roles"):
        parameter_of((("k.*", dense()), ("kernel", dense())), "kernel")


@pytest.mark.parametrize(
    ("init", "told"),
    [
        (InitConfig(scheme="kaimin_tanh"), "did you mean kaiming_tanh"),
        (InitConfig(scheme="gpt2", std=0.1), "init.std: 0.1 given; only init.scheme"),
        (InitConfig(scheme="normal", scale=0.1), "init.scale: 0.1 given"),
    ],
)
def test_mistakes(init, told):
    with pytest.raises(UserError, match=told):
        find_scheme(init)
