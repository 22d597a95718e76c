"""Measurements of many random networks.

Letters: R networks.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax import parallel
from charjax.reproduction.checks import Poll, Progress

# Networks that a GPU measures at once; a CPU has one on each of its devices.
_ON_GPU = 8


def measure_nets(
    one: Callable[[Array], Any], seed: int, nets: int, progress: Progress, poll: Poll
) -> Any:
    """Measure networks that differ in their key alone.

    Args:
      one: typed key -> a pytree of arrays, the same shapes for every key; it is compiled.
      seed: of the keys.
      nets: R.
      progress: called with networks done and in all.
      poll: called between groups of networks.

    Returns:
      The pytree with a leading axis R, in float64 on the host.
    """
    devices = jax.local_devices()
    group = len(devices) * (1 if devices[0].platform == "cpu" else _ON_GPU)
    mesh = parallel.make_mesh(devices, group)
    split = parallel.split_over(mesh)
    program = jax.jit(jax.vmap(one), in_shardings=split, out_shardings=split)
    # The last group is padded, so that one program serves all groups.
    numbers_R = jnp.arange(-(-nets // group) * group)
    keys_R = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(numbers_R)
    measured = []
    for first in range(0, len(keys_R), group):
        # The default on a GPU is TF32, with ten bits of mantissa.
        with jax.default_matmul_precision("float32"):
            measured.append(program(parallel.place(keys_R[first : first + group], split)))
        if len(measured) > 1:
            # Wait for the previous group alone: signals are answered, and the device never idles.
            jax.block_until_ready(measured[-2])
        poll()
        progress(min(first + group, nets), nets)
    host = jax.device_get(measured)
    return jax.tree.map(lambda *parts: np.concatenate(parts, dtype=np.float64)[:nets], *host)
