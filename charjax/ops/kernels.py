"""The optional package of compiled kernels, `charjax-kernels`: whether it is there and used."""

import functools
import importlib
import os
from typing import Any

from charjax import cli

_PACKAGE = "charjax_kernels"
# The instruction sets whose products are faster than XLA's.
_FAST = ("avx512", "avx2")


@functools.cache
def find_kernels() -> Any | None:
    """Return the package, its kernels registered with JAX; None if it is not there or not used.

    `CHARJAX_KERNELS=0` in the environment leaves it unused. Kernels that cannot be loaded are
    noted, once.
    """
    if os.environ.get("CHARJAX_KERNELS", "") in ("0", "off"):
        return None
    try:
        package = importlib.import_module(_PACKAGE)
    except ImportError:
        return None
    try:
        package.register()
    except (OSError, AttributeError, RuntimeError) as error:
        # A RuntimeError is XLA's, of a package that was built beside a newer JAX.
        cli.remark(f"charjax-kernels is installed but cannot be used: {error}")
        return None
    return package


def kernels_in_words() -> str | None:
    """Return the package's version and instruction set, as records have them; None without it."""
    package = find_kernels()
    return None if package is None else f"{package.__version__} {package.register()}"


def find_products() -> Any | None:
    """Return the package if its products of matrices are used here, as `find_kernels` does."""
    package = find_kernels()
    # The first version had none.
    if package is None or not hasattr(package, "PRODUCT") or package.register() not in _FAST:
        return None
    return package
