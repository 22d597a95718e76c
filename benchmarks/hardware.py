"""The machine a number came from."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any


def hardware() -> dict[str, Any]:
    """Processor, cores, versions and the date, as every result file carries them."""
    packages = ("jax", "jaxlib", "flax", "optax", "charjax")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
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


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
