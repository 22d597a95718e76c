"""Keys computed on the host are those of jax.random."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.random_streams import folded_keys, purpose_key

NUMBERS = {"init": 1, "dropout": 2, "batches": zlib.crc32(b"batches")}


@pytest.mark.parametrize("purpose", NUMBERS)
@pytest.mark.parametrize("seed", [0, 1, 1337, 2**32 - 1])
def test_a_key_is_that_of_jax(purpose, seed: int):
    key = purpose_key(seed, purpose)
    # Strict: the same kind of key, not only the same words.
    expected = jax.random.fold_in(jax.random.key(seed), NUMBERS[purpose])
    assert (key.dtype, key.shape) == (expected.dtype, ())
    assert jax.random.key_data(key).tolist() == jax.random.key_data(expected).tolist()
    # A seed that is a number inside a program gives the same.
    traced = jax.jit(lambda seed: purpose_key(seed, purpose))(jnp.uint32(seed))
    assert jax.random.key_data(traced).tolist() == jax.random.key_data(expected).tolist()


def test_many_keys_at_once():
    numbers = np.arange(5)
    expected = [jax.random.fold_in(jax.random.key(7), number) for number in range(5)]
    found = jax.random.key_data(folded_keys(7, numbers))
    assert found.tolist() == [jax.random.key_data(key).tolist() for key in expected]
    assert jax.random.uniform(folded_keys(7, numbers)[3]) == jax.random.uniform(expected[3])


def test_an_offset_of_seeds_is_kept():
    jax.config.update("jax_random_seed_offset", 5)
    try:
        key = purpose_key(1, "init")
        expected = jax.random.fold_in(jax.random.key(1), 1)
    finally:
        jax.config.update("jax_random_seed_offset", 0)
    assert jax.random.key_data(key).tolist() == jax.random.key_data(expected).tolist()
    assert jax.random.key_data(key).tolist() != jax.random.key_data(purpose_key(1, "init")).tolist()
