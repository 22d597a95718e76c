"""Memory that work really takes: a device's peak, or the rise of the process on a CPU."""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(
    work: Callable[[], None], arguments: Callable[[], Any], devices: list[jax.Device]
) -> int | None:
    """Do work for the first time, and return the bytes that it needed at its peak, on each device.

    On a CPU: the bytes of `arguments()`, which are there before, and the rise of the resident
    memory above them, of all devices together, threads' stacks and libraries' pages included. A
    later call would be given memory that the first has left, and show less. None where the system
    reports neither.
    """
    if devices[0].platform != "cpu":
        work()
        stats = devices[0].memory_stats() or {}
        return stats.get("peak_bytes_in_use")
    # Counted now, as the work may donate them.
    held = sum(shard.data.nbytes for leaf in jax.tree.leaves(arguments()) for shard in shards(leaf))
    with contextlib.suppress(OSError, AttributeError, TypeError):
        # What the compiler has freed would be used again, and hide the rise.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        # Documented in proc(5): the peak is set to what is resident now.
        _CLEAR.write_text("5", encoding="ascii")
        before = _kibibytes("VmRSS")
        work()
        return held + 1024 * (_kibibytes("VmHWM") - before)
    except (OSError, KeyError):
        return None


def shards(leaf: Any) -> list[Any]:
    """Return the parts of an array on this process's devices."""
    return list(leaf.addressable_shards) if isinstance(leaf, jax.Array) else []


def _kibibytes(name: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(found[name].split()[0])
