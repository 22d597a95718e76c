import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charjax.data.indices import _multiply_high, shuffled_indices, uniform_indices

PLACES = 512


@given(st.integers(1, PLACES), st.integers(0, 2**32 - 1))
@example(1, 0)
@example(2, 0)
@example(3, 0)
@settings(max_examples=20, deadline=None)
def test_shuffled_indices_are_a_permutation(count: int, seed: int):
    # Operation by operation, and always as many places, so that nothing is compiled twice.
    places = jnp.asarray(np.arange(PLACES) % count, jnp.uint32)
    with jax.disable_jit():
        order = np.asarray(shuffled_indices(jax.random.key(seed), places, count))
    assert sorted(order[:count].tolist()) == list(range(count))


def test_a_large_permutation():
    count = 1_000_003
    places = jnp.arange(count, dtype=jnp.uint32)
    order = np.asarray(
        jax.jit(shuffled_indices, static_argnums=2)(jax.random.key(0), places, count)
    )
    assert (np.bincount(order, minlength=count) == 1).all()
    # Neighbours are far apart, and positions and values are uncorrelated.
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(order, np.arange(count))[0, 1]) < 0.01


def test_the_largest_permutation_stays_in_bounds():
    count = 2**31 - 1
    places = jnp.asarray(count - 1 - np.arange(5000), jnp.uint32)
    order = np.asarray(shuffled_indices(jax.random.key(3), places, count))
    assert len(set(order.tolist())) == 5000
    assert order.max() < count
    assert abs(order.mean() / count - 0.5) < 0.02


def test_every_place_gets_every_index_equally_often():
    count, keys = 7, 7000
    shuffle = jax.jit(
        jax.vmap(lambda key: shuffled_indices(key, jnp.arange(count, dtype=jnp.uint32), count))
    )
    orders = np.asarray(shuffle(jax.random.split(jax.random.key(1), keys)))
    for place in range(count):
        expected = keys / count
        chi2 = ((np.bincount(orders[:, place], minlength=count) - expected) ** 2 / expected).sum()
        assert chi2 < 35  # 6 degrees of freedom: p < 1e-5
    # Chance alone would show 3,783 of the 5,040 orders; a network this small falls a little short.
    assert len({tuple(order) for order in orders.tolist()}) > 3000


def test_uniform_indices():
    count = 10
    drawn = np.asarray(uniform_indices(jax.random.key(0), 20_000, count))
    expected = 20_000 / count
    assert ((np.bincount(drawn, minlength=count) - expected) ** 2 / expected).sum() < 45
    assert (np.asarray(uniform_indices(jax.random.key(0), 50, 1)) == 0).all()


@pytest.mark.parametrize("count", [3, 1_003_846, 1_500_000_000, 2**31 - 1, 2**32 - 1])
def test_uniform_indices_are_the_upper_half_of_a_wide_product(count: int):
    key = jax.random.key(count)
    high, low = np.asarray(jax.random.bits(key, (2, 100), jnp.uint32)).tolist()
    expected = [((h << 32 | l) * count) >> 64 for h, l in zip(high, low, strict=True)]  # noqa: E741
    assert np.asarray(uniform_indices(key, 100, count)).tolist() == expected


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@example(2**32 - 1, 2**32 - 1)
@settings(max_examples=50, deadline=None)
def test_multiply_high(a: int, b: int):
    assert int(_multiply_high(jnp.uint32(a), b)) == a * b >> 32
