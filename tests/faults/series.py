"""Many commands in one process other than pytest's, for thousands of cases that need JAX.

To start its backend and to read a model takes a second, so it is done once: the process is forked
like any other (processes.py) with `serve_series` as its hook. Each command is run from its `main`
to the exit it asks for, and writes on the real files 1 and 2.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from charjax import cli
from tests.commands import Result
from tests.faults.processes import Forks


class Series:
    """Handle of the process for the test."""

    def __init__(self, forks: Forks, place: Path, folder: Path):
        """Start it in `folder`; `place` is a new directory for requests and answers."""
        place.mkdir()
        self._out, self._err, requests, answers = (
            place / name for name in ("out", "err", "requests", "answers")
        )
        for pipe in (requests, answers):
            os.mkfifo(pipe)
        hook = ("serve_series", *map(str, (requests, answers, self._out, self._err)))
        self._process = forks.start("train", hook=hook, folder=folder)
        self._requests = requests.open("w", encoding="utf-8")
        self._answers = answers.open(encoding="utf-8")

    def run(self, command: str, *arguments: object) -> Result:
        """Run a command in the process."""
        self._requests.write(json.dumps([command, *map(str, arguments)]) + "\n")
        self._requests.flush()
        answer = self._answers.readline()
        if not answer:
            raise AssertionError(f"the process ended: {self._process.wait()}, {arguments}")
        out, err = (path.read_text(encoding="utf-8") for path in (self._out, self._err))
        return Result(int(answer), out, err)

    def close(self) -> None:
        """End the process."""
        self._requests.close()
        self._answers.close()
        self._process.wait()


def serve(requests: str, answers: str, out: str, err: str) -> NoReturn:
    """Serve requests in the process."""
    with (
        open(requests, encoding="utf-8") as request_file,
        open(answers, "w", encoding="utf-8") as answer_file,
    ):
        for line in request_file:
            for number, path in ((1, out), (2, err)):
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
                os.dup2(file, number)
                os.close(file)
            command, *arguments = json.loads(line)
            main = importlib.import_module(f"charjax.{command}").main
            answer_file.write(f"{_status(main, arguments)}\n")
            answer_file.flush()
    sys.exit(0)


def _status(main: Callable[[list[str]], int | None], arguments: list[str]) -> int:
    """Run a command, write its output, and return its exit status."""
    try:
        cli.run(main, arguments)
    except SystemExit as leave:
        status = int(leave.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = 120  # as Python leaves where its last words are lost
    return status
