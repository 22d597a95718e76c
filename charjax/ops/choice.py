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


def owns_scan(T: int) -> bool:
    """Whether a recurrent layer goes along T steps by `ops.recurrence`, or by a scan of its cell.

    A CPU's products gain nothing from being gathered (measured: benchmarks/NOTES.md); a GPU's
    steps are too short for what the scan of a cell does in each. One step is the cell itself.
    """
    return T > 1 and not on_cpu()


def one_hot_gradient(V: int, G: int) -> bool:
    """Whether a table's gradient is a product with its symbols' one-hot vectors, or a scatter.

    The product has no order of additions to leave open, and reads no more than twice what the
    scatter does while the vectors are no wider than the slopes.
    """
    return V <= G


def scatters_stand_apart() -> bool:
    """Whether a scatter must be onto zeros alone.

    With loops of several outputs (parallel.set_flags) XLA's CPU backend fuses two scatters with
    the same indices, and before jaxlib 0.12 it then ends the process, if neither is onto zeros:
    "Check failed: GetNumDims() == other.GetNumResults() (3 vs. 2)".
    """
    return on_cpu() and jax.__version_info__[:2] < (0, 12)


def narrow_first(d_input: int, d_output: int) -> bool:
    """Whether a weights' gradient is computed as (g' x)' instead of x' g, on a CPU.

    The operand that is read transposed should be the narrower one. XLA does x' g.
    """
    return d_output < d_input


def _has_flash_attention() -> bool:
    """CUDA, and an Ampere GPU or a later one."""
    device = jax.local_devices()[0]
    return "cuda" in device.client.platform_version and float(device.compute_capability) >= 8.0
