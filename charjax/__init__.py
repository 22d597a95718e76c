"""charjax: a character-level language-model laboratory in JAX.

    import charjax

    run = charjax.fit("nanogpt-cpu", "train.steps=500", workdir="runs/a")
    run = charjax.load("runs/a")
    run.sample("ROMEO:", n=5, temperature=0.8)
    charjax.compare(["runs/a", "runs/b"])
    charjax.load_sweep("runs/sweep", "layers")

JAX is imported only when one of these is used.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from charjax import signals
from charjax.errors import UserError

if TYPE_CHECKING:
    from charjax.api import Comparison, Evaluation, Run, compare, fit, load, load_sweep
    from charjax.config import Config

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Config",
    "Evaluation",
    "Run",
    "UserError",
    "compare",
    "fit",
    "load",
    "load_sweep",
]

# So it is while `python -m` looks for one of the commands, and at no other time.
if sys.argv[:1] == ["-m"]:
    signals.before_imports()


def __getattr__(name: str) -> Any:
    """Import what is used, and no more."""
    if name not in __all__:
        raise AttributeError(f"module 'charjax' has no attribute {name!r}")
    module = "charjax.config" if name == "Config" else "charjax.api"
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
