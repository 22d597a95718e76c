"""Compiled kernels for charjax, called by XLA's CPU backend through `jax.ffi`.

`charjax` finds this package by itself; nothing else has to be set. `CHARJAX_KERNELS=0` leaves it
unused, and `CHARJAX_KERNELS_ISA` (avx512, avx2, generic) asks for a certain instruction set.
"""

import ctypes
import functools
from pathlib import Path

import jax

__version__ = "0.1.0"
# Trains one-hidden-layer MLPs; its operands are described in mlp_step.h.
TRAIN_MLP = "charjax_train_mlp"


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
    capsule = jax.ffi.pycapsule(getattr(library, TRAIN_MLP))
    jax.ffi.register_ffi_target(TRAIN_MLP, capsule, platform="cpu")
    library.charjax_instruction_set.restype = ctypes.c_char_p
    name: bytes = library.charjax_instruction_set()
    return name.decode()
