"""Runs of several real processes on this machine, and the comparison of their files."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Fields of metrics.jsonl that are measured by a clock.
TIMED = ("tokens_per_second",)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens at."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@dataclasses.dataclass
class Started:
    """One of several processes.

    Attributes:
      process: the process.
      out: file of its standard output.
      err: file of its standard error.
      ended: seconds from the start of `Several.wait` to its end.
    """

    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    ended: float = -1.0

    @property
    def errors(self) -> list[str]:
        """The lines of its standard error."""
        return self.err.read_text().splitlines()


class Several:
    """`charjax train` in several processes, as a user starts them."""

    def __init__(
        self,
        folder: Path,
        count: int,
        words: list[object] | Callable[[int], list[object]],
        env: Mapping[str, str] = {},
        flags: Callable[[int], list[str]] | None = None,
        *,
        command: str = "train",
        subcommand: str | None = None,
    ):
        """Start the processes; words, or flags, may depend on the process."""
        self.folder = folder
        self.command = [f"charjax.{command}", *([subcommand] if subcommand else [])]
        address = f"127.0.0.1:{free_port()}"
        self.started = []
        for index in range(count):
            here = words(index) if callable(words) else words
            named = ["--processes", count, "--process", index, "--coordinator", address]
            named = named if flags is None else flags(index)
            self.started.append(self._start(index, [*here, *named], env))

    def _start(self, index: int, words: list[object], env: Mapping[str, str]) -> Started:
        out, err = self.folder / f"out{index}", self.folder / f"err{index}"
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = subprocess.Popen(
                [sys.executable, "-m", *self.command, *map(str, words)],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **env},
                stdout=out_file,
                stderr=err_file,
            )
        return Started(process, out, err)

    def __enter__(self) -> "Several":
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.started:
            each.process.kill()
            each.process.wait()

    def until(self, true: Callable[[], Any], seconds: float = 120) -> None:
        """Wait until a condition holds.

        Raises:
          TimeoutError: it does not, in that time, or a process ends before.
        """
        limit = time.monotonic() + seconds
        while not true():
            ended = any(each.process.poll() is not None for each in self.started)
            if ended or time.monotonic() > limit:
                raise TimeoutError(self.report())
            time.sleep(0.02)

    def wait(self, seconds: float = 120) -> list[int]:
        """Wait for all; return their exit statuses, minus the number of a signal that killed one.

        Raises:
          TimeoutError: one still runs after that time.
        """
        began = time.monotonic()
        while any(each.ended < 0 for each in self.started):
            for each in self.started:
                if each.ended < 0 and each.process.poll() is not None:
                    each.ended = time.monotonic() - began
            if time.monotonic() > began + seconds:
                raise TimeoutError(self.report())
            time.sleep(0.02)
        return [each.process.returncode for each in self.started]

    def report(self) -> str:
        """Return the statuses, and the ends of all outputs."""
        parts = [str([each.process.poll() for each in self.started])]
        for each in self.started:
            parts += [path.read_text()[-1500:] for path in (each.out, each.err)]
        return "\n---\n".join(parts)


def metrics(directory: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl, without what a clock measures."""
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [{key: line[key] for key in line if key not in TIMED} for line in found]


def last_step(directory: Path) -> int:
    """Return the last step of metrics.jsonl, 0 if there is none yet."""
    return max((line["step"] for line in metrics(directory)), default=0)


def largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference between the losses of two runs' metrics files.

    Everything that is not a sum of floating-point numbers is equal.
    """
    lines = metrics(one), metrics(other)
    summed = ("loss", "bpc", "bpb", "grad_norm", "l2_penalty")
    whole = [[{k: line[k] for k in line if k not in summed} for line in each] for each in lines]
    assert whole[0] == whole[1]
    return max(abs(a["loss"] - b["loss"]) for a, b in zip(*lines, strict=True))
