"""Each scheme draws as in its paper: standard deviation, distribution, axes."""

import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from charjax.config import InitConfig
from charjax.init import find_scheme, initialise
from charjax.models.roles import Parameter, Role, dense

ROOT = Path(__file__).resolve().parent.parent.parent
N, M, L = 256, 512, 6
HIDDEN, TANH, READOUT = dense(), dense(activation="tanh"), dense(Role.READOUT)
OUTPUT = dense(Role.RESIDUAL_OUTPUT, in_block=True)
GRU = ("reset", "update", "new")
LSTM = ("input", "forget", "cell", "output")
QKV = dense(gates=3, gate_names=("query", "key", "value"))
TABLE = Parameter(Role.EMBEDDING, fan_out=(1,))
GATE_BIAS = Parameter(Role.GATE_BIAS, gates=4, gate_names=LSTM)


def drawn(scheme, parameter=HIDDEN, shape=(N, M), seed=1, **numbers) -> np.ndarray:
    """Draw one kernel by a scheme, in a model with a stream of width N."""
    roles = (("table", TABLE), ("inner/kernel", parameter))
    shapes = {
        "table": jax.ShapeDtypeStruct((27, N), jnp.float32),
        "inner": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)},
    }
    found = find_scheme(InitConfig(scheme=scheme, **numbers))
    tree = initialise(found, shapes, roles, jax.random.key(seed), L).params
    return np.asarray(tree["inner"]["kernel"], np.float64)


def normal(std):
    return stats.norm(0, std)


def uniform(half):
    return stats.uniform(-half, 2 * half)


def truncated(std):
    """flax's: cut at two, then widened so that the standard deviation is `std`."""
    return stats.truncnorm(-2, 2, 0, std / stats.truncnorm(-2, 2).std())


GLOROT = math.sqrt(2 / (N + M))
BETA = (8 * L) ** -0.25


@pytest.mark.parametrize(
    ("scheme", "parameter", "law"),
    [
        ("default", HIDDEN, truncated(1 / math.sqrt(N))),
        ("default", Parameter(Role.EMBEDDING), normal(1 / math.sqrt(M))),
        ("pytorch", READOUT, uniform(1 / math.sqrt(N))),
        ("pytorch", Parameter(Role.EMBEDDING), normal(1.0)),
        ("normal", HIDDEN, normal(1.0)),
        ("uniform", HIDDEN, uniform(0.08)),
        ("lecun_normal", TANH, normal(1 / math.sqrt(N))),
        ("lecun_uniform", HIDDEN, uniform(math.sqrt(3 / N))),
        ("glorot_normal", HIDDEN, normal(GLOROT)),
        ("glorot_uniform", HIDDEN, uniform(GLOROT * math.sqrt(3))),
        ("he_normal", TANH, normal(5 / 3 / math.sqrt(N))),
        ("he_normal", dense(activation="relu"), normal(math.sqrt(2 / N))),
        ("he_normal", READOUT, normal(1 / math.sqrt(N))),
        ("he_uniform", dense(activation="gelu"), uniform(math.sqrt(6 / N))),
        ("critical", TANH, normal(math.sqrt(1.76095 / N))),
        ("critical", READOUT, normal(1 / math.sqrt(N))),
        ("small_readout", READOUT, truncated(0.01 / math.sqrt(N))),
        ("naive", HIDDEN, normal(1.0)),
        ("naive_readout", READOUT, normal(0.01)),
        ("naive_hidden", HIDDEN, normal(0.2)),
        ("kaiming_tanh", HIDDEN, normal(5 / 3 / math.sqrt(N))),
        ("kaiming_tanh", READOUT, normal(0.01)),
        ("lecun_readout", READOUT, normal(0.1 / math.sqrt(N))),
        ("gpt2", HIDDEN, normal(0.02)),
        ("gpt2", OUTPUT, normal(0.02 / math.sqrt(2 * L))),
        ("small_init", OUTPUT, normal(math.sqrt(2 / (5 * N)))),
        ("tfixup", HIDDEN, uniform(0.67 * L**-0.25 * GLOROT * math.sqrt(3))),
        ("tfixup", Parameter(Role.EMBEDDING), normal((9 * L) ** -0.25 / math.sqrt(M))),
        ("deepnorm", OUTPUT, normal(BETA * GLOROT)),
        ("rezero", HIDDEN, uniform(GLOROT * math.sqrt(3))),
        ("layerscale", OUTPUT, normal(0.02)),
        ("irnn", HIDDEN, normal(0.001)),
        ("irnn", READOUT, normal(0.001)),
        ("irnn", Parameter(Role.EMBEDDING), normal(0.001)),
        ("mup", HIDDEN, normal(1 / math.sqrt(N))),
        ("completep", Parameter(Role.EMBEDDING), normal(0.02)),
        ("spectral", READOUT, normal(1 / math.sqrt(N))),
    ],
)
def test_standard_deviation_and_distribution(scheme, parameter, law):
    values = drawn(scheme, parameter)
    assert abs(values.std() / law.std() - 1) < 0.01
    assert abs(values.mean()) < 0.01 * law.std()
    assert stats.kstest(values.ravel()[:20_000], law.cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("scheme", "numbers", "std"),
    [
        ("normal", {"std": 0.3}, 0.3),
        ("uniform", {"scale": 0.5}, 0.5 / math.sqrt(3)),
        ("he_normal", {"gain": 3.0}, 3 / math.sqrt(N)),
        ("glorot_uniform", {"gain": 0.5}, 0.5 * GLOROT),
        ("orthogonal", {"gain": 2.0}, 2 / math.sqrt(M)),
        ("critical", {"sigma_w": 1.5}, 1.5 / math.sqrt(N)),
        ("critical", {"sigma_b": 0.01}, math.sqrt(1.08603 / N)),
        ("critical", {"sigma_w": 1.5, "gain": 2.0}, 3.0 / math.sqrt(N)),
        ("gpt2", {"gain": 3.0}, 0.06),
    ],
)
def test_numbers_of_a_scheme(scheme, numbers, std):
    assert abs(drawn(scheme, **numbers).std() / std - 1) < 0.01


def test_fans_follow_the_labels_not_the_order_of_the_axes():
    turned = Parameter(Role.HIDDEN, fan_in=(1,), fan_out=(0,))
    for scheme in ("lecun_normal", "he_uniform", "mup"):
        values = drawn(scheme, turned, (1000, 250))
        assert abs(values.std() * math.sqrt(250) - 1) < 0.01


@pytest.mark.parametrize("scheme", ["default", "orthogonal"])
@pytest.mark.parametrize("gates", [1, 3, 4])
def test_recurrent_kernels_are_orthogonal_gate_by_gate(scheme, gates):
    kernel = drawn(scheme, dense(Role.RECURRENT, gates=gates), (64, 64 * gates))
    for gate in np.split(kernel, gates, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(64), atol=1e-5)


def test_fan_out_is_one_gates():
    kernel = drawn("glorot_normal", dense(gates=4), (256, 1024))
    assert abs(kernel.std() / math.sqrt(2 / 512) - 1) < 0.01


@pytest.mark.parametrize(
    ("scheme", "query", "value"),
    [("tfixup", 1.0, 0.67 * L**-0.25), ("deepnorm", 1.0, BETA), ("gpt2", None, None)],
)
def test_only_the_values_of_attention_are_made_smaller(scheme, query, value):
    parts = [p.std() for p in np.split(drawn(scheme, QKV, (N, 3 * N)), 3, axis=1)]
    if query is None:
        query = value = 0.02 * math.sqrt(N)
    expected = np.array([query, query, value]) / math.sqrt(N)
    np.testing.assert_allclose(parts, expected, rtol=0.01)


def test_a_narrow_output_is_drawn_smaller_by_the_spectral_condition():
    kernel = drawn("spectral", READOUT, (2048, 64))
    assert abs(kernel.std() * math.sqrt(2048) / math.sqrt(64 / 2048) - 1) < 0.01
    wide = np.linalg.norm(drawn("spectral", HIDDEN, (64, 256)), 2)
    assert 1 < wide / math.sqrt(256 / 64) < 2


def cell(scheme, width=4000, **numbers):
    roles = (
        ("input", dense(gates=4)),
        ("recurrent", dense(Role.RECURRENT, gates=4)),
        ("bias", GATE_BIAS),
        ("second", Parameter(Role.GATE_BIAS, gates=4, gate_names=LSTM, second=True)),
    )
    shapes = {"input": (4, 64), "recurrent": (16, 64), "bias": (4 * width,), "second": (4 * width,)}
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    found = find_scheme(InitConfig(scheme=scheme, **numbers))
    return jax.tree.map(np.asarray, initialise(found, shapes, roles, jax.random.key(0), 0).params)


def test_pytorch_recurrent_cells_use_the_hidden_width():
    for leaf in cell("pytorch").values():
        assert np.abs(leaf).max() == pytest.approx(1 / 4, rel=0.1)


def test_forget_gates_are_open():
    tree = cell("forget_bias", width=2)
    np.testing.assert_array_equal(tree["bias"], [0, 0, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(tree["second"], 0)
    np.testing.assert_array_equal(cell("forget_bias", 1, forget_bias=3.0)["bias"], [0, 3, 0, 0])


def test_only_an_lstms_first_forget_bias_is_1_in_char_rnn():
    tree = cell("uniform", width=2)
    gates = np.split(tree["bias"], 4)
    np.testing.assert_array_equal(gates[1], 1)
    drawn_there = np.concatenate([*gates[:1], *gates[2:], tree["second"]])
    assert np.abs(drawn_there).min() > 0
    assert np.abs(drawn_there).max() <= 0.08
    assert np.abs(cell("uniform", width=2, scale=0.5)["second"]).max() > 0.08


def test_chrono_draws_the_logarithm_of_a_delay():
    tree = cell("chrono", longest_delay=101)
    write, keep, new, out = np.split(tree["bias"], 4)
    np.testing.assert_array_equal(write, -keep)
    assert not np.any([new, out])
    assert not np.any(tree["second"])
    assert stats.kstest(np.exp(keep), stats.uniform(1, 99).cdf).pvalue > 1e-3


def test_irnn_begins_with_the_identity():
    np.testing.assert_array_equal(drawn("irnn", dense(Role.RECURRENT), (8, 8)), np.eye(8))


def test_gains_of_the_residual_branches():
    gain = Parameter(Role.RESIDUAL_GAIN)
    assert not np.any(drawn("rezero", gain, ()))
    np.testing.assert_array_equal(drawn("default", gain, (8,)), 1.0)
    np.testing.assert_array_equal(drawn("layerscale", gain, (8,)), np.float32(0.1))
    np.testing.assert_array_equal(drawn("layerscale", gain, (8,), epsilon=1e-4), np.float32(1e-4))


def test_biases_of_norms_are_zero_where_those_of_kernels_are_drawn():
    for scheme in ("pytorch", "critical"):
        assert not np.any(drawn(scheme, Parameter(Role.BIAS), (8,)))


def test_readouts_of_zero():
    for scheme in ("zero_readout", "unigram_readout", "mup", "depth_mup", "completep"):
        assert not np.any(drawn(scheme, READOUT))


def test_zeros_are_zero_and_gains_one():
    for parameter in (HIDDEN, TANH, READOUT, Parameter(Role.BIAS), TABLE):
        assert not np.any(drawn("zeros", parameter))
    np.testing.assert_array_equal(drawn("zeros", Parameter(Role.GAIN), (8,)), 1.0)


def test_naive_arms_are_the_same_draw_scaled():
    variants = [drawn(s) for s in ("naive", "naive_hidden")]
    np.testing.assert_allclose(variants[0] * 0.2, variants[1], rtol=1e-6)


def test_a_gain_leaves_the_readout_and_biases_alone():
    for parameter in (READOUT, GATE_BIAS, TABLE):
        np.testing.assert_array_equal(
            drawn("pytorch", parameter, gain=3.0), drawn("pytorch", parameter)
        )
    np.testing.assert_allclose(drawn("pytorch", gain=3.0), 3 * drawn("pytorch"), rtol=1e-6)


@pytest.mark.parametrize(
    ("reader", "std"),
    [
        ({}, 0.02),
        ({"readout": READOUT}, 1 / math.sqrt(64)),
        (
            {"readout": dense(Role.READOUT), "hidden": dense(reads_embedding=True)},
            1 / math.sqrt(16),
        ),
    ],
)
def test_a_table_in_mup_is_as_large_at_every_width(reader, std):
    """Cover tables that are also the readout, feed one, or have another width (16)."""
    found = {"table": Parameter(Role.EMBEDDING, fan_out=(1,)), **reader}
    roles = tuple(found.items())
    for width in (64, 512):
        columns = 16 if "hidden" in reader else width
        shapes = {
            "table": jax.ShapeDtypeStruct((4096, columns), jnp.float32),
            "readout": jax.ShapeDtypeStruct((width, 27), jnp.float32),
            "hidden": jax.ShapeDtypeStruct((columns, width), jnp.float32),
        }
        shapes = {name: shapes[name] for name in found}
        scheme = find_scheme(InitConfig(scheme="mup", base_width=64))
        drawn = initialise(scheme, shapes, roles, jax.random.key(0), 2).params
        assert float(drawn["table"].std()) == pytest.approx(std, rel=0.02)


_MANY_FACTORISATIONS = """
import jax, jax.numpy as jnp
from charjax.config import InitConfig
from charjax.init import find_scheme, initialise
from charjax.models.roles import Role, dense

kernel = dense(Role.RECURRENT, gates=3, gate_names=("reset", "update", "new"))
shape = jax.ShapeDtypeStruct((256, 768), jnp.float32)
shapes = {f"cell_{i}": {"kernel": shape} for i in range(4)}
scheme = find_scheme(InitConfig(scheme="orthogonal"))
draw = jax.jit(lambda key: initialise(scheme, shapes, ((r".*/kernel", kernel),), key, 4).params)
for seed in range(5):
    jax.block_until_ready(draw(jax.random.key(seed)))
"""


@pytest.mark.slow
def test_many_factorisations_do_not_wait_for_each_other_for_ever():
    """Run in a separate process with a time limit: with jaxlib 0.10 and two cores it hung."""
    words = [sys.executable, "-c", _MANY_FACTORISATIONS]
    done = subprocess.run(words, timeout=100, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
