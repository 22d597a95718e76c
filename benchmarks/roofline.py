"""Peak rates of the machine: matrix products, memory copies, launches of an empty program.

    python -m benchmarks.roofline [--devices cpu,gpu] [--quick] [--out FILE.json]

Products: the best of several sizes, in float32 (at JAX's default precision, which on a GPU with
tensor cores is TF32) and bfloat16. Copies: reads and writes are both counted. An empty program:
launched without waiting, and waiting for each. Every other benchmark measures the same before and
after its rows, and reports its figures as fractions of it.
"""

from typing import Any

from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from charjax.performance import devices
from charjax.performance.rates import COPY_BYTES, DTYPES, EDGES, copying, dispatch, product
from charjax.performance.show import Column, quantity
from charjax.performance.timing import Slice, summary, take_turns


def measure(section: Section) -> None:
    """Measure all rows."""
    edges = (512,) if section.quick else EDGES[section.device]
    for dtype in DTYPES:
        for edge in edges:
            name = f"product {dtype} {edge}"
            if section.wants(name):
                with section.attempt(name):
                    work = Slice(product(edge, dtype), section.slice_seconds)
                    _add(section, name, work, 2.0 * edge**3, "FLOP/s", dtype)
    if section.wants("copy"):
        with section.attempt("copy"):
            size = 2**24 if section.quick else COPY_BYTES[section.device]
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
    if listed := devices.find(section.facts["hardware"]["device_kind"]):
        nominal = listed.of(dtype) if dtype else listed.bandwidth if name == "copy" else None
    found = summary(rates)
    section.add(
        name,
        unit=unit,
        steps=work.count,
        seconds_each=[units / rate for rate in rates],
        nominal=nominal,
        fraction_of_nominal=found["median"] / nominal if nominal else None,
        **found,
    )


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
    """Draw FLOP/s by the size of the matrices."""
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
    title="peak rates of the machine",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
    # The largest products need more than a heap per thread holds.
    heaps=("one",),
)

if __name__ == "__main__":
    start(BENCHMARK)
