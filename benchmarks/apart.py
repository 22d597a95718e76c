"""A contestant in a process of its own, which takes its turns when it is asked to.

It may be of another Python: PyTorch's wheels and the newest JAX are not always for the same one.
The threads of two frameworks in one process get in each other's way: PyTorch's wait for the next
loop by spinning (measured: a step of a small GPT takes both 1.2 to 1.4 times as long in one process
as in two). And what else was compiled in a process leaves its heap in pieces, which makes steps
slower (measured: up to a tenth, benchmarks/NOTES.md).
"""

import contextlib
import functools
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.section import LeftOut, Section, first_line

_PYTHON = "CHARJAX_TORCH_PYTHON"
# What `make parity` makes.
_ENVIRONMENT = Path(__file__).resolve().parent.parent / ".venv-torch" / "bin" / "python"
_VERSIONS = (
    "import platform, torch; print(torch.__version__, 'on python', platform.python_version())"
)


def find_torch(section: Section) -> str | None:
    """The Python that has PyTorch: this one, or another; what it is is told in the section.

    Another is that of the variable CHARJAX_TORCH_PYTHON, or else of `make parity`. None, where
    there is none: said in a line of what is left out.
    """
    given = os.environ.get(_PYTHON)
    if given is None and importlib.util.find_spec("torch") is not None:
        return sys.executable
    if given is None and not _ENVIRONMENT.exists():
        why = f'not installed; pip install "charjax[torch]", make parity, or {_PYTHON}=PYTHON'
        section.leave_out("PyTorch", why)
        return None
    python = given or str(_ENVIRONMENT)
    try:
        asked = [python, "-c", _VERSIONS]
        found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except OSError as error:
        section.leave_out("PyTorch", f"{python!r}: {error.strerror}; name another by {_PYTHON}")
        return None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        section.leave_out("PyTorch", f"{python!r}: {last}; name another by {_PYTHON}")
        return None
    section.facts["hardware"]["versions"]["torch"] = found
    return python


class Apart:
    """What `MODULE.build_apart(**arguments)` makes, over there."""

    def __init__(self, python: str, module: str, **arguments: Any):
        """Start a process of this Python, which begins to build it."""
        environment = dict(os.environ)
        if module.endswith("torch"):
            # Its own JAX only draws the weights; a GPU is left to the contestants.
            environment["JAX_PLATFORMS"] = "cpu"
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.apart", module, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What it tells of itself once it is built, which is waited for.

        Raises:
          LeftOut: what it needs is not there.
          RuntimeError: it could not be built; in the words of the error there.
        """
        return self._reply()

    def with_threads(self, threads: int) -> Callable[[int], None]:
        """A function that does its work n times with so many threads, and waits for it."""
        _ = self.facts  # Its first answer: it is built.

        def run(count: int) -> None:
            assert self._process.stdin is not None
            self._process.stdin.write(f"{threads} {count}\n")
            self._process.stdin.flush()
            self._reply()

        return run

    def close(self) -> None:
        """End the process."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"error": "its process ended"}
        if "ok" not in reply:
            self.close()
            raise (
                LeftOut(reply["left out"]) if "left out" in reply else RuntimeError(reply["error"])
            )
        return reply["ok"]  # type: ignore[no-any-return]


def main() -> None:
    """Build the contestant, tell its facts, and work whenever a line comes."""
    # What libraries print is no answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(what: Callable[[], Any]) -> None:
        try:
            told = {"ok": what()}
        except LeftOut as reason:
            told = {"left out": str(reason)}
        except Exception as error:
            told = {"error": first_line(error)}
        answers.write(json.dumps(told) + "\n")

    built: list[Any] = []

    def build() -> Any:
        built.append(importlib.import_module(sys.argv[1]).build_apart(**json.loads(sys.argv[2])))
        return built[0].facts

    answer(build)
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            threads, count = map(int, line.split())
            answer(lambda: built[0].with_threads(threads)(count))  # noqa: B023 - called at once


if __name__ == "__main__":
    main()
