"""Contestants in processes of their own, each of which works when it is asked to.

It may be another Python's: PyTorch's wheels and the newest JAX are not always for the same one. The
threads of two frameworks in one process slow each other down, as PyTorch's wait for the next loop
by spinning (measured: a step of a small GPT takes both 1.2 to 1.4 times as long in one process as
in two). And programs that were compiled before in a process fragment its heap, which makes steps
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

from benchmarks.section import Section
from charjax.performance.failures import LeftOut, first_line

_PYTHON = "CHARJAX_TORCH_PYTHON"
# Made by `make parity`.
_ENVIRONMENT = Path(__file__).resolve().parent.parent / ".venv-torch" / "bin" / "python"
_VERSIONS = (
    "import platform, torch; print(torch.__version__, 'on python', platform.python_version())"
)


def find_torch(section: Section) -> str | None:
    """Return the Python that has PyTorch, and add its version to the section's facts.

    It is this Python, or that of the variable CHARJAX_TORCH_PYTHON, or that of `make parity`.
    Without one, return None and add a line to what the section leaves out.
    """
    variable = os.environ.get(_PYTHON)
    if variable is None and importlib.util.find_spec("torch") is not None:
        return sys.executable
    if variable is None and not _ENVIRONMENT.exists():
        why = f'not installed; pip install "charjax[torch]", make parity, or {_PYTHON}=PYTHON'
        section.leave_out("PyTorch", why)
        return None
    python = variable or str(_ENVIRONMENT)
    try:
        command = [python, "-c", _VERSIONS]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as error:
        section.leave_out("PyTorch", f"{python!r}: {error.strerror}; name another by {_PYTHON}")
        return None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        section.leave_out("PyTorch", f"{python!r}: {last}; name another by {_PYTHON}")
        return None
    section.facts["hardware"]["versions"]["torch"] = done.stdout.strip()
    return python


class Worker:
    """A process that holds what `MODULE.build(**arguments)` returns, and runs it on request."""

    def __init__(self, python: str, module: str, **arguments: Any):
        """Start a process of this Python, which begins to build."""
        environment = dict(os.environ)
        if module.endswith("torch"):
            # JAX only draws the weights there; the GPU is for PyTorch.
            environment["JAX_PLATFORMS"] = "cpu"
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.subprocess_worker", module, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Facts of the contestant, after waiting until it is built.

        Raises:
          LeftOut: something that it needs is not available.
          RuntimeError: it could not be built; with the message of the error there.
        """
        return self._reply()

    def with_threads(self, threads: int) -> Callable[[int], None]:
        """Return a function that does the work n times with so many threads, and waits for it."""
        _ = self.facts  # The first reply: it is built.

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
        if "ok" in reply:
            return reply["ok"]  # type: ignore[no-any-return]
        self.close()
        raise LeftOut(reply["left out"]) if "left out" in reply else RuntimeError(reply["error"])


def main() -> None:
    """Build the contestant, reply with its facts, and work whenever a line comes."""
    # What libraries print goes to stderr: stdout is for the replies.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(work: Callable[[], Any]) -> None:
        try:
            result = {"ok": work()}
        except LeftOut as reason:
            result = {"left out": str(reason)}
        except Exception as error:
            result = {"error": first_line(error)}
        replies.write(json.dumps(result) + "\n")

    built: list[Any] = []

    def build() -> Any:
        built.append(importlib.import_module(sys.argv[1]).build(**json.loads(sys.argv[2])))
        return built[0].facts

    reply(build)
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            threads, count = map(int, line.split())
            reply(lambda: built[0].with_threads(threads)(count))  # noqa: B023 - called at once


if __name__ == "__main__":
    main()
