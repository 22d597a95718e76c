"""Window indices as `charjax.data.indices` draws them, on the host and in 64 bits.

A text that is not on the device may have more than 2**31 tokens. The random words are those of
`jax.random`, computed by NumPy: a program of JAX would wait behind the steps that are in flight.

Letters: K steps, B rows of a batch.
"""

import math

import numpy as np

from charjax.data.indices import ROUNDS
from charjax.random_streams import Key, threefry

_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


def random_bits(key: Key, count: int) -> np.ndarray:
    """Return what `jax.random.bits` draws from each key: (..., count) uint32.

    That is with jax_threefry_partitionable, JAX's default.
    """
    counters = np.arange(count, dtype=np.uint32)
    spread = key[0][..., None], key[1][..., None]
    first, second = threefry(spread, (np.zeros_like(counters), counters))
    return first ^ second


def uniform_indices(keys_K: Key, batch_size: int, count: int) -> np.ndarray:
    """Draw uniform random integers below `count`, with replacement, from each key.

    Args:
      keys_K: K keys.
      batch_size: B.
      count: 1 to 2**63 - 1.

    Returns:
      (K, B) int64, equal to those of `indices.uniform_indices` where that has them.
    """
    words = random_bits(keys_K, 2 * batch_size).astype(np.uint64)
    high_KB, low_KB = words[:, :batch_size], words[:, batch_size:]
    return _multiply_high(high_KB << _HALF | low_KB, count).astype(np.int64)


def _multiply_high(a: np.ndarray, b: int) -> np.ndarray:
    """Return the upper 64 of the 128 bits of a * b, by products of 32-bit halves."""
    a_high, a_low = a >> _HALF, a & _LOW
    b_high, b_low = np.uint64(b >> 32), np.uint64(b & 0xFFFFFFFF)
    upper = a_high * b_low + (a_low * b_low >> _HALF)
    lower = a_low * b_high + (upper & _LOW)
    return a_high * b_high + (upper >> _HALF) + (lower >> _HALF)


def shuffled_indices(keys_K: Key, index_KB: np.ndarray, count: int) -> np.ndarray:
    """Apply the permutation of range(count) that each key selects to positions.

    Args:
      keys_K: K keys.
      index_KB: positions, (K, B) int64 below `count`.
      count: 1 to 2**62.

    Returns:
      (K, B) int64, equal to those of `indices.shuffled_indices` where that has them.
    """
    columns = max(1, math.isqrt(count - 1) + 1)
    rows = -(-count // columns)
    keys_RK = random_bits(keys_K, ROUNDS).T
    x_KB = _network(keys_RK, index_KB.astype(np.uint64), columns, rows)
    while (outside_KB := x_KB >= count).any():
        x_KB = np.where(outside_KB, _network(keys_RK, x_KB, columns, rows), x_KB)
    return x_KB.astype(np.int64)


def _network(keys_RK: np.ndarray, x_KB: np.ndarray, columns: int, rows: int) -> np.ndarray:
    width, height = np.uint32(columns), np.uint32(rows)
    left_KB: np.ndarray = (x_KB % np.uint64(columns)).astype(np.uint32)
    right_KB: np.ndarray = (x_KB // np.uint64(columns)).astype(np.uint32)
    for number in range(0, ROUNDS, 2):
        key_K1, next_K1 = keys_RK[number][:, None], keys_RK[number + 1][:, None]
        left_KB = (left_KB + _mix(right_KB ^ key_K1) % width) % width
        right_KB = (right_KB + _mix(left_KB ^ next_K1) % height) % height
    return left_KB + right_KB * np.uint64(columns)


def _mix(x: np.ndarray) -> np.ndarray:
    """Hash 32 bits, as `indices` does."""
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    return x ^ x >> np.uint32(16)
