"""Which version of a primitive is run: the one place that asks for the device and the shape."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

# Fewer queries than this a block, and the products are too small; more, and too many of the
# scores are of keys that come later (measured: benchmarks/NOTES.md).
QUERY_BLOCK = 64


def on_cpu() -> bool:
    """Whether XLA's CPU backend compiles what is being traced."""
    return jax.default_backend() == "cpu"


def attention_version(q_BTHK: Array, dropout_rate: float) -> Literal["blocks", "cudnn", "plain"]:
    """Blocks of queries on a CPU; cuDNN's kernel on a CUDA GPU where it takes the operands."""
    K = q_BTHK.shape[-1]
    if on_cpu():
        return "blocks"
    taken = q_BTHK.dtype == jnp.bfloat16 and K % 8 == 0 and K <= 128 and not dropout_rate
    return "cudnn" if taken and _has_flash_attention() else "plain"


def narrow_first(d_input: int, d_output: int) -> bool:
    """Whether a weights' gradient is computed as (g' x)' instead of x' g, on a CPU.

    The operand that is read transposed should be the narrower one. XLA does x' g.
    """
    return d_output < d_input


def _has_flash_attention() -> bool:
    """CUDA, and an Ampere GPU or a later one."""
    device = jax.local_devices()[0]
    return "cuda" in device.client.platform_version and float(device.compute_capability) >= 8.0
