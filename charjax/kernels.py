"""The optional package of compiled kernels, `charjax-kernels`: whether it is there and used."""

import functools
import importlib
import os
from typing import Any

from charjax import backend

_PACKAGE = "charjax_kernels"


@functools.cache
def find_kernels() -> Any | None:
    """Return the package, its kernels registered with JAX; None if it is not there or not used.

    `CHARJAX_KERNELS=0` in the environment leaves it unused. Kernels that cannot be loaded are
    warned about, once.
    """
    if os.environ.get("CHARJAX_KERNELS", "") in ("0", "off"):
        return None
    try:
        package = importlib.import_module(_PACKAGE)
    except ImportError:
        return None
    try:
        package.register()
    except (OSError, AttributeError) as error:
        backend.warn_once(f"charjax-kernels is installed but cannot be used: {error}")
        return None
    return package


def kernels_in_words() -> str | None:
    """Return the package's version and instruction set, as records have them; None without it."""
    package = find_kernels()
    return None if package is None else f"{package.__version__} {package.register()}"
