"""Exact evaluation of a recurrent network: one stream, and parallel ones with a warm-up.

    python -m benchmarks.evaluation [--devices cpu,gpu] [--quick] [--out FILE.json]

A network is trained for a few hundred steps on Python's standard library, and its validation split
(1 MB, or as much of it as a wide one needs) is scored as `charjax evaluate` does: as one stream,
and in parallel streams of which each first reads 256 characters without scoring them. They take
turns. "loss" is the difference from the loss of the one stream, in nats per character.
"""

import functools
from typing import Any

import jax
import numpy as np

from benchmarks.bars import bars
from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from benchmarks.workloads import make_config, prepare
from charjax import parallel
from charjax.data.splits import Split
from charjax.performance.show import Column, Row, spread
from charjax.performance.timing import paired_ratio, summary, take_turns
from charjax.training.evaluation import Score, exact_loss
from charjax.training.state import variables_of

# Targets, by the width of the state.
_TARGETS = {64: 10**6, 256: 10**6, 1024: 50_000}
_STREAMS = {"cpu": (1, 64), "gpu": (1, 64, 1024)}
_STEPS, _QUICK_STEPS, _QUICK_TARGETS = 300, 2, 5_000
_WARMUP = 256


def measure(section: Section) -> None:
    """Measure GRUs of several widths."""
    for width in list(_TARGETS)[: 1 if section.quick else None]:
        name = f"gru H{width}"
        if section.wants(name):
            with section.attempt(name):
                _evaluations(section, name, width)


def _evaluations(section: Section, name: str, width: int) -> None:
    training = prepare(make_config("model.kind=gru", f"model.d_hidden={width}"))
    training.steps(_QUICK_STEPS if section.quick else _STEPS)
    session = training.session
    devices = jax.local_devices()
    mesh = parallel.make_mesh(devices, len(devices))
    host = jax.device_get(variables_of(training.state))
    variables = parallel.place(host, parallel.replicated(mesh))
    tokens = session.dataset.splits["val"].tokens
    targets = min(_QUICK_TARGETS if section.quick else _TARGETS[width], len(tokens) - 1)
    split = Split(tokens[: targets + 1], np.zeros(1, np.int64), np.array([targets]), "val")
    scores: dict[int, Score] = {}

    def evaluation(streams: int) -> float:
        """Score the split; return the seconds, compilation left out."""
        scores[streams] = exact_loss(
            session.model,
            variables,
            split,
            mesh,
            context_length=64,
            batch_size=64,
            streams=streams,
            warmup=_WARMUP,
        )
        return scores[streams].seconds

    works = {str(count): functools.partial(evaluation, count) for count in _STREAMS[section.device]}
    found = take_turns(works, section.repeats, section.late)
    for count, score in scores.items():
        section.add(
            f"{name}, {count} {'streams' if count > 1 else 'stream'}",
            streams=count,
            unit="s",
            targets=score.targets,
            loss=score.loss,
            loss_difference=score.loss - scores[1].loss,
            targets_per_second=score.targets / summary(found[str(count)])["median"],
            times_one=paired_ratio(found[str(count)], found["1"]),
            **summary(found[str(count)]),
        )


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("seconds", spread),
    ("targets per second", lambda row: f"{row['targets_per_second']:,.0f}"),
    ("times one stream's speed", lambda row: f"{row['times_one']['median']:.1f}"),
    ("loss", lambda row: f"{row['loss_difference']:+.1e}" if row["streams"] > 1 else ""),
)


def draw(axes: Any, rows: list[Row]) -> None:
    """Draw a bar for each row."""
    bars(axes, rows, lambda row: row["targets_per_second"] / 1e3, "thousand targets per second")


BENCHMARK = Benchmark(
    name="evaluation",
    title="exact evaluation in parallel streams",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
)

if __name__ == "__main__":
    start(BENCHMARK)
