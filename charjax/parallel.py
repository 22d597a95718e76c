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
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from charjax.caches import user_cache
from charjax.config import RuntimeConfig
from charjax.errors import UserError, printable

_AXIS = "data"
_MULTI_OUTPUT = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"
# The versions that XLA's flags and options were tried on; jaxlib's go with JAX's.
_TRIED_SINCE, _TRIED_BEFORE = (0, 10), (0, 13)
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# XLA ends a process (by default) in which a device waits for another for a minute, and says so on
# the way: a run may have been suspended for longer.
_PATIENT = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=600",
    "--xla_cpu_collective_call_terminate_timeout_seconds=1000000",
)
# Not empty once the C library has been told.
_memory_is_kept: list[bool] = []
T = TypeVar("T")


def start_backend(
    config: RuntimeConfig, *, core_devices: bool = False, large_calls: bool = False
) -> list[jax.Device]:
    """Start JAX on the kind of device asked for, before anything else touches it.

    Args:
      config: the device asked for.
      core_devices: whether a CPU shall be one device a core, unless the user has said how many.
      large_calls: whether calls of a program may need more than 64 MB of temporary arrays (see
        `charjax.training.cores.needs_one_heap`); the first one to start JAX decides.

    Returns:
      The local devices.

    Raises:
      UserError: there is no such device, or JAX runs in more than one process.
    """
    set_flags(deterministic=config.deterministic and config.device != "cpu")
    if config.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    if core_devices and not devices_are_given():
        make_device_of_every_core()
        if _is_tried():
            _add_flags(*_PATIENT)
    _keep_compiled()
    if not _memory_is_kept:
        _memory_is_kept.append(True)
        _keep_memory(one_heap=large_calls)
    try:
        devices = jax.local_devices()
    except RuntimeError as error:
        raise UserError(
            f"runtime.device: no device could be started: {_first_line(error)}"
        ) from None
    if (processes := jax.process_count()) > 1:
        raise UserError(
            f"runtime: {processes} JAX processes were started (jax.distributed); charjax runs in "
            "one: leave jax.distributed.initialize() out, and start each run as a process of its "
            "own"
        )
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
    # XLA ends the process at a flag it does not know.
    _add_flags(*[_MULTI_OUTPUT] * _is_tried(), *[_DETERMINISTIC] * deterministic)


def _add_flags(*wanted: str) -> None:
    """Those that the user has said nothing of."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    for flag in wanted:
        if not any(given.split("=")[0] == flag.split("=")[0] for given in flags):
            flags.append(flag)
    os.environ["XLA_FLAGS"] = " ".join(flags)


def _is_tried() -> bool:
    return _TRIED_SINCE <= jax.__version_info__[:2] < _TRIED_BEFORE


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


def devices_are_given() -> bool:
    """Whether the user has said how many devices a CPU shall be."""
    told = os.environ.get("XLA_FLAGS", "")
    return "xla_force_host_platform_device_count" in told or "JAX_NUM_CPU_DEVICES" in os.environ


def compiled(lowered: jax.stages.Lowered, mesh: Mesh, *, onednn: bool) -> jax.stages.Compiled:
    """A training loop, compiled for a mesh.

    Args:
      lowered: the loop.
      mesh: where each core of a CPU is a device, no operation is split over the cores: each has
        its own part of the batch to do.
      onednn: whether a CPU's products with a transposed left operand are given to oneDNN. Such a
        program is not kept for the next start: XLA cannot write it down (jaxlib 0.12).
    """
    options: dict[str, bool | str] = {}
    if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu" and _is_tried():
        options["xla_cpu_multi_thread_eigen"] = False
        options["xla_disable_hlo_passes"] = "cpu-parallel-task-assigner"
    if not onednn:
        return lowered.compile(compiler_options=options or None)
    options["xla_cpu_experimental_onednn_custom_call"] = True
    least = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, least)
    jax.config.update(least, sys.float_info.max)
    try:
        return lowered.compile(compiler_options=options)
    finally:
        jax.config.update(least, before)


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


def _keep_memory(*, one_heap: bool) -> None:
    """Have the C library keep what is freed, up to 2 GB, for what is asked for next.

    Every call of a compiled program on a CPU asks for its temporary arrays anew. glibc would map
    them each time, and the kernel clear page after page of them (measured: 22 to 34 ms a call of a
    small GPT with 34 MB of them, 8 % of the loop's time).

    The heaps of threads other than the first hold up to 64 MB, and larger arrays are mapped after
    all; so where there are such, all threads have one heap. That has its price: threads wait for
    each other whenever they ask for memory, which is several times in every product (measured: a
    GRU's step of 17 ms took 23, a sweep of small networks 1.6 times as long), and so do the
    compiler's (a third more time to compile).
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - AttributeError where mallopt may be another's
        library.mallopt(_M_MMAP_MAX, 0)
        if one_heap:
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


def summed_over_devices(
    function: Callable[..., tuple[T, Any]], mesh: Mesh, split: tuple[bool, ...]
) -> Callable[..., tuple[T, Any]]:
    """Inside jit: `function` run by every device on its own part, and what it sums, added up.

    Args:
      function: of as many arguments as `split` has places. It gives sums over its part of the
        batch, and what is each row's own, whose leading axes are split.
      mesh: the devices.
      split: of each argument, whether the leading axes of its arrays are split over them;
        otherwise, and where there are none, it is whole.
    """
    if mesh.size == 1:
        return function

    def on_part(*arguments: Any) -> tuple[T, Any]:
        sums, own = function(*arguments)
        return _added_up(sums), own

    def mapped(*arguments: Any) -> tuple[T, Any]:
        out: tuple[T, Any] = jax.shard_map(
            on_part,
            mesh=mesh,
            in_specs=_rows_of(arguments, split),
            out_specs=(PartitionSpec(), PartitionSpec(_AXIS)),
            check_vma=False,
        )(*arguments)
        return out

    return mapped


def each_its_rows(
    function: Callable[..., T], mesh: Mesh, split: tuple[bool, ...]
) -> Callable[..., T]:
    """Inside jit: `function` run by every device on its own rows, which need nothing of others.

    Args:
      function: it gives arrays with a leading axis of rows, and scalars that are the same for all.
      mesh: the devices.
      split: as of `summed_over_devices`.
    """
    if mesh.size == 1:
        return function

    def mapped(*arguments: Any) -> T:
        out: T = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=_rows_of(arguments, split),
            out_specs=_rows_of((jax.eval_shape(function, *arguments),), (True,))[0],
            check_vma=False,
        )(*arguments)
        return out

    return mapped


def _rows_of(arguments: tuple[Any, ...], split: tuple[bool, ...]) -> tuple[Any, ...]:
    """Specifications: the leading axes of those that are split, where there are any."""
    return tuple(
        jax.tree.map(
            lambda x, divided=divided: PartitionSpec(*[_AXIS] * bool(divided and x.ndim)),
            argument,
        )
        for argument, divided in zip(arguments, split, strict=True)
    )


def core_mesh(rows: int, least: int) -> Mesh:
    """A mesh of all cores, if each is a device and can have so many rows; of one device, if not."""
    devices = jax.local_devices()
    are_cores = devices[0].platform == "cpu" and not devices_are_given()
    shares = are_cores and rows % len(devices) == 0 and rows >= least * len(devices)
    # The one is where JAX puts what it is not told to put elsewhere.
    alone = list(jnp.zeros(()).devices())
    return make_mesh(devices if shares else alone, rows)


def place_rows(tree: T, mesh: Mesh) -> T:
    """Arrays with a leading axis of rows, divided over the devices; scalars are everywhere."""
    return jax.device_put(
        tree, jax.tree.map(lambda x: split_over(mesh) if np.ndim(x) else replicated(mesh), tree)
    )


def own_key(key: Array) -> Array:
    """Inside `summed_over_devices`: random numbers of this device's own."""
    return jax.random.fold_in(key, jax.lax.axis_index(_AXIS))


def _added_up(sums: T) -> T:
    """The sum over the devices. A CPU's meet once, over one array, and not once for each."""
    if jax.default_backend() != "cpu":
        total: T = jax.lax.psum(sums, _AXIS)
        return total
    leaves, tree = jax.tree.flatten(sums)
    flat = jax.lax.psum(jnp.concatenate([leaf.ravel() for leaf in leaves]), _AXIS)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()
    parts = jnp.split(flat, ends)
    return jax.tree.unflatten(
        tree, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    )


def first_copy(tree: T) -> T:
    """The same arrays as the first device has them, for work that is not worth dividing."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


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


def total_memory(devices: list[jax.Device]) -> int:
    """Bytes that each device can have at most: its own, or all of the machine's."""
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
