"""The training loop with fakes: the order of events, and the written files."""

import dataclasses
import itertools
import json
import math
import types
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from charjax.config import Config, parse_config
from charjax.run.loop import DivergedError, Loop
from charjax.run.metrics import MetricsFile
from charjax.run.progress import Progress
from charjax.signals import Interrupted
from charjax.training.evaluation import Score
from charjax.training.program import CAPACITY
from charjax.training.step import Metrics
from charjax.units import TextSize


def metrics_of(step: int) -> Metrics:
    """Return the metrics of step 1, 2, ...: the loss is the step's number, of as many targets."""
    return Metrics(step, 10 * step, step / 1000, step, 0, 0)  # type: ignore[arg-type]


class Program:
    """Fake of the compiled steps: a device that executes its queue.

    Attributes:
      chunks: (first step, steps) of each call.
      block: steps whose batches are brought to the device at once; None: all.
      waited: the calls that had been started when the host waited for one, (which, how many).
    """

    def __init__(self, clock: "Clock", seconds_per_step: float, skipped: set[int], bound: int):
        self.clock, self.seconds_per_step = clock, seconds_per_step
        self.skipped, self.bound = skipped, bound
        self.chunks: list[tuple[int, int]] = []
        self.waited: list[tuple[int, int]] = []
        self.in_a_row, self.busy_until = 0, 0.0
        self.block: int | None = None

    def most_steps(self, step: int) -> int:
        return CAPACITY if self.block is None else self.block - step % self.block

    def run(self, state: Any, steps: int, step: int) -> tuple[Any, np.ndarray, "Pending"]:
        first, rows = state.counters.step, []
        for step in range(first + 1, first + steps + 1):
            if self.in_a_row == self.bound:
                break
            row = metrics_of(step)
            if step in self.skipped:
                row = row._replace(loss=math.nan, grad_norm=math.inf, skipped=1)  # type: ignore[arg-type]
            self.in_a_row = self.in_a_row + 1 if step in self.skipped else 0
            rows.append(row)
        self.busy_until = max(self.clock.now, self.busy_until) + self.seconds_per_step * len(rows)
        self.chunks.append((first, steps))
        buffer = np.full((CAPACITY, len(Metrics._fields)), -1, np.float32)
        buffer[: len(rows)] = np.reshape(rows, (-1, len(Metrics._fields)))
        done = Pending(self, len(self.chunks), len(rows), self.busy_until)
        return at(first + len(rows)), buffer, done


@dataclasses.dataclass
class Pending:
    """Return the number of completed steps, for which the host waits."""

    program: Program
    number: int
    steps: int
    ready: float

    def __int__(self) -> int:
        self.program.waited.append((self.number, len(self.program.chunks)))
        self.program.clock.now = max(self.program.clock.now, self.ready)
        return self.steps


@dataclasses.dataclass
class Clock:
    """Fake of the module `time`, which advances when the host waits for steps."""

    now: float = 100.0

    def perf_counter(self) -> float:
        # An evaluation's speed is divided by its seconds.
        self.now += 1e-9
        return self.now


class Display:
    """Fake of the display."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: Silent()


class Silent:
    def __enter__(self) -> None: ...

    def __exit__(self, *args: object) -> None: ...


class Signals:
    """Fake of the signals: one arrives as soon as `at` steps have been started."""

    def __init__(self, program: Program, at: int | None):
        self.program, self.at = program, at

    @property
    def received(self) -> int | None:
        done = sum(self.program.chunks[-1]) if self.program.chunks else 0
        return 2 if self.at is not None and done >= self.at else None

    def poll(self) -> None:
        if self.received is not None:
            raise Interrupted(self.received)


def at(step: int) -> Any:
    return SimpleNamespace(counters=SimpleNamespace(step=step))


@dataclasses.dataclass
class Run:
    """A loop made of fakes, with its events: ("save", 20, is the best)."""

    loop: Loop
    program: Program
    path: Path
    events: list[tuple[Any, ...]]

    def lines(self, split: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [line for line in lines if line["split"] == split]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(
        losses: dict[int, float] | None = None,
        start: int = 0,
        progress: Progress | None = None,
        skipped: set[int] = frozenset(),  # type: ignore[assignment]
        stop_at: int | None = None,
        seconds_per_step: float = 1e-3,
        validation: bool = True,
        checked: bool = False,
        keep: str = "",
        **settings: int,
    ) -> Run:
        config = make_config(**settings)
        clock = Clock()
        monkeypatch.setattr("charjax.run.loop.time", clock)
        program = Program(clock, seconds_per_step, skipped, config.train.max_skipped)
        metrics = MetricsFile(tmp_path / "metrics.jsonl")
        metrics.path.write_text(keep)
        progress = progress or Progress(events_done=start)
        metrics.cut(start, progress.events_done)
        events: list[tuple[Any, ...]] = []

        def evaluate(step: int, state: Any) -> Score:
            assert state.counters.step == step
            events.append(("evaluate", step))
            return Score((losses or {}).get(step, 1.0), 100)

        def sample(step: int, state: Any) -> None:
            assert state.counters.step == step
            events.append(("sample", step))

        def save(step: int, state: Any, progress: Progress, best: bool) -> None:
            assert state.counters.step == step
            # What is saved says that the step's evaluation and samples are complete.
            assert progress.events_done == step
            events.append(("save", step, best))

        loop = Loop(
            config=config,
            program=program,  # type: ignore[arg-type]
            state=at(start),
            progress=progress,
            metrics=metrics,
            display=Display(),  # type: ignore[arg-type]
            signals=Signals(program, stop_at),  # type: ignore[arg-type]
            evaluate=evaluate if validation else None,
            sample=sample,
            save=save,
            check=lambda: events.append(("check",)) if checked else None,
            steps_per_epoch=4.0,
            sizes=dict.fromkeys(("train", "val"), TextSize(1, 1, 1)),
        )
        return Run(loop, program, metrics.path, events)

    return make


def make_config(
    steps: int = 20,
    log: int = 5,
    evaluate: int = 0,
    sample: int = 0,
    save: int = 0,
    max_skipped: int = 100,
    patience: int = 0,
) -> Config:
    train = {"steps": steps, "log_every": log, "sample_every": sample, "max_skipped": max_skipped}
    train["patience"] = patience
    return parse_config(
        {"train": train, "eval": {"every": evaluate}, "checkpoint": {"every": save}}
    )


def test_events_happen_where_they_are_due_and_in_their_order(make: Any):
    run = make(steps=20, evaluate=6, sample=9, save=4, losses={6: 3.0, 12: 4.0, 18: 2.0, 20: 5.0})
    run.loop.run()
    assert run.events == [
        ("save", 4, False),
        # The best is saved though no checkpoint is due.
        ("evaluate", 6),
        ("save", 6, True),
        ("save", 8, False),
        ("sample", 9),
        # Not the best, but a checkpoint is due.
        ("evaluate", 12),
        ("save", 12, False),
        ("save", 16, False),
        ("evaluate", 18),
        ("sample", 18),
        ("save", 18, True),
        ("evaluate", 20),
        ("sample", 20),
        ("save", 20, False),
    ]
    assert run.loop.step == 20


def test_only_the_last_step_has_events_where_no_period_is_set(make: Any):
    run = make(steps=7)
    run.loop.run()
    assert run.events == [("evaluate", 7), ("sample", 7), ("save", 7, True)]


def test_without_a_validation_split_the_rest_goes_on(make: Any):
    run = make(steps=6, evaluate=2, sample=4, save=3, validation=False)
    run.loop.run()
    assert run.events == [("save", 3, False), ("sample", 4), ("sample", 6), ("save", 6, False)]
    assert run.loop.progress.best_val_loss is run.loop.progress.val_loss is None


def test_chunks_end_at_events(make: Any):
    run = make(steps=5000, evaluate=700, sample=1100, log=300)
    run.loop.run()
    ends = {first + steps for first, steps in run.program.chunks}
    due = {*range(700, 5000, 700), *range(1100, 5000, 1100), 5000}
    assert due <= ends
    for first, steps in run.program.chunks:
        assert not due & set(range(first + 1, first + steps))
    # Every step once.
    assert sum(steps for _, steps in run.program.chunks) == 5000
    assert {event[1] for event in run.events} == due


@pytest.mark.parametrize(
    ("seconds_per_step", "most"), [(10.0, 1), (0.3, 2), (0.01, 80), (1e-6, CAPACITY)]
)
def test_chunks_grow_until_they_last_for_about_a_second(
    make: Any, seconds_per_step: float, most: int
):
    run = make(steps=5 * most + 100, log=most, seconds_per_step=seconds_per_step)
    run.loop.run()
    sizes = [steps for _, steps in run.program.chunks]
    assert sizes[0] == 1
    assert most / 2 <= max(sizes) <= min(1.25 * most, CAPACITY)
    for before, after in itertools.pairwise([1, *sizes]):
        assert after <= 8 * before


def test_a_chunk_ends_with_the_batches_that_are_on_the_device(make: Any):
    run = make(steps=100, seconds_per_step=0.01)
    run.program.block = 15
    run.loop.run()
    chunks = run.program.chunks
    assert sum(steps for _, steps in chunks) == 100
    assert {first for first, _ in chunks} >= set(range(15, 100, 15))
    assert all(first // 15 == (first + steps - 1) // 15 for first, steps in chunks)


def test_the_next_chunk_is_started_before_the_host_waits(make: Any):
    run = make(steps=500, seconds_per_step=0.1)
    run.loop.run()
    count = len(run.program.chunks)
    assert run.program.waited == [(n, min(n + 1, count)) for n in range(1, count + 1)]


def test_speed_is_that_of_the_steps_alone(make: Any):
    run = make(steps=100, evaluate=10, log=100, seconds_per_step=0.1)
    run.loop.run()
    progress = run.loop.progress
    assert progress.seconds == pytest.approx(10.0)
    assert progress.targets == sum(range(101))
    assert progress.tokens_per_second == pytest.approx(505.0)


def expected_line(first: int, last: int) -> dict[str, Any]:
    """Return the training line of steps first, ..., last as metrics_of defines them."""
    steps = np.arange(first, last + 1)
    loss = float((steps**2).sum() / steps.sum())
    return {
        "step": last,
        "split": "train",
        "loss": pytest.approx(loss),
        "bpc": pytest.approx(loss / math.log(2)),
        "learning_rate": pytest.approx(last / 1000),
        "grad_norm": pytest.approx(10 * steps.mean()),
    }


def only(line: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: line[name] for name in names}


def test_a_line_is_the_mean_over_the_steps_since_the_one_before(make: Any):
    run = make(steps=15, log=5, evaluate=7)
    run.loop.run()
    expected = [expected_line(*bounds) for bounds in [(1, 1), (2, 5), (6, 10), (11, 15)]]
    lines = run.lines("train")
    assert [only(line, expected[0]) for line in lines] == expected
    assert all(line["tokens_per_second"] > 0 for line in lines)
    assert [line["step"] for line in run.lines("val")] == [7, 14, 15]


def test_lines_do_not_depend_on_chunks(make: Any):
    slow, fast = ({"steps": 60, "log": 7, "seconds_per_step": s} for s in (10.0, 1e-6))
    texts = []
    for settings in (slow, fast):
        run = make(**settings)
        run.loop.run()
        texts.append([line | {"tokens_per_second": None} for line in run.lines("train")])
    assert texts[0] == texts[1]
    assert [line["step"] for line in texts[0]][:3] == [1, 7, 14]


def test_a_validation_line(make: Any):
    run = make(steps=4, evaluate=2, losses={2: 3.0, 4: math.nan})
    run.loop.run()
    first, second = run.lines("val")
    assert first["bpc"] == pytest.approx(3.0 / math.log(2))
    assert (first["step"], first["loss"], first["tokens_per_second"] > 0) == (2, 3.0, True)
    assert (second["step"], second["loss"], second["bpc"]) == (4, None, None)


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([3.0, 2.0, 2.5], [2, 4]),
        ([3.0, 3.0, 3.0], [2]),
        ([math.nan, 3.0, 2.0], [4, 6]),
        ([3.0, math.nan, 2.0], [2, 6]),
        ([math.inf, math.nan, math.inf], []),
        ([2.0, -math.inf, 1.0], [2, 6]),
    ],
)
def test_the_best_is_the_lowest_finite_loss_and_the_first_of_equals(
    make: Any, losses: list[float], best: list[int]
):
    run = make(steps=6, evaluate=2, losses=dict(zip((2, 4, 6), losses, strict=True)))
    run.loop.run()
    assert [event[1] for event in run.events if event[0] == "save" and event[2]] == best
    progress = run.loop.progress
    assert progress.best_step == (best[-1] if best else None)
    assert progress.best_val_loss == (losses[best[-1] // 2 - 1] if best else None)
    np.testing.assert_equal(progress.val_loss, losses[-1])


class TestPatience:
    """The run ends after so many evaluations without a better validation loss."""

    LOSSES = types.MappingProxyType({2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0, 10: 1.0})

    @pytest.mark.parametrize(("patience", "last"), [(1, 6), (2, 8), (3, 12), (0, 12)])
    def test_the_last_step_is_a_whole_one(self, make: Any, patience: int, last: int):
        losses = {**self.LOSSES, 12: 0.5}
        run = make(steps=12, evaluate=2, losses=losses, patience=patience)
        run.loop.run()
        assert run.loop.step == last
        # Equal to the best is not better.
        assert run.loop.progress.best_step == (4 if last < 10 else 12)
        assert run.events[-2:] == [("sample", last), ("save", last, last == 12)]

    def test_a_resumed_run_waits_no_longer(self, make: Any):
        settings = {"steps": 12, "evaluate": 2, "save": 1, "patience": 2}
        cut = make(losses=self.LOSSES, stop_at=7, **settings)
        with pytest.raises(Interrupted):
            cut.loop.run()
        progress = Progress.from_json(json.loads(json.dumps(cut.loop.progress.to_json())))
        assert progress.stalled == 1
        rest = make(losses=self.LOSSES, start=cut.loop.step, progress=progress, **settings)
        rest.loop.run()
        assert rest.loop.step == 8

    def test_it_is_over_when_it_is_resumed_and_goes_on_with_greater_patience(self, make: Any):
        run = make(steps=12, evaluate=2, losses=self.LOSSES, patience=2)
        run.loop.run()
        assert run.loop.progress.is_over(8, run.loop.config)
        settings = {"steps": 12, "evaluate": 2, "patience": 3}
        longer = make(losses=self.LOSSES, start=8, progress=run.loop.progress, **settings)
        longer.loop.run()
        assert longer.loop.step == 12
        assert longer.loop.progress.best_step == 10


@pytest.mark.parametrize("stop_at", [1, 7, 10, 13])
def test_stopped_and_resumed_is_the_run_that_was_not_stopped(make: Any, stop_at: int):
    settings = {"steps": 20, "log": 4, "evaluate": 5, "sample": 10, "save": 4}
    losses = {5: 4.0, 10: 3.0, 15: 3.5, 20: 2.0}
    whole = make(losses=losses, **settings)
    whole.loop.run()
    lines = [line | {"tokens_per_second": None} for line in whole.lines("train")]
    cut = make(losses=losses, stop_at=stop_at, **settings)
    with pytest.raises(Interrupted):
        cut.loop.run()
    step, text = cut.loop.step, cut.path.read_text()
    # The state is that of the step that the loop names: it can be saved.
    assert stop_at <= step == cut.loop.state.counters.step < 20
    # As it is read from a checkpoint.
    progress = Progress.from_json(json.loads(json.dumps(cut.loop.progress.to_json())))
    assert progress.events_done <= step
    rest = make(losses=losses, start=step, progress=progress, keep=text, **settings)
    rest.loop.run()
    assert cut.events + rest.events == whole.events
    assert [line | {"tokens_per_second": None} for line in rest.lines("train")] == lines
    assert rest.loop.progress.best_step == whole.loop.progress.best_step == 20
    assert rest.loop.progress.targets == whole.loop.progress.targets


def test_events_that_a_signal_came_before_are_the_first_of_the_resumed_run(make: Any):
    cut = make(steps=20, evaluate=10, stop_at=10)
    with pytest.raises(Interrupted):
        cut.loop.run()
    assert (cut.loop.step, cut.events, cut.loop.progress.events_done) == (10, [], 0)
    rest = make(steps=20, evaluate=10, start=10, progress=cut.loop.progress)
    rest.loop.run()
    assert rest.events[0] == ("evaluate", 10)
    # Complete, they are not repeated.
    again = make(steps=20, evaluate=10, start=10, progress=Progress(events_done=10))
    again.loop.run()
    assert again.events[0] == ("evaluate", 20)


def test_a_run_at_its_last_step_computes_nothing(make: Any):
    done = make(steps=20, start=20)
    done.loop.run()
    assert (done.events, done.program.chunks) == ([], [])
    killed = make(steps=20, start=20, progress=Progress(events_done=0))
    killed.loop.run()
    assert killed.program.chunks == []
    assert killed.events == [("evaluate", 20), ("sample", 20), ("save", 20, True)]


@pytest.mark.parametrize("seconds_per_step", [10.0, 1e-6])
def test_too_many_skipped_steps_in_a_row_end_the_run(make: Any, seconds_per_step: float):
    run = make(
        steps=40,
        log=5,
        evaluate=20,
        max_skipped=4,
        skipped={3, 5, 6, 7, *range(22, 41)},
        seconds_per_step=seconds_per_step,
    )
    with pytest.raises(DivergedError, match=r"stopped at step 25: 4 steps in a row"):
        run.loop.run()
    # The state can be saved, and nothing of the last interval was announced as an event.
    assert run.loop.step == run.loop.state.counters.step == 25
    assert run.loop.progress.events_done == 20
    lines = {line["step"]: line for line in run.lines("train")}
    assert [lines[step].get("skipped", 0) for step in (1, 5, 10, 15, 25)] == [0, 2, 2, 0, 4]
    # The mean of the steps that were not skipped: 2 and 4.
    assert lines[5]["loss"] == pytest.approx((4 + 16) / 6)
    assert lines[25]["loss"] == 21.0


def test_a_save_that_failed_is_noticed_after_the_chunk(make: Any):
    run = make(steps=100, seconds_per_step=1.0)

    def check() -> None:
        raise OSError("no space left")

    run.loop.check = check
    with pytest.raises(OSError, match="no space left"):
        run.loop.run()
    # The chunk that was waited for, and the one in flight.
    assert len(run.program.chunks) == 2
    assert run.events == []


def test_whether_a_save_has_failed_is_asked_after_every_chunk(make: Any):
    run = make(steps=30, seconds_per_step=1.0, checked=True)
    run.loop.run()
    assert run.events.count(("check",)) == len(run.program.chunks)
