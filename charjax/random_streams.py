"""Streams of random numbers, split from the one seed of a run by what they are for."""

import zlib
from typing import Literal

import jax
from jax import Array

Purpose = Literal["init", "dropout", "batches"]
Generator = Literal["threefry", "rbg"]

# What is folded into the seed's key. Saved runs depend on the values.
_NUMBERS: dict[Purpose, int] = {"init": 1, "dropout": 2, "batches": zlib.crc32(b"batches")}


# The names that JAX has for them.
_IMPLEMENTATIONS: dict[Generator, str] = {"threefry": "threefry2x32", "rbg": "rbg"}


def purpose_key(seed: int | Array, purpose: Purpose, generator: Generator = "threefry") -> Array:
    """Return the typed key of a run's stream of random numbers for one purpose."""
    key = jax.random.key(seed, impl=_IMPLEMENTATIONS[generator])
    return jax.random.fold_in(key, _NUMBERS[purpose])
