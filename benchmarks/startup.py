"""Time from the command to the first step: imports, compilation, compile cache.

    python -m benchmarks.startup [--devices cpu,gpu] [--quick] [--out FILE.json]

"first step" is `python -m charjax.train model.n_layer=N`, from its start until the line of its
first step is in metrics.jsonl: cold with an empty compile cache, warm with the cache of the cold
start. Every repeat is a new process.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Benchmark, start
from benchmarks.recording import record
from benchmarks.section import Section, TooLate
from charjax.performance.show import Column, Row, spread
from charjax.performance.timing import summary

LAYERS = (6, 12, 24, 48)
_SMALL = {
    "python -m charjax.train --help": ("-m", "charjax.train", "--help"),
    "import jax": ("-c", "import jax"),
    "import all of charjax.train": (
        "-c",
        "import charjax.run.recorder, charjax.training.session",
    ),
    "start the device": ("-c", "import jax; jax.numpy.zeros(()).block_until_ready()"),
}


def measure(section: Section) -> None:
    """Measure the imports, then the first steps."""
    wanted = {name: words for name, words in _SMALL.items() if section.wants(name)}
    found: dict[str, list[float]] = {name: [] for name in wanted}
    for _ in range(section.repeats):
        for name, words in wanted.items():
            found[name].append(_run(words))
    for name, values in found.items():
        with section.attempt(name):
            section.add(name, unit="s", kind="start", layers=None, **summary(values))
    for layers in (1,) if section.quick else LAYERS:
        name = f"first step, {layers} layers"
        if section.wants(name):
            with section.attempt(name):
                _first_steps(section, name, layers)


def _run(words: tuple[str, ...]) -> float:
    start_time = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=os.environ)
    return time.perf_counter() - start_time


def _first_steps(section: Section, name: str, layers: int) -> None:
    """Start once with an empty cache, then several times with the cache."""
    repeats = 1 if section.quick else 3
    with tempfile.TemporaryDirectory() as folder:
        for kind, times in (("cold", 1), ("warm", repeats)):
            seconds: list[float] = []
            compiling: list[float] = []
            for _ in range(times):
                if seconds and section.late():
                    break
                first_step, compilation = _first_step(section, layers, Path(folder))
                seconds.append(first_step)
                compiling.append(compilation)
            section.add(
                f"{name}, {kind}",
                unit="s",
                kind=kind,
                layers=layers,
                compile_seconds=compiling,
                **summary(seconds),
            )


def _first_step(section: Section, layers: int, cache: Path) -> tuple[float, float]:
    """Return seconds until the first step is written, and the seconds of its compilation."""
    arguments = [f"model.n_layer={layers}"]
    found = record(section, arguments, lambda line: line["step"] == 1, cache, section.left())
    if not found.complete:
        raise TooLate("no step in the time left")
    compiled = re.search(r"compiled in ([\d.]+) s", found.output)
    return found.lines[-1].seconds, float(compiled[1]) if compiled else 0.0


def _compiling(row: Row) -> str:
    return f"{max(row['compile_seconds']):.1f} s" if "compile_seconds" in row else ""


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("seconds", spread),
    ("of it compiling the step", _compiling),
    ("repeats", lambda row: str(len(row["repeats"]))),
)


def draw(axes: Any, rows: list[Row]) -> None:
    """Draw seconds by the number of layers."""
    for device in dict.fromkeys(row["device"] for row in rows):
        for kind, style in (("cold", "o-"), ("warm", "s--")):
            points = [
                (row["layers"], row["median"])
                for row in rows
                if row["kind"] == kind and row["device"] == device
            ]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=f"{device}, {kind}")
    axes.set(xlabel="layers", ylabel="seconds to the first step", ylim=(0, None))


BENCHMARK = Benchmark(
    name="startup",
    title="from the command to the first step",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
    has_roofline=False,
    # The commands need the GPU's memory beside the process that starts them.
    environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
)

if __name__ == "__main__":
    start(BENCHMARK)
