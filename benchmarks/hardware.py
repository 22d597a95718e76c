"""The machine a number came from."""

import datetime
import importlib.metadata
import platform
from typing import Any

from charjax import parallel


def hardware() -> dict[str, Any]:
    """Processor, cores, versions and the date, as every result file carries them."""
    packages = ("jax", "jaxlib", "flax", "optax", "charjax")
    return {
        "processor": parallel.processor(),
        "cores": parallel.cores(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "date": datetime.date.today().isoformat(),
    }


def in_words(facts: dict[str, Any]) -> str:
    """`2 cores of an AMD EPYC, jax 0.12.0, 2026-11-21`."""
    return (
        f"{facts['cores']} cores of {facts['processor']}, jax {facts['versions']['jax']}, "
        f"{facts['date']}"
    )
