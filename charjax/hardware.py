"""Facts of the machine: processor, devices, memory, versions."""

import contextlib
import datetime
import functools
import importlib.metadata
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from charjax import __version__
from charjax.cli import remark

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
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    # macOS has no /proc, and platform.processor() is the same for all of Apple's.
    brand = _output_on_macos("sysctl", "-n", "machdep.cpu.brand_string").strip()
    return brand or platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory(devices: list[jax.Device]) -> float:
    """Return free bytes per device: of its own memory, or its share of `free_memory`."""
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return free_memory() / len(devices)


def total_memory(devices: list[jax.Device]) -> float:
    """Return the bytes of memory of each device: its own, or `physical_memory`."""
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    return physical_memory()


def free_memory() -> float:
    """Return the free bytes of this machine's memory.

    Where the system does not report them, half of the physical memory.
    """
    pages = _sysconf("SC_AVPHYS_PAGES")
    if pages:
        return pages * _sysconf("SC_PAGE_SIZE")
    counts = _output_on_macos("vm_stat")
    # Inactive and speculative pages are given to whoever needs them.
    found = re.findall(r"^Pages (?:free|inactive|speculative):\s+(\d+)\.$", counts, re.MULTILINE)
    size = re.search(r"page size of (\d+) bytes", counts)
    if found and size:
        return float(sum(map(int, found)) * int(size[1]))
    return physical_memory() / 2


def physical_memory() -> float:
    """Return the bytes of this machine's memory.

    Where the system does not report them, infinity, with a note: nothing is checked against it.
    """
    found = _sysconf("SC_PHYS_PAGES") * _sysconf("SC_PAGE_SIZE")
    if not found:
        size = _output_on_macos("sysctl", "-n", "hw.memsize").strip()
        found = float(size) if size.isdecimal() else 0.0
    if not found:
        _note_unknown_memory()
    return found or math.inf


def _sysconf(name: str) -> float:
    """Return a value of the system's configuration, 0 where it has none."""
    try:
        return float(max(0, os.sysconf(name)))
    except (AttributeError, ValueError, OSError):
        return 0.0


def _output_on_macos(*command: str) -> str:
    """Return the output of a command of macOS, empty elsewhere or if it fails."""
    if sys.platform != "darwin":
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


@functools.cache
def _note_unknown_memory() -> None:
    remark("the system does not report its memory: what would not fit is not refused")


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
