"""Temperature, top-k, top-p and the draw, against plain numpy."""

import math

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax.errors import UserError
from charjax.generation.sampling import Sampling, choose, process

VOCAB = 7
# Few different values, so that equal logits are common.
LOGITS = arrays.arrays(np.float32, (2, VOCAB), elements=st.integers(-4, 4).map(lambda n: n / 2))
# Compiled once for all examples: one program for each k, one for each p.
TOP_K = {k: jax.jit(lambda x, k=k: process(x, Sampling(top_k=k))) for k in range(1, VOCAB + 2)}
TOP_P = {p: jax.jit(lambda x, p=p: process(x, Sampling(top_p=p))) for p in (0.01, 0.3, 0.7, 0.95)}


def softmax(logits):
    logits = logits.astype(np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def by_likelihood(row):
    return sorted(range(VOCAB), key=lambda symbol: (-row[symbol], symbol))


@settings(deadline=None, max_examples=50)
@given(LOGITS, st.sampled_from(sorted(TOP_K)))
def test_top_k_keeps_exactly_the_k_likeliest(logits, k):
    allowed = np.isfinite(np.asarray(TOP_K[k](logits)))
    for row, kept_row in zip(logits, allowed, strict=True):
        assert set(np.flatnonzero(kept_row)) == set(by_likelihood(row)[:k])


def nucleus(logits, p):
    """Return the mask of the allowed symbols, in float64 by NumPy."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    masses = np.take_along_axis(softmax(logits), order, axis=-1)
    allowed = np.zeros(logits.shape, bool)
    np.put_along_axis(allowed, order, np.cumsum(masses, axis=-1) - masses < p, axis=-1)
    return allowed


@settings(deadline=None, max_examples=50)
@given(LOGITS, st.sampled_from(sorted(TOP_P)))
def test_top_p_keeps_the_smallest_set_of_likeliest_with_that_mass(logits, p):
    processed = np.asarray(TOP_P[p](logits))
    for row, out in zip(logits, processed, strict=True):
        allowed = np.flatnonzero(np.isfinite(out))
        likeliest = by_likelihood(row)[: len(allowed)]
        assert set(allowed) == set(likeliest)
        np.testing.assert_array_equal(out[allowed], row[allowed])
        masses = softmax(row)[likeliest]
        assert masses.sum() >= p - 1e-15
        assert masses[:-1].sum() < p + 1e-15


@pytest.mark.parametrize("p", [5e-324, 1e-60, 1e-3, 0.5, 0.9, 0.999999, 1 - 2**-24, 1 - 1e-10])
@pytest.mark.quick("5e-324", "0.999999", "0.9999999403953552")
def test_top_p_keeps_what_float64_keeps(p):
    """Use p where float32 sums err: 7 % of rows of scale 3 at 0.999999, 14 % at 1 - 2^-24."""
    program = jax.jit(lambda x: process(x, Sampling(top_p=p)))
    for scale in (1, 2, 3, 10):
        logits = np.random.default_rng(scale).normal(0, scale, (3000, 65)).astype(np.float32)
        allowed = np.isfinite(program(logits))
        assert allowed.any(axis=-1).all()
        np.testing.assert_array_equal(allowed, nucleus(logits, p))


def test_top_p_of_many_symbols():
    logits = np.random.default_rng(0).normal(0, 2, (2, 65536)).astype(np.float32)
    for p in (0.5, 0.999999):
        np.testing.assert_array_equal(
            np.isfinite(process(jnp.asarray(logits), Sampling(top_p=p))), nucleus(logits, p)
        )


@settings(deadline=None, max_examples=15)
@given(LOGITS, st.floats(1e-300, 1 - 1e-12))
def test_top_p_of_any_p(logits, p):
    allowed = np.isfinite(process(jnp.asarray(logits), Sampling(top_p=p)))
    np.testing.assert_array_equal(allowed, nucleus(logits, p))


@pytest.mark.parametrize("V", [10, 27])
@pytest.mark.quick("10")
def test_top_p_where_sums_are_p(V):
    """Expect float64's rounding, in its order, for a sum of equal probabilities near p."""
    logits = np.zeros((1, V), np.float32)
    for k in range(1, V, 2):
        allowed = np.isfinite(process(jnp.asarray(logits), Sampling(top_p=k / V)))
        np.testing.assert_array_equal(allowed, nucleus(logits, k / V), err_msg=f"{k} / {V}")


def test_top_p_measures_what_top_k_left():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))
    # Of the two that are left, the first has 4/7 of the mass.
    allowed = np.isfinite(process(logits, Sampling(top_k=2, top_p=0.5)))
    np.testing.assert_array_equal(allowed, [[True, False, False, False]])
    allowed = np.isfinite(process(logits, Sampling(top_p=0.5)))
    np.testing.assert_array_equal(allowed, [[True, True, False, False]])


def test_temperature_comes_before_top_p():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
    assert np.isfinite(process(logits, Sampling(0.25, top_p=0.8))).sum() == 1
    assert np.isfinite(process(logits, Sampling(4.0, top_p=0.8))).sum() == 3


def test_what_is_not_asked_for_is_not_computed():
    logits = jnp.zeros((1, VOCAB))
    for asked_for_nothing in (Sampling(), Sampling(top_k=VOCAB), Sampling(top_p=1.0)):
        program = jax.make_jaxpr(lambda x, asked=asked_for_nothing: process(x, asked))(logits)
        assert not program.eqns


@pytest.mark.parametrize("temperature", [1e-300, 1e-38, 0.5, 1.0, 2.0, 1e300])
@pytest.mark.quick("1e-300", "2.0")
def test_frequencies_follow_the_temperature(temperature):
    """Test chi-square with 3 degrees of freedom: 1 in 1000 exceeds 16.27."""
    logits, draws = np.array([0.0, 1.0, -1.0, 0.5], np.float32), 4000
    keys = jax.random.split(jax.random.key(1), draws)
    rows = jnp.tile(logits, (draws, 1))
    draw = jax.jit(choose, static_argnums=3)
    tokens = np.asarray(draw(rows, keys, jnp.int32(5), Sampling(temperature)))
    expected = softmax(logits.astype(np.float64) / max(temperature, 1e-30)) * draws
    counts = np.bincount(tokens, minlength=4)
    possible = expected > 1e-9
    assert counts[~possible].sum() == 0
    assert ((counts - expected)[possible] ** 2 / expected[possible]).sum() < 16.27


def test_top_k_of_one_and_greedy_take_the_likeliest():
    logits = jax.random.normal(jax.random.key(0), (50, VOCAB)).at[:, 3].set(9.0).at[:, 5].set(9.0)
    keys = jax.random.split(jax.random.key(1), 50)
    for likeliest in (Sampling(greedy=True), Sampling(top_k=1), Sampling(top_p=1e-6)):
        tokens = choose(logits, keys, jnp.int32(0), likeliest)
        np.testing.assert_array_equal(tokens, jnp.full(50, 3))


@pytest.mark.parametrize(
    "mistake",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
    ],
)
def test_numbers_out_of_bounds_are_refused(mistake):
    with pytest.raises(UserError, match=r"^[^\n]+ given; [^\n]+$"):
        Sampling(**mistake)
