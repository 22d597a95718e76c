"""Window indices of a batch: uniform draws, and a shuffled order without a table in memory.

All arithmetic is on uint32, the widest integers of JAX by default. Letters: B rows of a batch.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

ROUNDS = 8


def uniform_indices(key: Array, batch_size: int, count: int) -> Array:
    """Draw uniform random integers below `count`, with replacement.

    Each is floor(u * count / 2**64) with a 64-bit random u. (`jax.random.randint` takes 32 random
    bits modulo `count`: in a text of 10**9 characters, some indices would be 5/4 times as likely
    as the others.)

    Args:
      key: a typed PRNG key.
      batch_size: B.
      count: 1 to 2**32 - 1.

    Returns:
      (B,) uint32.
    """
    high_B, low_B = jax.random.bits(key, (2, batch_size), jnp.uint32)
    carry_B = _multiply_high(low_B, count)
    middle_B = high_B * jnp.uint32(count) + carry_B
    return _multiply_high(high_B, count) + (middle_B < carry_B).astype(jnp.uint32)


def _multiply_high(a: Array, b: int) -> Array:
    """Return the upper 32 of the 64 bits of a * b, by products of 16-bit halves."""
    a_high, a_low = a >> 16, a & 0xFFFF
    b_high, b_low = jnp.uint32(b >> 16), jnp.uint32(b & 0xFFFF)
    upper = a_high * b_low + (a_low * b_low >> 16)
    lower = a_low * b_high + (upper & 0xFFFF)
    return a_high * b_high + (upper >> 16) + (lower >> 16)


def shuffled_indices(key: Array, index_B: Array, count: int) -> Array:
    """Apply a keyed permutation of range(count) to positions.

    A generalised Feistel network on Z_a x Z_b with a * b just above `count`, with cycle-walking: a
    value of at least `count` is permuted again (Black and Rogaway 2002, "Ciphers with Arbitrary
    Finite Domains"). Every round is a bijection, so the network is a permutation for every key.

    Args:
      key: a typed PRNG key; it selects the permutation.
      index_B: positions, (B,) uint32 below `count`.
      count: 1 to 2**31.

    Returns:
      (B,) uint32 below `count`.
    """
    columns = max(1, math.isqrt(count - 1) + 1)
    rows = -(-count // columns)
    keys = jax.random.bits(key, (ROUNDS,), jnp.uint32)

    def network(x_B: Array) -> Array:
        left_B, right_B = x_B % columns, x_B // columns
        for number in range(0, ROUNDS, 2):
            left_B = (left_B + _mix(right_B ^ keys[number]) % columns) % columns
            right_B = (right_B + _mix(left_B ^ keys[number + 1]) % rows) % rows
        return left_B + right_B * jnp.uint32(columns)

    return jax.lax.while_loop(
        lambda x_B: jnp.any(x_B >= count),
        lambda x_B: jnp.where(x_B >= count, network(x_B), x_B),
        network(index_B),
    )


def _mix(x: Array) -> Array:
    """Hash 32 bits; every input bit affects every output bit (lowbias32, Wellons 2018)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
