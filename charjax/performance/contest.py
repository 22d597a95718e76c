"""A configuration on several devices, beside PyTorch if asked for, timed in turns.

Each contestant is a process (`charjax.performance.workers`) that sees one device alone.
"""

import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from charjax.config import Config
from charjax.errors import UserError
from charjax.extensions import with_place
from charjax.performance.failures import LeftOut, first_line
from charjax.performance.same_work import labels, why_not
from charjax.performance.show import Row
from charjax.performance.timing import Slice, paired_ratio, summary, take_turns
from charjax.performance.workers import (
    Worker,
    best_threads,
    device_environment,
    thread_counts,
)

REPEATS = 5
SLICE_SECONDS = 0.4
TEXTS = (1, 64)
PENDING = "stopped before it was measured"
# Relative; both in full float32.
TOLERANCE = 1e-5
_ENERGY_SECONDS = 2.0
_OURS = "charjax.performance.contestant"
_TORCH = "charjax.pytorch.contestant"


@dataclasses.dataclass(frozen=True)
class Point:
    """A configuration to measure.

    Attributes:
      config: resolved, without the device.
      file: the configuration's name, or None.
      words: the settings.
      name: of the point in a sweep, such as batch=16; empty without a sweep.
    """

    config: Config
    file: str | None
    words: tuple[str, ...]
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Contest:
    """A way to measure points.

    Attributes:
      devices: cpu, gpu, tpu.
      deadline: monotonic time at which the rest is left out.
      report: shows a line of progress.
      leave_out: takes (device, what, why) of what was not measured.
      torch: the Python that has PyTorch, or None.
      in_full: whether generation, energy and the drift of the peak rates are measured, too.
      rates: the peak rates of each device, once they are measured.
      mistakes: of the user's, for which rows have no figures.
    """

    devices: tuple[str, ...]
    deadline: float
    report: Callable[[str], None]
    leave_out: Callable[[str, str, str], None]
    torch: str | None = None
    in_full: bool = True
    rates: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    mistakes: list[str] = dataclasses.field(default_factory=list)

    def late(self) -> bool:
        """Return whether the time is over."""
        return time.monotonic() >= self.deadline

    def measure(self, point: Point) -> Iterator[Row]:
        """Yield a row for each device, and fill them in: with figures, or why there are none.

        The rows are there from the beginning, so that they are not lost if the work is interrupted.

        Raises:
          UserError: a mistake in the data; in a sweep it is a row's.
        """
        rows: list[Row] = [
            {"device": device, "point": point.name, "why": PENDING} for device in self.devices
        ]
        yield from rows
        workers: dict[tuple[str, str], Worker] = {}
        try:
            for row in rows:
                self._build(point, row, workers)
            self._time(rows, workers)
            for row in rows if self.in_full else ():
                if row["why"] is None:
                    self._finish(row, workers)
        finally:
            for worker in workers.values():
                worker.close()

    def _build(self, point: Point, row: Row, workers: dict[tuple[str, str], Worker]) -> None:
        """Start the contestants of a device, one after the other: each compiles alone."""
        device = row["device"]
        words = [*point.words, f"runtime.device={device}"]
        self.report(f"{_named(point, device)}: compiling")
        arguments = {"config": point.file, "words": words, "exact": self.torch is not None}
        ours = self._start(sys.executable, _OURS, device, **arguments, rates=self.rates.get(device))
        workers[device, "charjax"] = ours
        try:
            row |= ours.facts
        except Exception as error:
            if isinstance(error, UserError) and not point.name:
                raise
            row["why"] = reason(error)
            if isinstance(error, UserError):
                self.mistakes.append(row["why"])
            self.leave_out(device, point.name or "everything", row["why"])
            return
        self.rates.setdefault(device, row["roofline"])
        if self.torch is None:
            return
        row["against"] = []
        if why := why_not(point.config):
            self.leave_out(device, "PyTorch", why)
            return
        has_compiler = any(map(shutil.which, ("g++", "c++", "clang++")))
        for label, why in labels(point.config.model.kind, has_compiler=has_compiler).items():
            self._build_torch(point, row, workers, label, why)

    def _build_torch(
        self,
        point: Point,
        row: Row,
        workers: dict[tuple[str, str], Worker],
        label: str,
        why: str,
    ) -> None:
        device = row["device"]
        if not why:
            assert self.torch is not None
            self.report(f"{_named(point, device)}: {label}")
            words = list(point.words)
            peer = self._start(
                self.torch, _TORCH, device, label=label, config=point.file, words=words
            )
            try:
                check_same_work(label, peer.facts, row)
                workers[device, label] = peer
                return
            except Exception as error:
                peer.close()
                why = reason(error)
        self.leave_out(device, label, why)

    def _start(self, python: str, module: str, device: str, **arguments: Any) -> Worker:
        environment = device_environment(device, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"})
        if module == _TORCH:
            arguments["device"] = device
        worker = Worker(python, module, environment, **arguments)
        worker.until(self.deadline)
        return worker

    def _time(self, rows: list[Row], workers: dict[tuple[str, str], Worker]) -> None:
        """Time the steps of all contestants in turns, into the rows."""
        by_device = {row["device"]: row for row in rows}
        works: dict[str, Slice] = {}
        threads: dict[str, int] = {}
        for (device, label), worker in workers.items():
            if by_device[device]["why"] != PENDING:
                continue
            key = f"{device} {label}"
            self.report(f"{key}: timing steps")
            try:
                if label == "charjax":
                    works[key] = Slice(worker.with_threads(1), SLICE_SECONDS)
                else:
                    counts = thread_counts(device)
                    works[key], used = best_threads(worker.with_threads, counts, SLICE_SECONDS / 2)
                    threads[key] = int(used["used"])
            except Exception as error:
                self._lose(by_device[device], label, reason(error))
        found = _turns(works, self.late)
        for key, values in found.items():
            device, _, label = key.partition(" ")
            row = by_device[device]
            if len(values) < REPEATS:
                self._lose(row, label, f"fewer than {REPEATS} repeats; give more time by --seconds")
            elif label == "charjax":
                row |= _speeds(row, values, works[key].count)
            elif row["why"] is None:
                row["against"].append(
                    {
                        "contestant": label,
                        "threads": threads[key],
                        "seconds_per_step": summary(values),
                        "tokens_per_second": row["tokens_per_step"] / summary(values)["median"],
                        "times_charjax": paired_ratio(found[f"{device} charjax"], values),
                    }
                )

    def _lose(self, row: Row, label: str, why: str) -> None:
        self.leave_out(row["device"], f"{row['point']} {label}".strip(), why)
        if label == "charjax":
            row["why"] = why

    def _finish(self, row: Row, workers: dict[tuple[str, str], Worker]) -> None:
        """Measure generation, energy and the drift of the peak rates."""
        device = row["device"]
        worker = workers[device, "charjax"]
        row["generation"], row["energy"], row["drift"] = {}, None, None
        try:
            for texts in TEXTS:
                self.report(f"{device}: generating {texts} text{'s' * (texts > 1)}")
                row["generation"][str(texts)] = _generation(worker, texts)
            step = row["seconds_per_step"]["median"]
            row["energy"] = _energy(worker, step, row["tokens_per_step"])
            row["drift"] = worker.ask("finish")
        except Exception as error:
            self.leave_out(device, f"{row['point']} the rest".strip(), reason(error))


def _named(point: Point, device: str) -> str:
    return f"{device} {point.name}".strip()


def _turns(works: dict[str, Slice], late: Callable[[], bool]) -> dict[str, list[float]]:
    """Time in turns; a contestant that fails has fewer repeats than the others."""
    gone: set[str] = set()

    def guarded(name: str, work: Slice) -> Callable[[], float]:
        def run() -> float:
            if name in gone:
                return float("nan")
            try:
                return work()
            except (LeftOut, RuntimeError):
                gone.add(name)
                return float("nan")

        return run

    found = take_turns({name: guarded(name, work) for name, work in works.items()}, REPEATS, late)
    return {name: [] if name in gone else values for name, values in found.items()}


def _speeds(row: Row, values: list[float], count: int) -> Row:
    """Return times, tokens per second and both shares of the peak of the median step."""
    times = summary(values)
    rate = row["tokens_per_step"] / times["median"]
    flops = row["flops_per_token"]
    achieved = flops * rate if flops else None
    peaks = {"mfu_measured": row["peak_measured"], "mfu_nominal": row["peak_nominal"]}
    return {
        "why": None,
        "seconds_per_step": times,
        "steps_per_repeat": count,
        "tokens_per_second": rate,
        **{name: achieved / peak if achieved and peak else None for name, peak in peaks.items()},
    }


def _generation(worker: Worker, texts: int) -> dict[str, Any]:
    found = worker.ask("generate", texts=texts, repeats=REPEATS)
    times = summary(found["seconds"])
    return {
        "texts": texts,
        "tokens_per_text": found["tokens"],
        "seconds": times,
        "tokens_per_second": texts * found["tokens"] / times["median"],
    }


def _energy(worker: Worker, step_seconds: float, tokens: float) -> dict[str, Any] | None:
    found = worker.ask("energy", step_seconds=step_seconds, seconds=_ENERGY_SECONDS)
    if found is None:
        return None
    joules = found["joules_per_step"]
    return {"joules_per_token": joules / tokens, "watts": joules / step_seconds, **found}


def check_same_work(label: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Compare text, parameters and loss on the same weights and batch.

    Raises:
      LeftOut: they differ.
    """
    if theirs["text"] != ours["text"]:
        raise LeftOut(
            "its Python reads another text, as data.name=stdlib is each Python's own library; "
            "name a text by data.path"
        )
    if theirs["parameters"] != ours["parameters"]:
        raise LeftOut(
            f"{label} has {theirs['parameters']:,} parameters, charjax {ours['parameters']:,}: "
            "not the same model"
        )
    difference = abs(theirs["loss"] - ours["loss"]) / abs(ours["loss"])
    if not difference <= TOLERANCE:
        raise LeftOut(
            f"{label}'s loss on the same weights and batch is {theirs['loss']:.7f}, charjax's "
            f"{ours['loss']:.7f}: not the same work"
        )


def reason(error: Exception) -> str:
    """Return one line on what went wrong."""
    if isinstance(error, LeftOut | UserError):
        return with_place(str(error))
    line = first_line(error)
    return line.removeprefix("RuntimeError: ")
