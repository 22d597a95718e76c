"""The real training command as its user meets it: started, watched through its metrics, stopped."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.section import LeftOut, Section
from charjax.errors import printable

_LOOK_EVERY = 0.01


class Seen(NamedTuple):
    """A line of metrics.jsonl, and when it was there.

    Attributes:
      seconds: since the command was started.
      line: the object on it.
    """

    seconds: float
    line: dict[str, Any]


class Watched(NamedTuple):
    """What came of a command.

    Attributes:
      seen: the lines, in order.
      stopped: whether the last of them was the one waited for.
      output: what the command printed.
    """

    seen: list[Seen]
    stopped: bool
    output: str


def watch(
    section: Section,
    arguments: list[str],
    until: Callable[[dict[str, Any]], bool],
    cache: Path,
    limit: float,
) -> Watched:
    """Start `python -m charjax.train`, and stop it at the first line of metrics asked for.

    Args:
      section: whose device it is to run on.
      arguments: of the command; a --workdir is added.
      until: whether this is the line.
      cache: the user's cache directory, where compiled programs are kept.
      limit: seconds after which it is stopped in any case.

    Raises:
      LeftOut: the command refused (its own line says why).
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir, output = Path(folder) / "run", Path(folder) / "output"
        command = [sys.executable, "-m", "charjax.train", *arguments, "--workdir", str(workdir)]
        command.append(f"runtime.device={section.device}")
        with output.open("w", encoding="utf-8") as file:
            began = time.perf_counter()
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=_environment(cache)
            )
            try:
                seen, stopped = _follow(process, workdir / "metrics.jsonl", until, began, limit)
            finally:
                process.kill()
                process.wait()
        told = output.read_text(encoding="utf-8")
    if not seen and process.returncode > 0:
        said = (told.strip().splitlines() or ["nothing said"])[-1]
        raise LeftOut(printable(said.removeprefix("error: ")))
    return Watched(seen, stopped, told)


def _environment(cache: Path) -> dict[str, str]:
    """The user's, with a cache of its own; corpora that were downloaded are still found."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    return environment


def _follow(
    process: Any, path: Path, until: Callable[[dict[str, Any]], bool], began: float, limit: float
) -> tuple[list[Seen], bool]:
    seen: list[Seen] = []
    while True:
        ended = process.poll() is not None
        now = time.perf_counter() - began
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        for text in lines[len(seen) :]:
            seen.append(Seen(now, json.loads(text)))
            if until(seen[-1].line):
                return seen, True
        if ended or now > limit:
            return seen, False
        time.sleep(_LOOK_EVERY)
