"""Training on a text that stays on the host, beside one that is on the device.

    python -m benchmarks.feed [--devices cpu,gpu] [--quick] [--out FILE.json]

The training loops of the same models on the same text take turns: once the text is on the device,
and once its rows are read on the host (data.device_bytes=0). Then a text of 1 GB, mapped from a
file: the processor time from the start of a process to the end of the first step, and the memory
that is then the process's own (RssAnon of proc(5)).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bars import bars
from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from benchmarks.workloads import STREAM, make_config, prepare
from charjax.performance.show import Column, Row, quantity, spread
from charjax.performance.timing import Slice, paired_ratio, summary, take_turns
from charjax.performance.workload import Training

MODELS: dict[str, tuple[str, ...]] = {
    "the default transformer": (),
    "gru B16 T64 H128": (
        "model.kind=gru", "model.context_length=64", "model.d_hidden=128", "train.batch_size=16"
    ),
    "bigram B32 T8": ("model.kind=bigram", "model.context_length=8", "train.batch_size=32"),
    "mlp, pairs B32": ("model.kind=mlp", "data.layout=pairs", "train.batch_size=32"),
}  # fmt: skip
_PLACES = {"device": (), "host": ("data.device_bytes=0",)}
_BYTES = 10**9


def measure(section: Section) -> None:
    """Measure each model with the text in both places, in turns; then the large text."""
    for model, words in MODELS.items():
        works: dict[str, Training] = {}
        if not section.wants(f"{model}, host"):
            continue
        for place, others in _PLACES.items():
            with section.attempt(f"{model}, {place}"):
                # Blocks are not read beyond the last step.
                works[place] = prepare(
                    make_config(*STREAM, "train.steps=100000000", *words, *others)
                )
        if len(works) < len(_PLACES):
            continue
        found = _in_turns(section, works, time.perf_counter)
        # All threads'. It hardly depends on what else the machine does meanwhile.
        spent = _in_turns(section, works, time.process_time) if section.device == "cpu" else {}
        for place, values in found.items():
            section.add(
                f"{model}, {place}",
                unit="s",
                times_speed=paired_ratio(values, found["device"]),
                processor=summary(spent[place]) if spent else None,
                **summary(values),
            )
    name = "a text of 1 GB, host"
    if section.device == "cpu" and not section.quick and section.wants(name):
        with section.attempt(name):
            found_large = first_steps(_BYTES, section.repeats)
            anonymous = max(each["anonymous"] for each in found_large)
            seconds = [each["seconds"] for each in found_large]
            section.add(name, unit="s", anonymous=anonymous, **summary(seconds))


def _in_turns(
    section: Section, works: dict[str, Training], clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of a step by a clock, in turns."""
    slices = {
        place: Slice(work.steps, section.slice_seconds, now=clock) for place, work in works.items()
    }
    return take_turns(slices, section.repeats, section.late)


def first_steps(size: int, repeats: int) -> list[dict[str, Any]]:
    """Return the figures of processes that each take the first step on a text of so many bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens"
        rng = np.random.default_rng(0)
        with path.open("wb") as file:
            for _ in range(0, size, 10**7):
                file.write(rng.integers(0, 65, min(size, 10**7), np.uint8).tobytes())
        command = [sys.executable, "-m", "benchmarks.feed", "--first-step", str(path)]
        return [json.loads(_output(command)) for _ in range(repeats)]


def _output(command: list[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return done.stdout.splitlines()[-1]


def first_step(path: Path) -> dict[str, Any]:
    """Train one step of the default model on tokens mapped from a file, and return the figures."""
    from charjax.config import load_config
    from charjax.data.datasets import Dataset
    from charjax.data.splits import Split
    from charjax.data.tokenizers import CharTokenizer
    from charjax.performance.workload import prepare as prepared
    from charjax.training.session import make_session, start_for_training

    config = load_config(None, ["data.path=tokens.txt", "eval.every=0"])
    devices = start_for_training(config)
    tokens = np.memmap(path, np.uint8, "r")
    split = Split(tokens, np.zeros(1, np.int64), np.array([len(tokens) - 1]))
    tokenizer = CharTokenizer("".join(chr(ord("0") + n) for n in range(65)), boundary=False)
    dataset = Dataset("tokens.txt", tokenizer, {"train": split}, "", (), len(tokens), len(tokens))
    training = prepared(make_session(config, dataset, devices))
    training.steps(1)
    times = os.times()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    anonymous = 1024 * int(fields["RssAnon"].split()[0])
    return {"seconds": times.user + times.system, "anonymous": anonymous}


def _ratio(row: Row) -> str:
    return f"{row['times_speed']['median']:.3f}" if "times_speed" in row else ""


def _processor(row: Row) -> str:
    return quantity(row["processor"]["median"], "s") if row.get("processor") else ""


def _anonymous(row: Row) -> str:
    return f"{row['anonymous'] / 1e9:.2f} GB" if "anonymous" in row else ""


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("step (1 GB: processor time to the first)", spread),
    ("times the speed with the text on the device", _ratio),
    ("processor time of a step", _processor),
    ("memory of its own", _anonymous),
)


def draw(axes: Any, rows: list[Row]) -> None:
    """Draw a bar for each model and place."""
    steps = [row for row in rows if "times_speed" in row]
    bars(axes, steps, lambda row: 1e3 * row["median"], "ms per training step")


BENCHMARK = Benchmark(
    name="feed",
    title="a text on the host",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
    heaps=("one",),
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--first-step"]:
        print(json.dumps(first_step(Path(sys.argv[2]))))
    else:
        start(BENCHMARK)
