"""Time from the command to the first step: imports, compilation, compile cache.

    python -m benchmarks.startup [--devices cpu,gpu] [--quick] [--out FILE.json]

"first step" is `python -m charjax.train model.n_layer=N`, from its start until the line of its
first step is in metrics.jsonl: cold with an empty compile cache, warm with the cache of the cold
start. "first character" is `python -m charjax.sample RUN`, until its first output, of a run of
6 layers. Every repeat is a new process.
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
from charjax.performance.failures import LeftOut
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
    name = "first character"
    if section.wants(name):
        with section.attempt(name):
            _first_characters(section, name)


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


def _first_characters(section: Section, name: str) -> None:
    """Train a run for a step, and sample from it: with an empty cache, then with that cache."""
    repeats, layers = (1, 1) if section.quick else (3, 6)
    with tempfile.TemporaryDirectory() as folder:
        run, device = f"{folder}/run", f"runtime.device={section.device}"
        settings = f"model.n_layer={layers}", "train.steps=1", "eval.max_targets=1000", device
        _started(("charjax.train", *settings, "--workdir", run), f"{folder}/other", to_output=False)
        for kind, times in (("cold", 1), ("warm", repeats)):
            seconds = [
                _started(
                    ("charjax.sample", run, "--max-new-tokens", "1"),
                    f"{folder}/cache",
                    to_output=True,
                )
                for _ in range(times)
            ]
            section.add(f"{name}, {kind}", unit="s", kind="start", layers=None, **summary(seconds))


def _started(words: tuple[str, ...], cache: str, *, to_output: bool) -> float:
    """Run a command with a cache; return the seconds until its first output, or its end."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    start_time = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        assert process.stdout is not None
        process.stdout.read(1 if to_output else -1)
        seconds = time.perf_counter() - start_time
        process.stdout.read()
    if process.returncode:
        raise LeftOut(f"{words[0]} ended with status {process.returncode}")
    return seconds


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
    # Installed modules are compiled to bytecode once; "" leaves that on.
    environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONDONTWRITEBYTECODE": ""},
)

if __name__ == "__main__":
    start(BENCHMARK)
