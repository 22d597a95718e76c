"""Contexts of 512 to 8,192: the size of the training program, its memory, and a step.

    python -m benchmarks.contexts [--devices cpu,gpu] [--quick] [--out FILE.json]

One window per batch. "temporary" is what the compiler sets aside for gradients and activations,
"lines" those of the compiled program, "compile" the processor's seconds to compile it.
"""

import time
from typing import Any

from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from benchmarks.workloads import STREAM, make_config, prepare
from charjax.performance.show import Column, Row, spread
from charjax.performance.timing import Slice, summary, take_turns

# Blocks, heads, width.
_SHAPES = {"cpu": (4, 4, 128), "gpu": (6, 6, 384)}
_QUICK = (1, 2, 16)
CONTEXTS = (512, 1024, 2048, 4096, 8192)
WAYS: dict[str, tuple[str, ...]] = {"none": (), "block": ("model.remat=block",)}


def measure(section: Section) -> None:
    """Compile and time every context, with what is saved and with blocks computed again."""
    n_layer, n_head, d_model = _QUICK if section.quick else _SHAPES[section.device]
    for T in CONTEXTS[:2] if section.quick else CONTEXTS:
        for remat, words in WAYS.items():
            name = f"gpt {n_layer}L {n_head}H {d_model} T{T} B1, remat {remat}"
            if not section.wants(name):
                continue
            sizes = (
                f"model.n_layer={n_layer}",
                f"model.n_head={n_head}",
                f"model.d_model={d_model}",
            )
            config = make_config(
                *STREAM, *sizes, f"model.context_length={T}", "train.batch_size=1", *words
            )
            with section.attempt(name):
                began = time.process_time()
                training = prepare(config)
                seconds = time.process_time() - began
                works = {name: Slice(training.steps, section.slice_seconds)}
                found = take_turns(works, section.repeats, section.late)
                compiled: Any = training.program.compiled
                section.add(
                    name,
                    context=T,
                    remat=remat,
                    unit="s",
                    temporary=compiled.memory_analysis().temp_size_in_bytes,
                    lines=len((compiled.as_text() or "").splitlines()),
                    compile_seconds=seconds,
                    **summary(found[name]),
                )


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("temporary", lambda row: f"{row['temporary'] / 1e6:,.1f} MB"),
    ("lines", lambda row: f"{row['lines']:,}"),
    ("compile", lambda row: f"{row['compile_seconds']:.1f} s"),
    ("step", spread),
)


def draw(axes: Any, rows: list[Row]) -> None:
    """Draw the temporary memory by context."""
    for device, remat in dict.fromkeys((row["device"], row["remat"]) for row in rows):
        points = sorted(
            (row["context"], row["temporary"] / 1e6)
            for row in rows
            if (row["device"], row["remat"]) == (device, remat)
        )
        axes.plot(*zip(*points, strict=True), "o-", label=f"{device}, remat {remat}")
    axes.set(xscale="log", yscale="log", xlabel="context", ylabel="temporary MB")


BENCHMARK = Benchmark(
    name="contexts",
    title="long contexts",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
)

if __name__ == "__main__":
    start(BENCHMARK)
