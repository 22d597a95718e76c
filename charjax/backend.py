"""Starting JAX: devices, XLA's flags, the C library's memory, the cache of compiled programs."""

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from charjax.config import RuntimeConfig
from charjax.errors import UserError, printable
from charjax.files import user_cache
from charjax.hardware import cores, processor

_MULTI_OUTPUT = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"
# The versions that XLA's flags and options were tried on; jaxlib's go with JAX's.
_TRIED_SINCE, _TRIED_BEFORE = (0, 10), (0, 13)
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# The extra of charjax that brings JAX's support of an accelerator.
_EXTRAS = {"gpu": "cuda", "tpu": "tpu"}
# By default XLA warns when a device waits for another, and ends the process after a minute: a run
# may have been suspended for longer.
_PATIENT = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=600",
    "--xla_cpu_collective_call_terminate_timeout_seconds=1000000",
)
# XLA's default and WHILE: loops are CUDA graphs, and no turn waits until the host has read whether
# there is another. The pass would have arrays of a scan copied at offsets that a graph cannot
# compute, and loops around them would stay outside. COLLECTIVES is left out: CUDA refuses loops
# with NCCL's nodes (https://github.com/NVIDIA/nccl/issues/1986), so with several GPUs the host
# reads once per step whether there is another.
_LOOP_IN_GRAPH: dict[str, bool | str] = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,COLLECTIVES_KERNEL,"
    "DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE",
    "xla_disable_hlo_passes": "dynamic-slice-annotator",
}
# XLA's default sums the gradients over the devices in parts: 30 MB on GPUs, about 128 MB on TPUs.
_ONE_ALL_REDUCE: dict[str, dict[str, bool | str]] = {
    "gpu": {"xla_gpu_all_reduce_combine_threshold_bytes": str(2**62)},
    "tpu": {"xla_jf_crs_combiner_threshold_in_bytes": str(2**62)},
}


# Not empty once the C library is configured.
_memory_is_kept: list[bool] = []


def start_backend(
    config: RuntimeConfig,
    *,
    core_devices: bool = False,
    large_calls: bool = False,
    several: bool = False,
) -> list[jax.Device]:
    """Start JAX on the requested kind of device, before anything else uses it.

    Args:
      config: the requested device.
      core_devices: make each core of a CPU a device, unless the user has set their number.
      large_calls: calls of a program may need more than 64 MB of temporary arrays (see
        `charjax.training.cpu_plan.needs_one_heap`); later calls of this function do not change it.
      several: the caller works in several processes, too.

    Returns:
      The local devices.

    Raises:
      UserError: the device is not available, or JAX runs in more processes than it may.
    """
    set_flags(deterministic=config.deterministic and config.device in ("auto", "gpu"))
    if config.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    if core_devices and not devices_are_given():
        make_device_of_every_core()
        if _is_tried():
            _add_flags(*_PATIENT)
    compiled_folder()
    if not _memory_is_kept:
        _memory_is_kept.append(True)
        _keep_memory(one_heap=large_calls)
    try:
        with _yielding_threads() if several else contextlib.nullcontext():
            devices = jax.local_devices()
    except RuntimeError as error:
        raise UserError(
            f"runtime.device: no device could be started: {_first_line(error)}"
        ) from None
    if (count := jax.process_count()) > 1 and not several:
        raise UserError(
            f"runtime: {count} JAX processes were started (jax.distributed), and this works in "
            "one: leave jax.distributed.initialize() out; `charjax train --processes N --process I "
            "--coordinator HOST:PORT` trains one run in several"
        )
    extra = _EXTRAS.get(config.device)
    if extra and devices[0].platform != config.device:
        raise UserError(
            f'runtime.device: "{config.device}" given, but JAX finds only {devices[0].platform}; '
            f'install the "{extra}" extra (pip install "charjax[{extra}]"), or use '
            "runtime.device=cpu"
        )
    return devices


@contextlib.contextmanager
def _yielding_threads() -> Iterator[None]:
    """Let the threads without a name that are started meanwhile give way to all others.

    Gloo's thread, which sums go through on CPUs, asks the kernel again and again while another
    process is ahead. On a core that it shares with the computation each waits until the scheduler
    takes turns (measured on Linux, jaxlib 0.12, one core a process: a sum of 4 kB takes 3.8 ms, and
    0.12 with SCHED_BATCH; of 3.2 MB 4.1 ms, and 1.4).
    """
    before = _thread_names()
    yield
    for thread, name in _thread_names().items():
        # XLA names its own.
        if thread not in before and name == before.get(os.getpid()):
            with contextlib.suppress(OSError):
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


def _thread_names() -> dict[int, str]:
    """Return the threads of this process by number; none where the system does not list them."""
    found = {}
    with contextlib.suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):
                found[int(thread.name)] = (thread / "comm").read_text().strip()
    return found


def on_any_device(config: RuntimeConfig) -> RuntimeConfig:
    """Return the settings without a demand for an accelerator, for a model trained on one."""
    if config.device not in _EXTRAS:
        return config
    return config.model_copy(update={"device": "auto"})


def set_flags(*, deterministic: bool = False) -> None:
    """Set XLA's flags, which it reads when it starts; those of the user take precedence.

    On a CPU, loops over the same elements that compute several arrays are fused into one, such as
    the two moments and the update of Adam, or the residuals of a GRU's cell (measured: a bigram's
    step takes 0.6 of the time, an LSTM's 0.93; see benchmarks/NOTES.md).
    """
    # XLA ends the process at a flag it does not know.
    _add_flags(*[_MULTI_OUTPUT] * _is_tried(), *[_DETERMINISTIC] * deterministic)


def _add_flags(*wanted: str) -> None:
    """Add flags that the user has not set."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    for flag in wanted:
        if not any(other.split("=")[0] == flag.split("=")[0] for other in flags):
            flags.append(flag)
    os.environ["XLA_FLAGS"] = " ".join(flags)


def _is_tried() -> bool:
    return _TRIED_SINCE <= jax.__version_info__[:2] < _TRIED_BEFORE


def make_device_of_every_core() -> None:
    """Make each core of a CPU a device of JAX, for programs that are divided over devices.

    Small products run on one thread each, and so do LAPACK's factorisations: OpenBLAS's threads,
    one per core for every device, wait for each other by spinning (measured: a QR factorisation of
    512 rows takes 1.2 s instead of 0.03 while another process is busy). Call it before JAX and
    SciPy start; later it has no effect.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores())


def devices_are_given() -> bool:
    """Return whether the user has set the number of a CPU's devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    return "xla_force_host_platform_device_count" in flags or "JAX_NUM_CPU_DEVICES" in os.environ


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Compile neither from JAX's cache of programs nor into it.

    A program that was read from it cannot be stored again: XLA then leaves out its machine code
    (jaxlib 0.10 and 0.12), and it fails when it is run.
    """
    name = "jax_enable_compilation_cache"
    before = getattr(jax.config, name)
    jax.config.update(name, False)
    # JAX has decided once whether it is used.
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update(name, before)
        compilation_cache.reset_cache()


def compiled(lowered: jax.stages.Lowered, mesh: Mesh, *, onednn: bool) -> jax.stages.Compiled:
    """Compile a training loop for a mesh.

    Args:
      lowered: the loop.
      mesh: if each core of a CPU is a device, no operation is split over the cores, as each has
        its part of the batch.
      onednn: use oneDNN for a CPU's products with a transposed left operand. Such a program is not
        cached: XLA cannot serialize it (jaxlib 0.12).
    """
    options = compiler_options(mesh)
    if onednn:
        options["xla_cpu_experimental_onednn_custom_call"] = True
    # JAX would store a program for a device that is not there, and fail to read it.
    is_absent = type(mesh.devices.flat[0].client).__name__ == "CompileOnlyPyClient"
    if not onednn and not is_absent:
        return lowered.compile(compiler_options=options or None)
    least = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, least)
    jax.config.update(least, sys.float_info.max)
    try:
        return lowered.compile(compiler_options=options or None)
    finally:
        jax.config.update(least, before)


def compiler_options(mesh: Mesh) -> dict[str, bool | str]:
    """Return XLA's options for a loop; it refuses a program with one that it does not know."""
    device = mesh.devices.flat[0]
    if device.platform == "cpu" and mesh.size > 1 and _is_tried():
        return {
            "xla_cpu_multi_thread_eigen": False,
            "xla_disable_hlo_passes": "cpu-parallel-task-assigner",
        }
    wanted: dict[str, bool | str] = {}
    if (0, 12) <= jax.__version_info__[:2] < (0, 13):
        is_nvidia = device.platform == "gpu" and device.device_kind.startswith("NVIDIA")
        wanted |= _LOOP_IN_GRAPH if is_nvidia else {}
        if mesh.size > 1 and (is_nvidia or device.platform == "tpu"):
            wanted |= _ONE_ALL_REDUCE[device.platform]
    flags = os.environ.get("XLA_FLAGS", "") + os.environ.get("LIBTPU_INIT_ARGS", "")
    return {name: value for name, value in wanted.items() if name not in flags}


def compiled_folder() -> Path | None:
    """Cache compiled programs for the next start, in a private directory of the user: return it.

    None: there is none, or JAX's cache is off or in a directory that the user has named.

    A program is machine code that will be run, so it is never stored where others can write, and
    each kind of processor has a directory of its own.
    """
    cache = user_cache()
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or cache is None:
        return None
    if not hasattr(os, "getuid"):
        # Nothing would show that the directory belongs to the user.
        return None
    everything = cache / "compiled"
    folder = everything / hashlib.sha256(processor().encode()).hexdigest()[:12]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        make_private(everything)
        make_private(folder)
    except OSError as error:
        warn_once(f"compiled programs are not kept for the next start: {error}")
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return folder if jax.config.jax_enable_compilation_cache else None


def _keep_memory(*, one_heap: bool) -> None:
    """Let the C library reuse freed memory, up to 2 GB, instead of returning it to the system.

    Every call of a compiled program on a CPU allocates its temporary arrays. glibc would map them
    each time, and the kernel would clear their pages (measured: 22 to 34 ms per call of a small
    GPT with 34 MB of them, 8 % of the loop's time).

    The heaps of threads other than the first hold up to 64 MB, and larger arrays would be mapped;
    with such arrays (`one_heap`) all threads share one heap. The cost: threads wait for each other
    at each allocation, several times in every product (measured: a GRU's step of 17 ms took 23, a
    sweep of small networks 1.6 times as long), and so do the compiler's (a third more time to
    compile).
    """
    # Windows has no library of the process itself: TypeError.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - AttributeError where mallopt may be another's
        library.mallopt(_M_MMAP_MAX, 0)
        if one_heap:
            library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def make_private(folder: Path) -> None:
    """Make a directory that only the user can read, or raise an OSError with the reason."""
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
def warn_once(text: str) -> None:
    """Print a warning, once."""
    print(f"warning: {printable(text)}", file=sys.stderr)


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
