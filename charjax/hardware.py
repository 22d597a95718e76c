"""The machine a number came from."""

import datetime
import functools
import importlib.metadata
import platform
from typing import Any

import jax

from charjax import __version__, parallel


def hardware() -> dict[str, Any]:
    """Processor, accelerators, versions and the date, as every result file carries them."""
    devices = jax.local_devices()
    accelerator = None
    if devices[0].platform != "cpu":
        accelerator = f"{len(devices)} x {devices[0].device_kind}"
    return {
        "processor": parallel.processor(),
        "cores": parallel.cores(),
        "accelerator": accelerator,
        "python": platform.python_version(),
        "versions": versions("jax", "jaxlib", "flax", "optax"),
        "date": datetime.date.today().isoformat(),
    }


def in_words(facts: dict[str, Any]) -> str:
    """`2 cores of AMD EPYC, jax 0.12.0, 2026-11-21`; an accelerator stands for the processor."""
    machine = facts.get("accelerator") or f"{facts['cores']} cores of {facts['processor']}"
    return f"{machine}, jax {facts['versions']['jax']}, {facts['date']}"


def versions_in_words(facts: dict[str, Any]) -> str:
    """`python 3.13.0, jax 0.12.0, jaxlib 0.12.0, flax 0.12.0, ...`."""
    used = {"python": facts["python"], **facts["versions"]}
    return ", ".join(f"{name} {version}" for name, version in used.items())


def versions(*packages: str) -> dict[str, str]:
    """The versions of installed packages, and charjax's own, installed or not."""
    return {name: _version(name) for name in packages} | {"charjax": __version__}


@functools.cache
def _version(package: str) -> str:
    # Every checkpoint holds them, and looking them up takes longer than starting to save it.
    return importlib.metadata.version(package)
