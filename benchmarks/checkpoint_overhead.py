"""Cost of the training loop, its log and its checkpoints over the bare steps.

    python -m benchmarks.checkpoint_overhead [--devices cpu,gpu] [--quick] [--out FILE.json]

"bare": the compiled program alone, in calls as long as the loop's; "bare, 100 a call": in calls of
100 steps. "loop": the real training loop with its log. "loop, saved every 500" (the default) and
"every 100": with checkpoints, timed from the middle of one interval to the middle of another, so
that a save that is still being written after the last step is included. They take turns. "save":
how long a save blocks the loop; "written": until it is on the disk; "restore": reading and
verifying it.
"""

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from benchmarks.bars import bars
from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from benchmarks.workloads import STREAM, make_config, open_quietly, prepare
from charjax.config.sections import CheckpointConfig
from charjax.performance.show import Column, Row, quantity, spread
from charjax.performance.timing import Slice, paired_ratio, summary, take_turns
from charjax.run.checkpoint import Checkpoints
from charjax.run.display import Display
from charjax.run.loop import Loop
from charjax.run.metrics import MetricsFile
from charjax.run.progress import Progress
from charjax.run.stopping import Stop
from charjax.signals import Signals
from charjax.training.session import first_state
from charjax.units import TextSize

_SMALL: dict[str, tuple[str, ...]] = {
    "bigram B32": ("model.kind=bigram", "train.batch_size=32"),
    "mlp B32": ("model.kind=mlp", "train.batch_size=32"),
    "gru B16 T64 H128": ("model.kind=gru", "model.context_length=64"),
    "gpt 4L 4H 128 B12": ("train.batch_size=12", "model.context_length=64"),
}
_LARGE: dict[str, tuple[str, ...]] = {
    "gpt 6L 6H 384": (
        "model.n_layer=6",
        "model.n_head=6",
        "model.d_model=384",
        "model.context_length=256",
    ),
}
_STEPS_A_CALL = 100
_PERIODS = (CheckpointConfig().every, 100)
# Seconds; two of them are timed, five times and once before.
_LONGEST_INTERVAL, _MOST_INTERVALS = 4.0, 10


def measure(section: Section) -> None:
    """Measure each model's loop, then its checkpoints."""
    for model, overrides in _SMALL.items():
        if section.wants(model) and not (section.quick and model.startswith("gpt")):
            with section.attempt(model):
                _loops(section, model, overrides)
    for model, overrides in ({} if section.quick else _SMALL | _LARGE).items():
        if section.wants(f"{model}, checkpoint"):
            with section.attempt(f"{model}, checkpoint"):
                _checkpoints(section, model, overrides)
    if section.quick and section.wants("bigram B32, checkpoint"):
        with section.attempt("bigram B32, checkpoint"):
            _checkpoints(section, "bigram B32", _SMALL["bigram B32"])


def _loops(section: Section, model: str, overrides: tuple[str, ...]) -> None:
    # Several calls per slice: the loop's first ones are shorter.
    seconds = 3 * section.slice_seconds
    training = prepare(make_config(*STREAM, *overrides))
    calls = Slice(training.dispatches(_STEPS_A_CALL), seconds)
    bare = Slice(training.steps, seconds)
    each = bare()
    periods = {f"loop, saved every {every}": every for every in _PERIODS if _fits(every * each)}
    with tempfile.TemporaryDirectory() as folder:
        works: dict[str, Callable[[], float]] = {
            "bare": bare,
            "bare, 100 a call": lambda: calls() / _STEPS_A_CALL,
            "loop": Slice(looping(training, Path(folder) / "loop", 0), seconds),
        }
        for label, every in periods.items():
            intervals = min(max(2, round(seconds / (every * each))), _MOST_INTERVALS)
            works[label] = _saving(training, Path(folder) / label, every, intervals)
        found = take_turns(works, section.repeats, section.late)
    for label, values in found.items():
        section.add(
            f"{model}, {label}",
            unit="s",
            contestant=label,
            checkpoint_every=periods.get(label, 0),
            over_bare=paired_ratio(found["bare"], values),
            over_loop=paired_ratio(found["loop"], values),
            **summary(values),
        )


def _fits(seconds: float) -> bool:
    """Return whether an interval is short enough for a few of them to be timed."""
    return seconds < _LONGEST_INTERVAL


def _saving(training: Any, folder: Path, every: int, intervals: int) -> Callable[[], float]:
    """Return what times so many intervals, each with a checkpoint in its middle, per step."""
    run = looping(training, folder, every)

    def work() -> float:
        step = int(training.state.counters.step)
        if to_the_middle := (every // 2 - step) % every:
            training.steps(to_the_middle)
        start_time = time.perf_counter()
        run(intervals * every)
        return (time.perf_counter() - start_time) / (intervals * every)

    # The first save includes setting up.
    work()
    return work


def looping(training: Any, folder: Path, every: int) -> Callable[[int], None]:
    """Return the real loop with its log, and a checkpoint every so many steps (0: none)."""
    folder.mkdir()
    metrics = MetricsFile(folder / "metrics.jsonl")
    metrics.cut(0, 0)
    display = Display(Console(file=io.StringIO()))

    def run(count: int) -> None:
        config = training.session.config
        first = int(training.state.counters.step)
        config = config.model_copy(
            update={
                "train": config.train.model_copy(update={"steps": first + count}),
                "checkpoint": config.checkpoint.model_copy(update={"every": every}),
            }
        )
        store = Checkpoints(folder / "checkpoints", keep=2)

        def save(step: int, state: Any, progress: Any, best: bool) -> None:
            if every and step % every == 0:
                store.save(step, state, progress.to_json(), best=best)

        loop = Loop(
            config=config,
            program=training.program,
            state=training.state,
            progress=Progress(),
            metrics=metrics,
            display=display,
            signals=Stop(Signals()),
            evaluate=None,
            sample=lambda step, state: None,
            save=save,
            check=store.check,
            sizes={"train": TextSize(1, 1, 1)},
            steps_per_epoch=training.session.steps_per_epoch,
        )
        loop.run()
        store.close()
        training.state = loop.state

    return run


def _checkpoints(section: Section, model: str, overrides: tuple[str, ...]) -> None:
    state = first_state(open_quietly(make_config(*STREAM, *overrides)))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    found: dict[str, list[float]] = {"save": [], "written": [], "restore": []}
    with tempfile.TemporaryDirectory() as folder:
        store = Checkpoints(Path(folder), keep=2)
        for step in range(section.repeats + 1):
            with _clock() as seconds:
                store.save(step, state, {})
                blocked = seconds()
                store.wait()
                written = seconds()
            with _clock() as seconds:
                jax.block_until_ready(store.restore(step, state)[0])
                restored = seconds()
            # The first one includes setting up.
            if step:
                found["save"].append(blocked)
                found["written"].append(written)
                found["restore"].append(restored)
        store.close()
    for label, values in found.items():
        name = f"{model}, {label}"
        section.add(name, unit="s", contestant=label, bytes=size, **summary(values))


@contextmanager
def _clock() -> Iterator[Callable[[], float]]:
    start_time = time.perf_counter()
    yield lambda: time.perf_counter() - start_time


def _over_bare(row: Row) -> str:
    return _over(row, "over_bare") if row["contestant"] != "bare" else ""


def _over_loop(row: Row) -> str:
    """Return the cost of the checkpoints alone."""
    return _over(row, "over_loop") if row.get("checkpoint_every") else ""


def _over(row: Row, what: str) -> str:
    return f"{100 * (row[what]['median'] - 1):+.1f} %" if what in row else ""


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("seconds (a step, or in all)", spread),
    ("over the bare step", _over_bare),
    ("over the loop", _over_loop),
    ("bytes", lambda row: quantity(float(row["bytes"]), "B") if "bytes" in row else ""),
)


def draw(axes: Any, rows: list[Row]) -> None:
    """Draw a bar for each row: its cost in percent of the bare step."""
    shown = [row for row in rows if "over_bare" in row and row["contestant"] != "bare"]
    bars(axes, shown, lambda row: 100 * (row["over_bare"]["median"] - 1), "% over the bare step")


BENCHMARK = Benchmark(
    name="checkpoint_overhead",
    title="the loop and its checkpoints",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
)

if __name__ == "__main__":
    start(BENCHMARK)
