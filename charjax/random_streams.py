"""Streams of random numbers, split from the one seed of a run by what they are for."""

import zlib
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Purpose = Literal["init", "dropout", "batches"]
Generator = Literal["threefry", "rbg"]

# What is folded into the seed's key. Saved runs depend on the values.
_NUMBERS: dict[Purpose, int] = {"init": 1, "dropout": 2, "batches": zlib.crc32(b"batches")}


# The names that JAX has for them.
_IMPLEMENTATIONS: dict[Generator, str] = {"threefry": "threefry2x32", "rbg": "rbg"}

# Of Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2,
# 3"), as in jax/_src/random/threefry2x32.py.
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)

# The two words of a key, or of many keys: uint32 arrays of equal shape.
Key = tuple[np.ndarray, np.ndarray]


def purpose_key(seed: int | Array, purpose: Purpose, generator: Generator = "threefry") -> Array:
    """Return the typed key of a run's stream of random numbers for one purpose."""
    if isinstance(seed, int) and generator == "threefry" and not _has_offset():
        return folded_keys(seed, np.uint32(_NUMBERS[purpose]))
    key = jax.random.key(seed, impl=_IMPLEMENTATIONS[generator])
    return jax.random.fold_in(key, _NUMBERS[purpose])


def folded_keys(seed: int, numbers: np.ndarray | np.uint32) -> Array:
    """Return `jax.random.fold_in(jax.random.key(seed), number)` of each number, by NumPy.

    JAX would compile two programs for it at every start.

    Args:
      seed: 0 to 2**32 - 1.
      numbers: each 0 to 2**32 - 1, of any shape.
    """
    # Arrays wrap around silently, scalars with a warning.
    words = fold_in((np.zeros(1, np.uint32), np.array([seed], np.uint32)), np.ravel(numbers))
    data = np.stack(words, axis=-1).reshape(*np.shape(numbers), 2)
    return jax.random.wrap_key_data(jnp.asarray(data), impl=_IMPLEMENTATIONS["threefry"])


def _has_offset() -> bool:
    """Return true if JAX adds a number to every seed."""
    return bool(jax.config.values["jax_random_seed_offset"])


def fold_in(key: Key, numbers_K: np.ndarray) -> Key:
    """Return the keys that `jax.random.fold_in` gives for these numbers, each 0 to 2**32 - 1."""
    words_K = numbers_K.astype(np.uint32)
    return threefry(key, (np.zeros_like(words_K), words_K))


def threefry(key: Key, counter: Key) -> Key:
    """Return Threefry-2x32 of counters; keys and counters broadcast."""
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = (y << np.uint32(rotation) | y >> np.uint32(32 - rotation)) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y
