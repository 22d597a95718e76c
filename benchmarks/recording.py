"""Recordings of the training command: it is started, its metrics are timed, it is stopped."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.section import Section
from charjax.errors import printable
from charjax.performance.failures import LeftOut

_POLL_SECONDS = 0.01


class Line(NamedTuple):
    """A line of metrics.jsonl, and when it was there.

    Attributes:
      seconds: since the command was started.
      metrics: the object on it.
    """

    seconds: float
    metrics: dict[str, Any]


class Recording(NamedTuple):
    """A command's metrics and output.

    Attributes:
      lines: in order.
      complete: whether the last of them was the one waited for.
      output: what the command printed.
    """

    lines: list[Line]
    complete: bool
    output: str


def record(
    section: Section,
    arguments: list[str],
    until: Callable[[dict[str, Any]], bool],
    cache: Path,
    limit: float,
) -> Recording:
    """Start `python -m charjax.train`, and stop it at a line of its metrics.

    Args:
      section: whose device it runs on.
      arguments: of the command; a --workdir is added.
      until: whether a line is the last one to wait for.
      cache: the user's cache directory, where compiled programs are kept.
      limit: seconds after which it is stopped in any case.

    Raises:
      LeftOut: the command refused, with its own message.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir, output = Path(folder) / "run", Path(folder) / "output"
        command = [sys.executable, "-m", "charjax.train", *arguments, "--workdir", str(workdir)]
        command.append(f"runtime.device={section.device}")
        # A corpus is read from $CHARJAX_DATA, or downloaded once more.
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        with output.open("w", encoding="utf-8") as file:
            start = time.perf_counter()
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment
            )
            try:
                lines, complete = _follow(process, workdir / "metrics.jsonl", until, start, limit)
            finally:
                process.kill()
                process.wait()
        text = output.read_text(encoding="utf-8")
    if not lines and process.returncode > 0:
        message = (text.strip().splitlines() or ["no message"])[-1]
        raise LeftOut(printable(message.removeprefix("error: ")))
    return Recording(lines, complete, text)


def _follow(
    process: Any, path: Path, until: Callable[[dict[str, Any]], bool], start: float, limit: float
) -> tuple[list[Line], bool]:
    lines: list[Line] = []
    while True:
        ended = process.poll() is not None
        now = time.perf_counter() - start
        texts = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        for text in texts[len(lines) :]:
            lines.append(Line(now, json.loads(text)))
            if until(lines[-1].metrics):
                return lines, True
        if ended or now > limit:
            return lines, False
        time.sleep(_POLL_SECONDS)
