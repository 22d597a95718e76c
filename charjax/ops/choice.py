"""The choice of a primitive's version: the one place that depends on device and shape.

A program is traced for the devices of the mesh of `parallel.target`, which need not be those of
this process (it may be compiled for a TPU on a machine that has none); without one, for JAX's
default device.
"""

import importlib.util
import platform
import sys
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from charjax.ops.kernels import find_products

# Fewer queries than this a block, and the products are too small; more, and too many of the
# scores are of keys that come later (measured: benchmarks/NOTES.md).
QUERY_BLOCK = 64
# Queries of a text up to which a CPU's blocks are unrolled; longer ones are read in tiles by a loop
# (measured: benchmarks/NOTES.md).
LONGEST_UNROLLED = 512
# Multiplications in the least gradient of weights that is left to oneDNN.
_ONEDNN_LEAST = 2**28
# Multiplications in the least product, and the least attention, that a compiled kernel computes
# (measured: benchmarks/NOTES.md).
_COMPILED_LEAST, _COMPILED_ATTENTION_LEAST = 2**26, 2**20
# Multiplications in the least product that a CPU computes in bfloat16.
_BFLOAT16_LEAST = 2**20


def on_cpu() -> bool:
    """Return true if XLA's CPU backend compiles the current trace."""
    return _platform() == "cpu"


def compiles_layers_once(n_layer: int) -> bool:
    """Return true if equal blocks are trained in a loop, which a compiler compiles once.

    A TPU's compiler schedules the instructions of each fusion anew in every block; a CPU's is
    fast, and its steps are slower in a loop (measured: benchmarks/NOTES.md). On a GPU neither is
    measured.
    """
    return n_layer > 1 and _platform() == "tpu"


def stores_masks() -> bool:
    """Return true if a mask of dropout is drawn into memory, false if its readers may draw it.

    Drawing is much code, and a TPU's compiler would put it into each product that reads a mask.
    """
    return _platform() == "tpu"


def mask_generator() -> Literal["threefry", "rbg"]:
    """Choose the generator of dropout masks ("auto"): the device's own on a TPU."""
    return "rbg" if _platform() == "tpu" else "threefry"


def attention_version(
    q_BTHK: Array, dropout_rate: float, softcap: float = 0.0
) -> Literal["blocks", "cudnn", "plain", "tiles"]:
    """Choose tiles or blocks of queries on a CPU, cuDNN on a CUDA GPU where it takes the operands.

    Only tiles and the plain version cap scores.
    """
    if on_cpu() and q_BTHK.shape[1] > LONGEST_UNROLLED:
        return "tiles"
    if softcap:
        return "plain"
    K = q_BTHK.shape[-1]
    if on_cpu():
        return "blocks"
    is_supported = q_BTHK.dtype == jnp.bfloat16 and K % 8 == 0 and K <= 128 and not dropout_rate
    return "cudnn" if is_supported and _has_flash_attention() else "plain"


def owns_scan(T: int) -> bool:
    """Return true if `ops.recurrence` scans T steps of a recurrent layer, false for a plain scan.

    A CPU's products gain nothing from being gathered (measured: benchmarks/NOTES.md); a GPU's
    steps are too short for what the scan of a cell does in each. One step is the cell itself.
    """
    return T > 1 and not on_cpu()


def one_hot_gradient(V: int, G: int) -> bool:
    """Return true for a table's gradient as a product with one-hot vectors, false for a scatter.

    The product's order of additions is fixed, and it reads no more than twice as much as the
    scatter while the vectors are no wider than the gradients.
    """
    return V <= G


def scatters_stand_apart() -> bool:
    """Return true if a scatter must be onto zeros alone.

    With loops of several outputs (backend.set_flags) XLA's CPU backend fuses two scatters with
    the same indices, and before jaxlib 0.12 a failed check then ends the process ("GetNumDims()
    == other.GetNumResults()"). A barrier before the scatter prevents the fusion.
    """
    return on_cpu() and jax.__version_info__[:2] < (0, 12)


def onednn_gradient(N: int, D: int, E: int, dtype: Any) -> bool:
    """Return true if oneDNN computes x' g of x (N, D) and g (N, E) in a CPU's training loop.

    XLA's own products (YNNPACK) take no transposed left operand; with jaxlib 0.12 oneDNN
    multiplies those as fast as others, with 0.10 it is not called; it is there on x86 alone. A
    program with oneDNN in it cannot be cached for the next start (backend.compiled), so it has to
    be worth it: products of a millisecond or more. In bfloat16 it is slower (measured:
    benchmarks/NOTES.md).
    """
    is_tried = (0, 12) <= jax.__version_info__[:2] < (0, 13)
    is_there = on_cpu() and sys.platform == "linux" and platform.machine() == "x86_64"
    is_large = dtype == jnp.float32 and N * D * E >= _ONEDNN_LEAST
    return is_tried and is_there and is_large and not is_compiled_product(N, D, E, dtype)


def is_compiled_product(N: int, D: int, E: int, dtype: Any) -> bool:
    """Return true if a compiled kernel multiplies (N, D) by (D, E), and computes both gradients."""
    is_large = on_cpu() and dtype == jnp.float32 and N * D * E >= _COMPILED_LEAST
    return is_large and find_products() is not None


def is_compiled_attention(B: int, T: int, D: int, dtype: Any) -> bool:
    """Return true if a compiled kernel attends over T positions of B texts, all heads D wide."""
    is_covered = on_cpu() and dtype == jnp.float32 and T <= LONGEST_UNROLLED
    return is_covered and B * T * T * D >= _COMPILED_ATTENTION_LEAST and find_products() is not None


def is_small_product(N: int, D: int, E: int) -> bool:
    """Return true if (N, D) times (D, E) gains nothing from bfloat16 on a CPU.

    Rounding operands, results and gradients takes longer than the product saves (measured:
    benchmarks/NOTES.md).
    """
    return on_cpu() and N * D * E < _BFLOAT16_LEAST


def weights_gradient_version(
    x_ND: Array, g_NE: Array
) -> Literal["laid out", "laid out, turned", "onednn"]:
    """Choose the computation of x' g on a CPU.

    "laid out": the transpose of x is copied first; "turned": (g' x)', because the operand to be
    transposed should be the narrower one; "onednn": oneDNN reads x transposed.
    """
    (N, D), E = x_ND.shape, g_NE.shape[1]
    if onednn_gradient(N, D, E, x_ND.dtype):
        return "onednn"
    return "laid out, turned" if E < D else "laid out"


def _platform() -> str:
    """Return the platform that the current trace is for, such as cpu, gpu, cuda or tpu."""
    # Part of the context that JAX caches traces by, so no target is given another's trace.
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else str(device.platform)


def _has_flash_attention() -> bool:
    """CUDA, and an Ampere GPU or a later one, as are all that can be compiled for in absence."""
    local, target = jax.local_devices()[0], jax.sharding.get_abstract_mesh().abstract_device
    if target is None or target.device_kind == local.device_kind:
        is_cuda = "cuda" in local.client.platform_version
        return is_cuda and float(local.compute_capability) >= 8.0
    is_cuda = target.platform in ("cuda", "gpu") and target.device_kind.startswith("NVIDIA")
    return is_cuda and _has_cudnn()


def _has_cudnn() -> bool:
    return bool(importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.cudnn"))
