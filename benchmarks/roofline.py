"""What the machine gives at best: matrix products, copying, and starting an empty program.

    python -m benchmarks.roofline [--devices cpu,gpu] [--quick] [--out FILE.json]

Products: the best of several sizes, in float32 (at JAX's default precision, which on a GPU with
tensor cores is TF32) and bfloat16. Copying: reading and writing, both counted. An empty program:
one after the other without looking, and waiting for each. Every other benchmark measures the same
before and after its rows and gives its own figures as fractions of it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.devices import peaks
from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from benchmarks.show import Column, quantity
from benchmarks.timing import Slice, summary, take_turns

DTYPES = ("float32", "bfloat16")
# Edges of square matrices; the best of them counts.
_EDGES = {"cpu": (512, 1024, 2048), "gpu": (4096, 8192, 16384)}
_COPY_BYTES = {"cpu": 2**28, "gpu": 2**30}


def measure(section: Section) -> None:
    """All rows of this benchmark."""
    edges = (512,) if section.quick else _EDGES[section.device]
    for dtype in DTYPES:
        for edge in edges:
            name = f"product {dtype} {edge}"
            if section.wants(name):
                with section.attempt(name):
                    work = Slice(product(edge, dtype), section.slice_seconds)
                    _add(section, name, work, 2.0 * edge**3, "FLOP/s", dtype)
    if section.wants("copy"):
        with section.attempt("copy"):
            size = 2**24 if section.quick else _COPY_BYTES[section.device]
            _add(section, "copy", Slice(copying(size), section.slice_seconds), 2.0 * size, "B/s")
    for name, waits in (("dispatch", False), ("dispatch, waiting", True)):
        if section.wants(name):
            with section.attempt(name):
                _add(section, name, Slice(dispatch(waits), section.slice_seconds), 1.0, "1/s")


def _add(
    section: Section, name: str, work: Slice, units: float, unit: str, dtype: str | None = None
) -> None:
    seconds = take_turns({name: work}, section.repeats, section.late)[name]
    rates = [units / s for s in seconds]
    nominal = None
    if found := peaks(section.facts["hardware"]["device_kind"]):
        nominal = found.of(dtype) if dtype else found.bandwidth if name == "copy" else None
    told = summary(rates)
    section.add(
        name,
        unit=unit,
        steps=work.count,
        seconds_each=[units / rate for rate in rates],
        nominal=nominal,
        fraction_of_nominal=told["median"] / nominal if nominal else None,
        **told,
    )


def product(edge: int, dtype: str) -> Callable[[int], Any]:
    """n products of two square matrices; they are queued, and the last one is waited for."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (edge, edge), jnp.float32).astype(dtype) for key in keys)
    multiply = jax.jit(jnp.matmul).lower(a, b).compile()

    def run(count: int) -> None:
        for _ in range(count):
            c = multiply(a, b)
        c.block_until_ready()

    return run


def copying(size: int) -> Callable[[int], Any]:
    """n copies of so many bytes into memory that is there already."""
    source, target = jnp.ones(size // 4, jnp.float32), jnp.zeros(size // 4, jnp.float32)
    # Without an operation XLA would hand out the source itself.
    copy = jax.jit(lambda a, b: -a, donate_argnums=1, keep_unused=True)
    compiled = copy.lower(source, target).compile()

    def run(count: int) -> None:
        nonlocal target
        for _ in range(count):
            target = compiled(source, target)
        target.block_until_ready()

    return run


def dispatch(waits: bool) -> Callable[[int], Any]:
    """n runs of a program that adds one to a number."""
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
    """The same in a second or two, before and after the rows of another benchmark.

    Attributes:
      start: quantity to best rate: FLOP/s by dtype, "copy" in B/s, "dispatch" in seconds.
    """

    # A run whose roofline has moved by more is not to be trusted to this much.
    TOLERANCE = 0.05

    def __init__(self, section: Section):
        """Measure for the first time, unless a process before this one has."""
        self._seconds = 0.02 if section.quick else 0.15
        edge = 512 if section.quick else _EDGES[section.device][1]
        size = 2**24 if section.quick else _COPY_BYTES[section.device]
        self._works: dict[str, tuple[Slice, float]] = {}
        for dtype in DTYPES:
            self._works[dtype] = (Slice(product(edge, dtype), self._seconds), 2.0 * edge**3)
        self._works["copy"] = (Slice(copying(size), self._seconds), 2.0 * size)
        self._works["dispatch"] = (Slice(dispatch(False), self._seconds), 1.0)
        begun = section.facts.get("roofline")
        self.start: dict[str, float] = begun["start"] if begun else self._look()

    def _look(self) -> dict[str, float]:
        taken = take_turns({name: work for name, (work, _) in self._works.items()}, 5)
        return {name: self._works[name][1] / min(values) for name, values in taken.items()}

    def finish(self) -> dict[str, Any]:
        """Measure again; both, the drift, and whether it is too large."""
        return compare(self.start, self._look())


def compare(start: dict[str, float], end: dict[str, float]) -> dict[str, Any]:
    """Two looks at the roofline: by how much each quantity has moved, and what to think of it."""
    drift = {name: end[name] / start[name] - 1 for name in start}
    moved = [
        f"{name} {change:+.1%}"
        for name, change in drift.items()
        if abs(change) > Roofline.TOLERANCE
    ]
    note = f"the roofline drifted during the run: {', '.join(moved)}" if moved else None
    return {"start": start, "end": end, "drift": drift, "drifted": bool(moved), "note": note}


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("median", lambda row: quantity(row["median"], row["unit"])),
    (
        "quartiles",
        lambda row: f"{quantity(row['q1'], row['unit'])} to {quantity(row['q3'], row['unit'])}",
    ),
    ("one takes", lambda row: quantity(1 / row["median"], "s") if row["unit"] == "1/s" else ""),
    (
        "of nominal",
        lambda row: (
            ""
            if row["unit"] == "1/s"
            else "n/a"
            if row["nominal"] is None
            else f"{row['fraction_of_nominal']:.0%}"
        ),
    ),
)


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """FLOP/s by the size of the matrices."""
    for device in dict.fromkeys(row["device"] for row in rows):
        for dtype in DTYPES:
            found = [
                (int(row["name"].split()[-1]), row["median"])
                for row in rows
                if row["name"].startswith(f"product {dtype} ") and row["device"] == device
            ]
            if found:
                axes.plot(*zip(*sorted(found), strict=True), "o-", label=f"{device} {dtype}")
    axes.set(xscale="log", yscale="log", xlabel="edge of the matrices", ylabel="FLOP/s")


BENCHMARK = Benchmark(
    name="roofline",
    title="what the machine gives at best",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
    # The best is asked for: the largest products need more than a thread's own heap holds.
    heaps=("one",),
)

if __name__ == "__main__":
    start(BENCHMARK)
