"""Which version of a primitive is run: the one place that asks for the device and the shape."""

import platform
import sys
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

# Fewer queries than this a block, and the products are too small; more, and too many of the
# scores are of keys that come later (measured: benchmarks/NOTES.md).
QUERY_BLOCK = 64
# Multiplications in the least gradient of weights that is left to oneDNN.
_ONEDNN_LEAST = 2**28


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

    With loops of several outputs (backend.set_flags) XLA's CPU backend fuses two scatters with
    the same indices, and before jaxlib 0.12 it then ends the process, if neither is onto zeros:
    "Check failed: GetNumDims() == other.GetNumResults() (3 vs. 2)".
    """
    return on_cpu() and jax.__version_info__[:2] < (0, 12)


def onednn_gradient(N: int, D: int, E: int, dtype: Any) -> bool:
    """Whether x' g of x (N, D) and g (N, E) is left to oneDNN in a CPU's training loop.

    XLA's own products (YNNPACK) take no transposed left operand; with jaxlib 0.12 oneDNN
    multiplies those as fast as others, with 0.10 it is not called; it is there on x86 alone. A
    program with oneDNN in it cannot be kept for the next start (backend.compiled), so it has to
    be worth it: products of a millisecond or more. In bfloat16 it is slower (measured:
    benchmarks/NOTES.md).
    """
    is_tried = (0, 12) <= jax.__version_info__[:2] < (0, 13)
    is_there = on_cpu() and sys.platform == "linux" and platform.machine() == "x86_64"
    return is_tried and is_there and dtype == jnp.float32 and N * D * E >= _ONEDNN_LEAST


def weights_gradient_version(
    x_ND: Array, g_NE: Array
) -> Literal["laid out", "laid out, turned", "onednn"]:
    """How x' g is computed on a CPU.

    "laid out": the transpose of x is laid out first; "turned": (g' x)', because the operand to
    be transposed should be the narrower one; "onednn": x is read transposed, by oneDNN.
    """
    (N, D), E = x_ND.shape, g_NE.shape[1]
    if onednn_gradient(N, D, E, x_ND.dtype):
        return "onednn"
    return "laid out, turned" if E < D else "laid out"


def _has_flash_attention() -> bool:
    """CUDA, and an Ampere GPU or a later one."""
    device = jax.local_devices()[0]
    return "cuda" in device.client.platform_version and float(device.compute_capability) >= 8.0
