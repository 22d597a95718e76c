"""Indices that are drawn on the host are those that are drawn on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charjax.data import host_indices, indices
from charjax.random_streams import Key, fold_in

B = 12
STEPS = np.array([0, 1, 7, 2**31 - 2])
_fold = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))


def words(key: jax.Array) -> Key:
    first, second = np.moveaxis(np.asarray(jax.random.key_data(key)), -1, 0)
    return np.asarray(first), np.asarray(second)


@given(st.integers(0, 2**32 - 1))
@example(0)
@settings(max_examples=4, deadline=None)
def test_keys_and_bits_are_those_of_jax(seed: int):
    key = jax.random.key(seed)
    keys_K = _fold(key, jnp.asarray(STEPS, jnp.uint32))
    drawn = fold_in(words(key), STEPS)
    np.testing.assert_array_equal(drawn, words(keys_K))
    bits = [jax.random.bits(one, (2, B), jnp.uint32) for one in keys_K]
    found = host_indices.random_bits(drawn, 2 * B).reshape(len(STEPS), 2, B)
    np.testing.assert_array_equal(found, np.stack(bits))


COUNTS = [1, 2, 3, 1000, 65_536, 1_003_846, 2**31 - 1]


@pytest.mark.parametrize("count", [*COUNTS, 2**32 - 1])
@pytest.mark.quick("1003846", "4294967295")
def test_uniform_indices_are_those_of_the_device(count: int):
    key = jax.random.key(count)
    keys = [jax.random.fold_in(key, int(step)) for step in STEPS]
    expected = np.stack([indices.uniform_indices(one, B, count) for one in keys])
    drawn_KB = host_indices.uniform_indices(fold_in(words(key), STEPS), B, count)
    np.testing.assert_array_equal(drawn_KB, expected)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.quick("1003846")
def test_shuffled_indices_are_those_of_the_device(count: int):
    key = jax.random.key(count)
    places_KB = (np.arange(2 * B).reshape(2, B) * 7919) % count
    keys = [jax.random.fold_in(key, step) for step in range(2)]
    expected = [
        indices.shuffled_indices(one, jnp.asarray(places_B, jnp.uint32), count)
        for one, places_B in zip(keys, places_KB, strict=True)
    ]
    keys_K = fold_in(words(key), np.arange(2))
    np.testing.assert_array_equal(
        host_indices.shuffled_indices(keys_K, places_KB, count), np.stack(expected)
    )


@given(st.integers(1, 2**63 - 1), st.integers(0, 2**32 - 1))
@example(2**63 - 1, 0)
@example(2**32, 1)
@settings(max_examples=50, deadline=None)
def test_uniform_indices_are_the_upper_half_of_a_wide_product(count: int, seed: int):
    key = words(jax.random.key(seed))
    key_1 = fold_in(key, np.zeros(1))
    high_B, low_B = host_indices.random_bits(key_1, 2 * B).reshape(2, B).tolist()
    expected = [((h << 32 | low) * count) >> 64 for h, low in zip(high_B, low_B, strict=True)]
    assert host_indices.uniform_indices(key_1, B, count).tolist() == [expected]


@pytest.mark.parametrize("count", [2**31 + 11, 2**32 + 5, 3 * 10**12, 2**62])
def test_the_largest_permutations_stay_in_bounds(count: int):
    key_1 = fold_in(words(jax.random.key(3)), np.zeros(1))
    places = np.concatenate([np.arange(2500), count - 1 - np.arange(2500)])
    order = host_indices.shuffled_indices(key_1, places[None], count)[0]
    assert len(set(order.tolist())) == len(places)
    assert order.min() >= 0
    assert order.max() < count
    assert abs(order.astype(np.float64).mean() / count - 0.5) < 0.02
    assert order.max() > 0.9 * count
