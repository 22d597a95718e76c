"""Speed of generation in characters per second: one text and many, with a cache and without.

    python -m benchmarks.generate [--devices cpu,gpu] [--quick] [--out FILE.json]

The model is a small GPT (4 layers, 4 heads, 128 wide, context 64), and a GRU. "cached" is what
`python -m charjax.sample` runs; "uncached" computes the whole window for every character, which
gives the same text (compared before the clock starts); "nanoGPT" is its sampler in PyTorch, also
uncached, on the same weights (the losses agree to 1e-5), with the better of 1 and all threads, of
the Python that has PyTorch (see benchmarks.peers). Where charjax-kernels is installed, "kernels" is
one text by its kernel, and "cached" is without it. All continue a prompt that fills the context.
Compilation is not included.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks import subprocess_worker
from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from benchmarks.subprocess_worker import find_torch
from benchmarks.workloads import STREAM, filled, make_config, open_quietly
from charjax.generation.generate import generate_uncached, stream
from charjax.generation.kernel_decoder import kernels_of
from charjax.generation.sampling import Sampling
from charjax.parallel import first_copy
from charjax.performance.show import Column, Row, spread
from charjax.performance.timing import Slice, paired_ratio, summary, take_turns
from charjax.performance.workers import Worker, best_threads, thread_counts
from charjax.training.session import first_state
from charjax.training.state import variables_of

MODELS = {
    "gpt 4L 4H 128 T64": ("model.kind=transformer", "model.context_length=64"),
    "gru H256 L1": ("model.kind=gru", "model.context_length=64"),
}
BATCHES = (1, 4, 16, 64, 128, 256, 1024)
# Characters of each text with a cache, the same for any number of texts: the first of them needs
# the whole prompt to be read, so that shorter texts would take longer per character.
_CACHED_TOKENS = 256
# Greatest number of characters without a cache: of one text, and of all texts together.
_MOST_UNCACHED, _ROWS_UNCACHED = 32, 256


def measure(section: Section) -> None:
    """Measure every model at every number of texts."""
    torch = find_torch(section)
    for model, overrides in MODELS.items():
        for batch in (1, 4) if section.quick else BATCHES:
            name = f"{model} B{batch}"
            if section.wants(name):
                with section.attempt(name):
                    _compare(section, name, overrides, batch, torch)


def _compare(
    section: Section, name: str, overrides: tuple[str, ...], batch: int, torch: str | None
) -> None:
    sampler = Sampler(overrides, batch)
    sampler.check()
    few = 4 if section.quick else max(1, min(_MOST_UNCACHED, _ROWS_UNCACHED // batch))
    many = 32 if section.quick else _CACHED_TOKENS
    lengths = {"cached": many, "uncached": few}
    seconds = section.slice_seconds
    works = {
        "cached": Slice(sampler.cached(many), seconds),
        "uncached": Slice(sampler.uncached(few), seconds),
    }
    if sampler.kernels:
        lengths["kernels"] = many
        works["kernels"] = Slice(sampler.cached(many, uses_kernels=True), seconds)
    facts: dict[str, dict[str, Any]] = {"kernels": {"kernels": sampler.kernels}}
    workers: list[Worker] = []
    if torch and sampler.config.model.kind == "transformer":
        lengths["nanoGPT"] = few
        with section.attempt(f"{name}, nanoGPT"):
            workers.append(
                subprocess_worker.start(
                    torch,
                    "benchmarks.peers_torch",
                    label="nanoGPT",
                    words=sampler.words,
                    dtype="float32",
                    device=section.device,
                    batch=batch,
                    length=few,
                )
            )
            works["nanoGPT"], facts["nanoGPT"] = _nanogpt(workers[0], section)
    try:
        found = take_turns(works, section.repeats, section.late)
    finally:
        for worker in workers:
            worker.close()
    per_character = {
        label: [seconds / (batch * lengths[label]) for seconds in values]
        for label, values in found.items()
    }
    for label, values in per_character.items():
        times = summary(values)
        section.add(
            f"{name}, {label}",
            model=name.rpartition(" ")[0],
            sampler=label,
            batch=batch,
            unit="s",
            characters_a_call=lengths[label],
            characters_per_second=1 / times["median"],
            times_cached=paired_ratio(per_character["cached"], values),
            **times,
            **facts.get(label, {}),
        )


class Sampler:
    """A model that continues a prompt by a batch of texts."""

    def __init__(self, overrides: tuple[str, ...], batch: int):
        """Draw the parameters; the prompt is the beginning of the text."""
        self.words = filled([*STREAM, *overrides])
        self.config = make_config(*self.words)
        self.session, self.batch = open_quietly(self.config), batch
        # On one device, as when a run is sampled.
        self.state = first_copy(first_state(self.session))
        self.variables = variables_of(self.state)
        context = self.config.model.context_length
        self.kernels = kernels_of(self.session.model, Sampling(), batch, "jump")
        self.prompt_T = self.session.dataset.splits["train"].tokens[:context].astype("int32")

    def check(self) -> None:
        """Compare the texts with and without a cache, and with and without a kernel.

        Raises:
          ValueError: they differ.
        """
        if not np.array_equal(self._text(8, 2), self._plain(8, 2)):
            raise ValueError("the text with a cache differs from the text without")
        if self.kernels and not np.array_equal(
            self._text(64, 1, uses_kernels=True), self._text(64, 1)
        ):
            raise ValueError("the text by the kernel differs from the text without")

    def cached(self, length: int, *, uses_kernels: bool = False) -> Callable[[int], None]:
        """Return a function that calls the real sampler n times."""

        def run(count: int) -> None:
            for _ in range(count):
                for _ in self._stream(length, self.batch, uses_kernels=uses_kernels):
                    pass

        return run

    def uncached(self, length: int) -> Callable[[int], None]:
        """Return a function that calls the uncached sampler n times."""

        def run(count: int) -> None:
            for _ in range(count):
                self._plain(length, self.batch)

        return run

    def _stream(self, length: int, batch: int, *, uses_kernels: bool = False) -> Any:
        options = self._options(length, batch) | {"uses_kernels": uses_kernels}
        return stream(self.session.model, self.variables, self.prompt_T, **options)

    def _text(self, length: int, batch: int, *, uses_kernels: bool = False) -> Any:
        chunks = self._stream(length, batch, uses_kernels=uses_kernels)
        return np.concatenate([chunk.tokens_BK for chunk in chunks], axis=1)

    def _plain(self, length: int, batch: int) -> Any:
        options = self._options(length, batch)
        return generate_uncached(self.session.model, self.variables, self.prompt_T, **options)

    def _options(self, length: int, batch: int) -> dict[str, Any]:
        return {
            "num_samples": batch,
            "max_new_tokens": length,
            "settings": Sampling(),
            "seed": 0,
        }


def _nanogpt(worker: Worker, section: Section) -> tuple[Slice, dict[str, Any]]:
    """Return nanoGPT's sampler on the same weights, at its better number of threads."""
    counts = thread_counts(section.device)
    work, used = best_threads(worker.with_threads, counts, section.slice_seconds / 2)
    return work, {"threads": used, **worker.facts}


def speedups(rows: list[Row]) -> list[Table]:
    """Return how many times faster the cached sampler is, by model and number of texts."""
    table = Table(title="how many times faster the cached sampler is")
    for title in ("", "device", "texts", "characters/s", "than uncached", "than nanoGPT"):
        table.add_column(title, justify="right" if title else "left")
    for row in (row for row in rows if row["sampler"] == "cached"):
        times = {
            other["sampler"]: f"{other['times_cached']['median']:.1f}"
            for other in rows
            if all(other[key] == row[key] for key in ("model", "device", "batch"))
        }
        rate = f"{row['characters_per_second']:,.0f}"
        cells = (times.get("uncached", "n/a"), times.get("nanoGPT", "n/a"))
        table.add_row(row["model"], row["device"], str(row["batch"]), rate, *cells)
    return [table]


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("per character", spread),
    ("characters/s", lambda row: f"{row['characters_per_second']:,.0f}"),
)


def draw(axes: Any, rows: list[Row]) -> None:
    """Draw characters per second by the number of texts."""
    keys = dict.fromkeys((row["device"], row["model"], row["sampler"]) for row in rows)
    for device, model, sampler in keys:
        points = sorted(
            (row["batch"], row["characters_per_second"])
            for row in rows
            if (row["device"], row["model"], row["sampler"]) == (device, model, sampler)
        )
        style = "o-" if sampler == "cached" else "x--"
        axes.plot(*zip(*points, strict=True), style, label=f"{device} {model}, {sampler}")
    axes.set(xscale="log", yscale="log", xlabel="texts at once", ylabel="characters/s")


BENCHMARK = Benchmark(
    name="generate",
    title="generation",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
    extra=speedups,
    packages=("torch",),
    environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
)

if __name__ == "__main__":
    start(BENCHMARK)
