"""Peak rates of this machine, measured: matrix products, memory copies, program launches.

Products are timed in float32 (at JAX's default precision, which on a GPU with tensor cores is TF32)
and in bfloat16; a copy counts the bytes read and the bytes written.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from charjax.performance.timing import Slice, take_turns

DTYPES = ("float32", "bfloat16")
# Edge lengths of square matrices; the best of them counts.
EDGES = {
    "cpu": (512, 1024, 2048),
    "gpu": (4096, 8192, 16384),
    "tpu": (4096, 8192, 16384),
}
COPY_BYTES = {"cpu": 2**28, "gpu": 2**30, "tpu": 2**30}


def product(edge: int, dtype: str) -> Callable[[int], Any]:
    """Return a function that computes n products of square matrices, and waits for the last."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (edge, edge), jnp.float32).astype(dtype) for key in keys)
    multiply = jax.jit(jnp.matmul).lower(a, b).compile()

    def run(count: int) -> None:
        for _ in range(count):
            c = multiply(a, b)
        c.block_until_ready()

    return run


def copying(size: int) -> Callable[[int], Any]:
    """Return a function that copies so many bytes n times into memory allocated before."""
    source, target = jnp.ones(size // 4, jnp.float32), jnp.zeros(size // 4, jnp.float32)
    # Without an operation XLA would return the source itself.
    copy = jax.jit(lambda a, b: -a, donate_argnums=1, keep_unused=True)
    compiled = copy.lower(source, target).compile()

    def run(count: int) -> None:
        nonlocal target
        for _ in range(count):
            target = compiled(source, target)
        target.block_until_ready()

    return run


def dispatch(waits: bool) -> Callable[[int], Any]:
    """Return a function that runs a program n times which adds one to a number."""
    number = jnp.int32(0)
    add = jax.jit(lambda x: x + 1).lower(number).compile()

    def run(count: int) -> None:
        x = number
        for _ in range(count):
            x = add(x)
            if waits:
                x.block_until_ready()
        x.block_until_ready()

    return run


class Roofline:
    """Peak rates within a second or two, before and after the rows of a benchmark.

    Attributes:
      start: quantity to best rate: FLOP/s by dtype, "copy" in B/s, "dispatch" in seconds.
    """

    # A drift above this is reported: the figures are not more exact than that.
    TOLERANCE = 0.05

    def __init__(
        self, device: str, *, quick: bool = False, earlier: dict[str, float] | None = None
    ):
        """Measure for the first time, unless an earlier process has.

        Args:
          device: "cpu", "gpu" or "tpu", started before.
          quick: small sizes, for a trial.
          earlier: the rates of an earlier process.
        """
        self._device, self._quick = device, quick
        self.start: dict[str, float] = self._measure() if earlier is None else earlier

    @functools.cached_property
    def _works(self) -> dict[str, tuple[Slice, float]]:
        """Quantity to work and its size."""
        seconds = 0.02 if self._quick else 0.15
        edge = 512 if self._quick else EDGES[self._device][1]
        size = 2**24 if self._quick else COPY_BYTES[self._device]
        works = {dtype: (Slice(product(edge, dtype), seconds), 2.0 * edge**3) for dtype in DTYPES}
        works["copy"] = (Slice(copying(size), seconds), 2.0 * size)
        works["dispatch"] = (Slice(dispatch(False), seconds), 1.0)
        return works

    def _measure(self) -> dict[str, float]:
        found = take_turns({name: work for name, (work, _) in self._works.items()}, 5)
        return {name: self._works[name][1] / min(values) for name, values in found.items()}

    def finish(self) -> dict[str, Any]:
        """Measure again; return both measurements, the drift, and whether it is too large."""
        return compare(self.start, self._measure())


def compare(start: dict[str, float], end: dict[str, float]) -> dict[str, Any]:
    """Return the drift of each quantity between two measurements, and a note if it is large."""
    drift = {name: end[name] / start[name] - 1 for name in start}
    moved = [
        f"{name} {change:+.1%}"
        for name, change in drift.items()
        if abs(change) > Roofline.TOLERANCE
    ]
    note = f"the roofline drifted during the run: {', '.join(moved)}" if moved else None
    return {"start": start, "end": end, "drift": drift, "drifted": bool(moved), "note": note}
