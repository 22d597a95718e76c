"""Importing charjax changes nothing in the process but sys.modules."""

import subprocess
import sys

_PROGRAM = """
import importlib, importlib.util, logging, os, pkgutil, signal, sys, threading, warnings
# They change settings of their own.
import flax.linen, jax, matplotlib.figure, optax, pandas, pydantic, scipy.sparse.linalg
import scipy.special

def settings():
    return {
        "environment": dict(os.environ),
        "unraisablehook": sys.unraisablehook,
        "excepthook": (sys.excepthook, threading.excepthook),
        "levels": {name: logging.getLogger(name).level for name in ("", "absl", "asyncio", "jax")},
        "handlers": {number: signal.getsignal(number) for number in (2, 15)},
        "warnings": list(warnings.filters),
        "jax": dict(jax.config.values),
        "recursion": sys.getrecursionlimit(),
    }

# What it changes is its own.
has_torch = importlib.util.find_spec("torch") is not None
if has_torch:
    import torch
before = settings()
import charjax
for module in pkgutil.walk_packages(charjax.__path__, "charjax."):
    needs_torch = module.name.startswith("charjax.pytorch.") and not has_torch
    if not module.name.endswith("__main__") and not needs_torch:
        importlib.import_module(module.name)
after = settings()
print([name for name in before if before[name] != after[name]])
print(jax._src.xla_bridge.backends_are_initialized())
"""


def test_imports_have_no_side_effects():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[]\nFalse\n", "")
