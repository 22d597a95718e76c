"""The workloads of benchmarks.against: commands that both commits understand, and their clocks.

Each is a command of charjax in a process of its own. What the older commit does not understand is
its own message, in one line.
"""

import dataclasses
import functools
import json
import os
import pty
import resource
import select
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import processes
from benchmarks.against_trees import Side, last_line
from benchmarks.workloads import PAIRS, STREAM, filled
from charjax.performance.failures import LeftOut

# After which a command is stopped, and its workload is left out.
_LIMIT_SECONDS = 600.0
_POLL_SECONDS = 0.01
# Of a message on a terminal.
_MOST_BYTES = 10_000
# Lines of metrics that a training command writes while it is measured.
_LINES = 200
# The first steps, in which the loop finds the length of its calls, are not measured.
_LEFT_OUT = 0.1
# One text, and words, drawn at random: their paths are filled in later.
_TEXT, _WORDS = STREAM[:2], PAIRS[:3]
# Steps between checkpoints, where there are any.
_PERIOD = 100
_QUIET = ("eval.every=0", "train.sample_every=0", "checkpoint.every=0")
_SAVING = ("eval.every=0", "train.sample_every=0", f"checkpoint.every={_PERIOD}")
_BIGRAM = ("model.kind=bigram", "model.context_length=8", "train.batch_size=32")
_MLP = (
    *("model.kind=mlp", "model.context_length=3", "model.d_embed=10", "model.hidden=[200]"),
    "train.batch_size=32",
)
_GPT = "model.kind=transformer"
_SMALL_GPT = (
    *(_GPT, "model.n_layer=4", "model.n_head=4", "model.d_model=128", "model.context_length=64"),
    "train.batch_size=12",
)
_LARGE_GPT = (
    *(_GPT, "model.n_layer=6", "model.n_head=6", "model.d_model=384", "model.context_length=256"),
    "train.batch_size=8",
)


class Time(NamedTuple):
    """Time that a turn measured.

    Attributes:
      seconds: per unit of work.
      processor_seconds: of all threads of the whole command, from its start to its end, per unit.
    """

    seconds: float
    processor_seconds: float


@dataclasses.dataclass(frozen=True)
class Size:
    """Amount of work in a turn.

    Attributes:
      seconds: of training that a command is planned for.
      divisor: of the sizes of the other commands, 1 or more for a trial.
    """

    seconds: float
    divisor: int


Turn = Callable[[Side], Time]


@dataclasses.dataclass(frozen=True)
class Workload:
    """A command whose time is compared.

    Attributes:
      name: as --only takes it.
      title: what is measured.
      unit: the work that a time is divided by.
      prepare: called with both sides and the size; compiles the programs of both, and returns what
        measures a turn.
    """

    name: str
    title: str
    unit: str
    prepare: Callable[[dict[str, Side], Size], Turn]


def _training(words: tuple[str, ...], sides: dict[str, Side], size: Size) -> Turn:
    """Find the steps that the slower side does in the planned time; both do as many."""
    rates = [_rate(side, words, size.seconds / 2) for side in sides.values()]
    # Whole intervals between checkpoints, as far as there are several.
    unit = _PERIOD if min(rates) * size.seconds > _PERIOD else 10
    steps = max(1, round(min(rates) * size.seconds / unit)) * unit
    return functools.partial(_train, words, steps)


def _rate(side: Side, words: tuple[str, ...], seconds: float) -> float:
    """Return about how many steps are done per second; this also fills the cache of programs."""
    first: list[Line] = []

    def until(line: Line) -> bool:
        first.append(line)
        # The first calls of the loop are short.
        return len(first) > 2 and line.seconds - first[0].seconds > seconds

    lines, _ = _follow(side, (*words, "train.steps=1000000", "train.log_every=5"), until)
    if len(lines) < 2:
        raise LeftOut("the command ended before it was measured")
    begin, end = lines[0], lines[-1]
    return (end.step - begin.step) / max(end.seconds - begin.seconds, 1e-9)


def _train(words: tuple[str, ...], steps: int, side: Side) -> Time:
    """Train so many steps; the clock runs between two lines of metrics."""
    log_every = max(1, steps // _LINES)
    extra = (f"train.steps={steps}", f"train.log_every={log_every}")
    last = steps - steps % log_every
    lines, processor = _follow(side, (*words, *extra), lambda line: line.step >= last)
    end = lines[-1]
    if end.step < last:
        raise LeftOut(f"the command ended at step {end.step} of {steps}")
    begin = next(line for line in lines if line.step >= _LEFT_OUT * steps)
    if begin is end:
        raise LeftOut(f"{steps} steps are too few to be timed")
    return Time((end.seconds - begin.seconds) / (end.step - begin.step), processor / steps)


def _first_step(words: tuple[str, ...], sides: dict[str, Side], size: Size) -> Turn:
    def measure(side: Side) -> Time:
        lines, processor = _follow(side, words, lambda line: True)
        return Time(lines[0].seconds, processor)

    for side in sides.values():
        measure(side)
    return measure


class Line(NamedTuple):
    """The last line of metrics.jsonl at a time.

    Attributes:
      seconds: since the command was started.
      step: of the line.
    """

    seconds: float
    step: int


def _follow(
    side: Side, words: tuple[str, ...], until: Callable[[Line], bool]
) -> tuple[list[Line], float]:
    """Train, and end the command at a line of its metrics.

    Returns:
      A line for each time at which some were written, and the processor seconds.

    Raises:
      LeftOut: the command refused, with its own message, or wrote no line.
    """
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        read = _reader(workdir / "metrics.jsonl")
        start = time.perf_counter()

        def watch() -> bool:
            text = read()
            # A chunk of steps writes its lines at once: the last has the time of its end.
            if found := [json.loads(each) for each in text.splitlines()]:
                lines.append(Line(time.perf_counter() - start, found[-1]["step"]))
                return until(lines[-1])
            return False

        command = ("charjax.train", *words, "--workdir", str(workdir))
        done = _run(side, command, watch=watch)
        # Lines of a command that ended between two looks.
        watch()
    if not lines:
        raise LeftOut(last_line(done.output))
    return lines, done.processor_seconds


def _reader(path: Path) -> Callable[[], str]:
    """Return a function that returns the whole lines that a file has more than before."""
    position = 0

    def read() -> str:
        nonlocal position
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(position)
            text, newline, _ = file.read().rpartition(b"\n")
        position += len(text) + len(newline)
        return text.decode()

    return read


def _sampling(count: int, length: int, sides: dict[str, Side], size: Size) -> Turn:
    """Return what samples so many texts of so many characters from a model of the default size."""
    words = ("--num-samples", str(count), "--max-new-tokens", str(max(1, length // size.divisor)))

    def measure(side: Side) -> Time:
        done = _run(side, ("charjax.sample", str(_model(side)), *words, "--seed", "0", "--json"))
        result = _json_of(done)
        return Time(
            result["seconds"] / result["characters"], done.processor_seconds / result["characters"]
        )

    for side in sides.values():
        measure(side)
    return measure


def _first_character(sides: dict[str, Side], size: Size) -> Turn:
    """Return what starts the sampler on a terminal, where the text is shown as it is generated."""

    def measure(side: Side) -> Time:
        run = _model(side)
        with _terminal() as (terminal, screen):
            start, command = time.perf_counter(), ("charjax.sample", str(run))
            done = _run(side, command, watch=lambda: _has_text(screen), log=terminal)
            seconds = time.perf_counter() - start
            if done.status:
                text = os.read(screen, _MOST_BYTES).decode("utf-8", "replace")
                raise LeftOut(last_line(text))
        return Time(seconds, done.processor_seconds)

    for side in sides.values():
        measure(side)
    return measure


@contextmanager
def _terminal() -> Iterator[tuple[Any, int]]:
    """Yield a terminal's file, for a command, and the descriptor of what it shows."""
    screen, inner = pty.openpty()
    try:
        with os.fdopen(inner, "wb", buffering=0) as terminal:
            yield terminal, screen
    finally:
        os.close(screen)


def _has_text(screen: int) -> bool:
    return bool(select.select([screen], [], [], 0)[0])


def _model(side: Side) -> Path:
    """Return a run of the default model, trained for a few steps by the side itself."""
    folder = side.cache / "run"
    if not (folder / "summary.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        words = ("train.steps=5", *_QUIET, "eval.protocol=random", "eval.batches=1")
        done = _run(side, ("charjax.train", *words, "--workdir", str(folder)))
        if done.status:
            raise LeftOut(last_line(done.output))
    return folder


def _sweep(runs: int, steps: int, sides: dict[str, Side], size: Size) -> Turn:
    """Return what trains so many of the names MLP, for so many steps."""
    schemes = ("naive", "naive_readout", "naive_hidden", "kaiming_tanh")
    words = (
        *("names-mlp-kaiming", *filled(_WORDS), "optim.learning_rate=0.1"),
        *("--scheme", ",".join(schemes), "--seeds", str(runs // len(schemes))),
        *("--steps", str(max(10, steps // size.divisor)), "--at-once", str(runs)),
    )

    def measure(side: Side) -> Time:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "sweep"
            done = _run(side, ("charjax.initlab", "sweep", *words, "--out", str(out)))
            if done.status:
                raise LeftOut(last_line(done.output))
            result = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
        run_steps = runs * result["steps"]
        return Time(1 / result["run_steps_per_second"], done.processor_seconds / run_steps)

    for side in sides.values():
        measure(side)
    return measure


class _Done(NamedTuple):
    """A command that has ended, or was ended (status None)."""

    status: int | None
    output: str
    processor_seconds: float


def _run(
    side: Side,
    words: tuple[str, ...],
    *,
    watch: processes.Watch | None = None,
    log: Any = None,
) -> _Done:
    """Run a command of charjax; `log` is where its output goes, by default a file that is read."""
    command = [side.python, "-m", *words]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
        before = _processor_seconds()
        status = processes.run(
            command,
            _LIMIT_SECONDS,
            environment=side.environment(),
            log=file if log is None else log,
            cwd=Path(folder),
            watch=watch,
            every=_POLL_SECONDS,
        )
        used = _processor_seconds() - before
        file.seek(0)
        output = file.read().decode("utf-8", "replace")
    if status is None and watch is None:
        raise LeftOut(f"the command was stopped after {_LIMIT_SECONDS:.0f} s")
    return _Done(status, output, used)


def _processor_seconds() -> float:
    """Return the processor time of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _json_of(done: _Done) -> dict[str, Any]:
    """Return the object that a command printed."""
    if done.status:
        raise LeftOut(last_line(done.output))
    line = next(line for line in done.output.splitlines() if line.startswith("{"))
    found: dict[str, Any] = json.loads(line)
    return found


def _trained(*words: str, saving: bool = False) -> Callable[[dict[str, Side], Size], Turn]:
    """Return the preparation of a training run; {stream} and {lines} are texts drawn at random."""

    def prepare(sides: dict[str, Side], size: Size) -> Turn:
        return _training((*filled(words), *(_SAVING if saving else _QUIET)), sides, size)

    return prepare


def _started(*words: str) -> Callable[[dict[str, Side], Size], Turn]:
    return functools.partial(_first_step, words)


WORKLOADS = (
    Workload("default", "default model, training", "step", _trained()),
    Workload("gpt-small", "GPT 4L 4H 128 B12 T64, training", "step", _trained(*_TEXT, *_SMALL_GPT)),
    Workload("gpt-large", "GPT 6L 6H 384 B8 T256, training", "step", _trained(*_TEXT, *_LARGE_GPT)),
    Workload("bigram", "bigram B32 T8, training", "step", _trained(*_TEXT, *_BIGRAM)),
    Workload(
        "bigram-saved",
        "bigram B32 T8, a checkpoint every 100 steps",
        "step",
        _trained(*_TEXT, *_BIGRAM, saving=True),
    ),
    Workload("mlp", "MLP B32, training", "step", _trained(*_WORDS, *_MLP)),
    Workload(
        "mlp-saved",
        "MLP B32, a checkpoint every 100 steps",
        "step",
        _trained(*_WORDS, *_MLP, saving=True),
    ),
    Workload(
        "sweep-64", "names MLP, 64 runs in a sweep", "run-step", functools.partial(_sweep, 64, 4000)
    ),
    Workload(
        "sweep-256",
        "names MLP, 256 runs in a sweep",
        "run-step",
        functools.partial(_sweep, 256, 1000),
    ),
    Workload(
        "sample-1",
        "default model, 1 text",
        "character",
        functools.partial(_sampling, 1, 16_384),
    ),
    Workload(
        "sample-64", "default model, 64 texts", "character", functools.partial(_sampling, 64, 1024)
    ),
    Workload(
        "sample-1024",
        "default model, 1,024 texts",
        "character",
        functools.partial(_sampling, 1024, 256),
    ),
    Workload("first-character", "`charjax sample RUN`, first character", "", _first_character),
    Workload(
        "first-step-bigram",
        "`charjax train`, bigram, first step",
        "",
        _started("model.kind=bigram", "model.context_length=8"),
    ),
    Workload(
        "first-step-6",
        "`charjax train`, 6 layers, first step",
        "",
        _started("model.n_layer=6"),
    ),
    Workload(
        "first-step-48",
        "`charjax train`, 48 layers, first step",
        "",
        _started("model.n_layer=48"),
    ),
)
