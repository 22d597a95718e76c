"""Facts of the machine: processor, devices, memory, versions."""

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from charjax import __version__

# Environment variables that change what is measured; those that are set are recorded.
_FLAGS = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_PLATFORMS",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_ENABLE_COMPILATION_CACHE",
    "JAX_ENABLE_X64",
    "JAX_NUMPY_DTYPE_PROMOTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
)


def machine_facts() -> dict[str, Any]:
    """Return processor, accelerators, versions and the date, as every result file holds them."""
    devices = jax.local_devices()
    accelerator = None
    if devices[0].platform != "cpu":
        accelerator = f"{len(devices)} x {devices[0].device_kind}"
    return {
        "processor": processor(),
        "cores": cores(),
        "accelerator": accelerator,
        "python": platform.python_version(),
        "versions": versions("jax", "jaxlib", "flax", "optax"),
        "date": datetime.date.today().isoformat(),
    }


def in_words(facts: dict[str, Any]) -> str:
    """Format as `2 cores of AMD EPYC, jax 0.12.0, 2026-11-21`, or with the accelerator's name."""
    machine = facts.get("accelerator") or f"{facts['cores']} cores of {facts['processor']}"
    return f"{machine}, jax {facts['versions']['jax']}, {facts['date']}"


def versions_in_words(facts: dict[str, Any]) -> str:
    """Format as `python 3.13.0, jax 0.12.0, jaxlib 0.12.0, flax 0.12.0, ...`."""
    used = {"python": facts["python"], **facts["versions"]}
    return ", ".join(f"{name} {version}" for name, version in used.items())


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of installed packages and of charjax."""
    return {name: _version(name) for name in packages} | {"charjax": __version__}


@functools.cache
def _version(package: str) -> str:
    # Every checkpoint holds the versions; looking them up takes longer than starting a save.
    return importlib.metadata.version(package)


def describe(devices: list[jax.Device]) -> str:
    """Return the kind of the devices, with the processor's name for a CPU."""
    kind = str(devices[0].device_kind)
    return f"{kind} ({processor()}, {cores()} cores)" if kind == "cpu" else kind


def processor() -> str:
    """Return the name of this machine's processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory(devices: list[jax.Device]) -> int:
    """Return free bytes per device: of its own memory, or its share of the machine's."""
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(devices)


def total_memory(devices: list[jax.Device]) -> int:
    """Return the bytes of memory of each device: its own, or all of the machine's."""
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def environment(devices: list[jax.Device], mesh: Mesh) -> dict[str, Any]:
    """Return the facts on which equal bits depend."""
    used = versions("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "device": describe(devices),
        "devices": mesh.size,
        "cores": cores(),
        "versions": {"python": platform.python_version(), **used},
    }


def flags() -> dict[str, str]:
    """Return the environment variables that are set and change what is measured."""
    return {name: os.environ[name] for name in _FLAGS if name in os.environ}
