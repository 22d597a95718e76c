"""Compiled kernels for charjax, called by XLA's CPU backend through `jax.ffi`.

`charjax` finds this package by itself; nothing else has to be set. `CHARJAX_KERNELS=0` leaves it
unused, and `CHARJAX_KERNELS_ISA` (avx512, avx2, generic) asks for a certain instruction set.
"""

import ctypes
import functools
from pathlib import Path

import jax

__version__ = "0.2.0"
# Trains one-hidden-layer MLPs; its operands are described in mlp_step.h.
TRAIN_MLP = "charjax_train_mlp"
# Generates one text by a transformer; its operands are described in decode.cc.
DECODE = "charjax_decode"
# Products of a GPT and its attention; their operands are described in gpt.cc.
PRODUCT, PRODUCT_GELU = "charjax_product", "charjax_product_gelu"
PRODUCT_FACTOR = "charjax_product_factor"
ATTENTION, ATTENTION_GRADIENT = "charjax_attention", "charjax_attention_gradient"
# Queries of a block of attention, and the multiple of keys that its saved weights reach to.
QUERIES, PAD = 32, 16
_TARGETS = (
    TRAIN_MLP,
    DECODE,
    PRODUCT,
    PRODUCT_GELU,
    PRODUCT_FACTOR,
    ATTENTION,
    ATTENTION_GRADIENT,
)


@functools.cache
def register() -> str:
    """Make the kernels known to JAX; return the instruction set that they use here.

    Raises:
      OSError: the library is not there, or cannot be loaded.
    """
    found = [
        *Path(__file__).parent.glob("_library*.so"),
        *Path(__file__).parent.glob("_library*.pyd"),
    ]
    if not found:
        raise OSError(f"no compiled library beside {__file__}")
    library = ctypes.CDLL(str(found[0]))
    for target in _TARGETS:
        capsule = jax.ffi.pycapsule(getattr(library, target))
        jax.ffi.register_ffi_target(target, capsule, platform="cpu")
    library.charjax_instruction_set.restype = ctypes.c_char_p
    name: bytes = library.charjax_instruction_set()
    return name.decode()
