"""Devices: starting the backend, the mesh, and what lies where on it.

The only file that names a mesh axis.
"""

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from charjax.caches import user_cache
from charjax.config import RuntimeConfig
from charjax.errors import UserError, printable

_AXIS = "data"
_MULTI_OUTPUT = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"
# The versions that it was tried on; jaxlib's go with JAX's.
_MULTI_OUTPUT_SINCE, _MULTI_OUTPUT_BEFORE = (0, 10), (0, 13)
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
T = TypeVar("T")


def start_backend(config: RuntimeConfig) -> list[jax.Device]:
    """Start JAX on the kind of device asked for, before anything else touches it.

    Returns:
      The local devices.

    Raises:
      UserError: there is no such device.
    """
    set_flags(deterministic=config.deterministic and config.device != "cpu")
    if config.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    _keep_compiled()
    _keep_memory()
    try:
        devices = jax.local_devices()
    except RuntimeError as error:
        raise UserError(
            f"runtime.device: no device could be started: {_first_line(error)}"
        ) from None
    if config.device == "gpu" and devices[0].platform != "gpu":
        raise UserError(
            f'runtime.device: "gpu" given, but JAX finds only {devices[0].platform}; install the '
            '"cuda" extra (pip install "charjax[cuda]"), or use runtime.device=cpu'
        )
    return devices


def set_flags(*, deterministic: bool = False) -> None:
    """Tell XLA what it has to know before it starts; what the user has told it goes first.

    On a CPU it is told to fuse loops over the same elements that give several arrays into one,
    such as the two moments and the step of Adam, or what a cell of a GRU keeps (measured: a
    bigram's step takes 0.6 of the time, an LSTM's 0.93; see benchmarks/NOTES.md).
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    # XLA ends the process at a flag it does not know.
    known = _MULTI_OUTPUT_SINCE <= jax.__version_info__[:2] < _MULTI_OUTPUT_BEFORE
    if known and not any(flag.startswith(_MULTI_OUTPUT.split("=")[0]) for flag in flags):
        flags.append(_MULTI_OUTPUT)
    if deterministic and _DETERMINISTIC not in flags:
        flags.append(_DETERMINISTIC)
    os.environ["XLA_FLAGS"] = " ".join(flags)


def make_device_of_every_core() -> None:
    """Let JAX see a CPU as one device a core, for programs that are split over devices.

    Small products run on one thread each, and so do LAPACK's factorisations: OpenBLAS's threads,
    one a core for every device, wait for each other by spinning (measured: a QR factorisation of
    512 rows 1.2 s instead of 0.03 where another process is at work). To be called before JAX and
    SciPy are started; later it is too late, and changes nothing.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores())


def _keep_compiled() -> None:
    """Keep compiled programs for the next start: in a directory of the user's alone.

    A program is machine code that will be run, so it is never kept where others can write; and
    what one kind of processor compiled is not given to another.
    """
    cache = user_cache()
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or cache is None:
        return
    everything = cache / "compiled"
    folder = everything / hashlib.sha256(processor().encode()).hexdigest()[:12]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _make_private(everything)
        _make_private(folder)
    except OSError as error:
        _warn_once(f"compiled programs are not kept for the next start: {error}")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _keep_memory() -> None:
    """Have the C library keep what is freed, up to 2 GB, for what is asked for next.

    Every call of a compiled program on a CPU asks for its temporary arrays anew. glibc would map
    them each time, and the kernel clear page after page of them (measured: 22 to 34 ms a call of a
    small GPT with 34 MB of them, 8 % of the loop's time).
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - AttributeError where mallopt may be another's
        library.mallopt(_M_MMAP_MAX, 0)
        # The heaps of other threads are given back whole.
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _make_private(folder: Path) -> None:
    """Make a directory that nobody else may look into, or raise an OSError that says why not."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(
            errno.EPERM, "others can write there, so it is not trusted; remove it", str(folder)
        )
    if status.st_mode & 0o077:
        folder.chmod(0o700)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


@functools.cache
def _warn_once(text: str) -> None:
    print(f"warning: {printable(text)}", file=sys.stderr)


def make_mesh(devices: list[jax.Device], batch_size: int) -> Mesh:
    """A mesh of the largest number of devices that divides the batch."""
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return Mesh(np.asarray(devices[:count]), (_AXIS,))


def round_up(rows: int, mesh: Mesh) -> int:
    """The least multiple of the mesh's size that holds so many rows."""
    return -(-rows // mesh.size) * mesh.size


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_over(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(_AXIS))


def on_each_device(
    function: Callable[..., T], mesh: Mesh, split: tuple[bool, ...]
) -> Callable[..., T]:
    """Inside jit: `function` run by every device on its own part.

    Args:
      function: of as many arguments as `split` has places; what it gives has a leading axis that
        is split.
      mesh: the devices.
      split: of each argument, whether its leading axis is split over them; otherwise it is whole.
    """
    if mesh.size == 1:
        return function
    specs = tuple(PartitionSpec(_AXIS) if each else PartitionSpec() for each in split)
    mapped: Callable[..., T] = jax.shard_map(
        function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(_AXIS), check_vma=False
    )
    return mapped


def constrain_batch(batch: T, mesh: Mesh) -> T:
    """Inside jit: split every array of a batch over the devices (scalars stay whole)."""
    if mesh.size == 1:
        return batch
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(
            x, split_over(mesh) if x.ndim else replicated(mesh)
        ),
        batch,
    )


def describe(devices: list[jax.Device]) -> str:
    """The kind of the devices, as the hardware calls itself."""
    kind = str(devices[0].device_kind)
    return f"{kind} ({processor()}, {cores()} cores)" if kind == "cpu" else kind


def processor() -> str:
    """The name of this machine's processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory(devices: list[jax.Device]) -> int:
    """Bytes that each device can still have: its own, or its share of what the machine has free."""
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(devices)


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
