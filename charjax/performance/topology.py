"""Compiling for devices that are not there: TPUs by libtpu, GPUs by JAX's CUDA plugin.

Neither needs the hardware or a driver. The compiler gives the size of a program's arrays, and its
text shows what the device would run.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import os
import re
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from charjax import parallel
from charjax.errors import UserError, did_you_mean
from charjax.performance.gpu_target import GPUS, target_config
from charjax.performance.programs import Program

# Slices of chips: https://docs.cloud.google.com/tpu/docs/v5e, v6e and v5p.
_FLAT = {
    1: "1x1",
    4: "2x2",
    8: "2x4",
    16: "4x4",
    32: "4x8",
    64: "8x8",
    128: "8x16",
    256: "16x16",
}
_DEEP = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}
TPUS = {"v5e": _FLAT, "v6e": _FLAT, "v5p": _DEEP}
DEVICES = (*GPUS, *TPUS)
# On one machine; more are several machines of so many each.
_GPUS_PER_HOST = 8
_INSTALL = 'pip install "charjax[aot]"'
# Read by libtpu when it is loaded. Without them it looks for a TPU's machine: in the metadata
# service of a cloud for half a minute, in a lock file that another process may hold, in variables
# whose absence it reports on stderr.
_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
_CUDA_PLUGIN = "jax_plugins.xla_cuda12"
# Without it the plugin refuses to start where there is no cuDNN.
_CUDA = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
# As in "Used 19.92G of 15.75G hbm" and "required for HLO temporaries (32.00G) exceeds available HBM
# (15.75G)".
_TOO_LARGE = re.compile(
    r"(?:Used ([\d.]+)([KMGT]?) of|\(([\d.]+)([KMGT]?)\) exceeds available HBM) "
    r"\(?([\d.]+)([KMGT]?)\)?"
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class DoesNotFitError(Exception):
    """A program that a TPU's compiler refuses for its size.

    Attributes:
      needed: bytes per device.
      available: bytes of a device's memory that programs can use.
    """

    def __init__(self, needed: int, available: int):
        super().__init__(f"{needed:,} bytes of {available:,}")
        self.needed, self.available = needed, available


@dataclasses.dataclass(frozen=True)
class Compilation:
    """A compiled program; sizes are bytes per device, as its compiler gives them.

    Attributes:
      executable: JAX's.
      seconds: taken to trace, lower and compile.
      argument: bytes of the arguments.
      output: bytes of the results.
      alias: bytes of results that are in the memory of an argument.
      temporary: bytes of temporary arrays.
      peak: a CPU's compiler leaves temporary arrays out of it; a TPU's gives it by its own
        accounts, up to 2.5 times less than the sum for small programs.
      flops: None where the compiler does not count them, as for CUDA. A loop's body counts once.
    """

    executable: jax.stages.Compiled
    seconds: float
    argument: int
    output: int
    alias: int
    temporary: int
    peak: int
    flops: float | None

    @property
    def total(self) -> int:
        """Bytes of all arrays: arguments, results and temporary ones."""
        return self.argument + self.output - self.alias + self.temporary

    def text(self) -> str:
        """Return the optimized program as the device would run it, in XLA's HLO."""
        return self.executable.as_text() or ""


def compile_mesh(device: str, count: int) -> Mesh:
    """Return a mesh of devices to compile for; no array can be placed on it.

    GPUs are those of one machine, up to 8, or of several machines with 8 each.

    Args:
      device: of `DEVICES`.
      count: devices.

    Raises:
      UserError: an unknown device, a number of them that is not lent together, or the extra "aot"
        is not installed.
    """
    if device in TPUS:
        if count not in TPUS[device]:
            _refuse_count(device, count, ", ".join(map(str, TPUS[device])))
        check_installed(device)
        found = _tpus(f"{device}:{TPUS[device][count]}")
    elif device in GPUS:
        hosts, rest = divmod(count, _GPUS_PER_HOST)
        if count < 1 or (hosts and rest):
            _refuse_count(device, count, "1 to 8, or a multiple of 8")
        check_installed(device)
        found = _gpus(device, f"1x{hosts}x8" if hosts else f"1x1x{count}")
    else:
        raise UserError(
            f"device: {device!r} given; allowed: {', '.join(DEVICES)}"
            f"{did_you_mean(device, DEVICES)}"
        )
    return parallel.make_mesh(found, len(found))


def check_installed(device: str) -> None:
    """Raise a UserError that names the extra if a device cannot be compiled for here."""
    if device in TPUS and importlib.util.find_spec("libtpu") is None:
        raise UserError(f"compiling for a TPU needs libtpu, which is not installed; {_INSTALL}")
    if device in GPUS and not _has_cuda_plugin():
        raise UserError(
            f"compiling for a GPU needs jax-cuda12-plugin, which is not installed; {_INSTALL}"
        )


def compiled(program: Program) -> Compilation:
    """Compile a program for its mesh, with the options of a run.

    Raises:
      DoesNotFitError: a TPU's compiler refuses it. A GPU's compiles what does not fit.
    """
    began = time.perf_counter()
    try:
        executable = program.compile()
    except jax.errors.JaxRuntimeError as error:
        raise too_large(str(error)) or error from None
    seconds = time.perf_counter() - began
    memory: Any = executable.memory_analysis()
    return Compilation(
        executable,
        seconds,
        argument=memory.argument_size_in_bytes,
        output=memory.output_size_in_bytes,
        alias=memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        flops=_flops(executable),
    )


def _refuse_count(device: str, count: int, allowed: str) -> NoReturn:
    raise UserError(f"count: {count} given; {device} comes in {allowed}")


def _tpus(name: str) -> list[Any]:
    with _set(_LIBTPU):
        return _devices("tpu", topology_name=name)


def _gpus(device: str, name: str) -> list[Any]:
    config = target_config(GPUS[device])
    with _set(_CUDA):
        try:
            return _devices("cuda", topology=name, target_config=config)
        except NotImplementedError:
            # JAX started without the variable, and the plugin did not.
            importlib.import_module(_CUDA_PLUGIN).initialize()
            return _devices("cuda", topology=name, target_config=config)


def _has_cuda_plugin() -> bool:
    # The parent first: find_spec imports it.
    parent = _CUDA_PLUGIN.partition(".")[0]
    return all(importlib.util.find_spec(name) for name in (parent, _CUDA_PLUGIN))


def _devices(platform: str, **named: Any) -> list[Any]:
    return list(topologies.get_topology_desc(platform=platform, **named).devices)


@contextlib.contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    """Set variables that are not set, and remove them again: other processes may have a TPU."""
    added = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _flops(executable: jax.stages.Compiled) -> float | None:
    analysis: Any = executable.cost_analysis()
    flops = (analysis or {}).get("flops")
    return None if flops is None or not np.isfinite(flops) or flops <= 0 else float(flops)


def too_large(message: str) -> DoesNotFitError | None:
    """Return the error for a TPU compiler's message that a program does not fit, else None."""
    found = _TOO_LARGE.search(message) if "RESOURCE_EXHAUSTED" in message else None
    if found is None:
        return None
    numbers = [word for word in found.groups() if word is not None]
    needed, available = (
        int(float(number) * _UNITS[unit])
        for number, unit in zip(numbers[::2], numbers[1::2], strict=True)
    )
    return DoesNotFitError(needed, available)
