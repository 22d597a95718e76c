"""Streams of random numbers, split from the one seed of a run by what they are for."""

import zlib
from typing import Literal

import jax
from jax import Array

Purpose = Literal["init", "dropout", "batches"]

# What is folded into the seed's key. Saved runs depend on the values.
_NUMBERS: dict[Purpose, int] = {"init": 1, "dropout": 2, "batches": zlib.crc32(b"batches")}


def purpose_key(seed: int | Array, purpose: Purpose) -> Array:
    """Return the typed key of a run's stream of random numbers for one purpose."""
    return jax.random.fold_in(jax.random.key(seed), _NUMBERS[purpose])
