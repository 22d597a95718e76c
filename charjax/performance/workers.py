"""Contestants in processes of their own, each of which works when it is asked to.

A process sees one device alone, and may be another Python's: PyTorch's wheels and the newest JAX
are not always for the same one. The threads of two frameworks in one process slow each other down,
as PyTorch's wait for the next loop by spinning (measured: a step of a small GPT takes both 1.2 to
1.4 times as long in one process as in two). And programs that were compiled before in a process
fragment its heap, which makes steps slower (measured: up to a tenth, benchmarks/NOTES.md).
"""

import contextlib
import functools
import importlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from charjax import extensions
from charjax.errors import UserError
from charjax.extensions.sources import named_sources
from charjax.performance.failures import LeftOut, first_line
from charjax.performance.timing import Slice

TORCH_PYTHON = "CHARJAX_TORCH_PYTHON"
_VERSIONS = (
    "import platform, torch; print(torch.__version__, 'on python', platform.python_version())"
)


def device_environment(device: str, defaults: dict[str, str]) -> dict[str, str]:
    """Return the environment of a process that sees this device alone: "cpu", "gpu" or "tpu".

    `defaults` are variables for it, unless they are set already.
    """
    environment = {**defaults, **os.environ}
    environment.pop("JAX_PLATFORMS", None)
    if device == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    return environment


def find_accelerator() -> str | None:
    """Return "gpu" or "tpu" if JAX finds one in a new process, else None."""
    code = "import jax; print(jax.devices()[0].platform)"
    environment = device_environment("gpu", {})
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found = done.stdout.strip()
    return found if found in ("gpu", "tpu") else None


def find_torch(fallback: str | None = None) -> tuple[str, str]:
    """Return the Python that has PyTorch, and the versions of both.

    It is that of the variable CHARJAX_TORCH_PYTHON, or this Python, or `fallback`.

    Raises:
      LeftOut: PyTorch is not installed there.
    """
    variable = os.environ.get(TORCH_PYTHON)
    if variable is None and importlib.util.find_spec("torch") is not None:
        variable = sys.executable
    python = variable or fallback
    if python is None:
        raise LeftOut(f'not installed; pip install "charjax[torch]", or {TORCH_PYTHON}=PYTHON')
    try:
        command = [python, "-c", _VERSIONS]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as error:
        raise LeftOut(f"{python!r}: {error.strerror}; name another by {TORCH_PYTHON}") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LeftOut(f"{python!r}: {last}; name another by {TORCH_PYTHON}") from None
    return python, done.stdout.strip()


class Worker:
    """A process that holds what `MODULE.build(**arguments)` returns, and calls its methods."""

    def __init__(
        self, python: str, module: str, environment: dict[str, str] | None = None, **arguments: Any
    ):
        """Start a process of this Python, which begins to build.

        It may execute the files of the user's that this process may.

        Args:
          python: the interpreter; this package is importable there.
          module: that has the function `build`.
          environment: of the process; by default this one's.
          arguments: of `build`, as JSON holds them.
        """
        files = [(source.path, source.version) for source in named_sources()]
        words = [module, json.dumps(arguments), json.dumps(files)]
        self._process = subprocess.Popen(
            [python, "-m", "charjax.performance.workers", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            # Ctrl-C is for the process that started it, which saves what has been measured.
            start_new_session=True,
        )
        self._limit: float | None = None

    def until(self, moment: float) -> None:
        """Give up, and end the process, if a reply takes longer than until this monotonic time."""
        self._limit = moment

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Facts of the contestant, after waiting until it is built.

        Raises:
          LeftOut: something that it needs is not available.
          UserError: a mistake in the configuration or the data.
          RuntimeError: it could not be built; with the message of the error there.
        """
        found: dict[str, Any] = self._reply()
        return found

    def ask(self, method: str, **arguments: Any) -> Any:
        """Call a method of the contestant, and wait for what it returns; raises as `facts` does."""
        _ = self.facts  # The first reply: it is built.
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([method, arguments]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError("its process ended") from None
        return self._reply()

    def with_threads(self, threads: int) -> Callable[[int], Any]:
        """Return a function that does the work n times with so many threads, and waits for it."""
        _ = self.facts
        return lambda count: self.ask("run", threads=threads, count=count)

    def close(self) -> None:
        """End the process."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        if self._limit is not None:
            left = max(0.0, self._limit - time.monotonic())
            # One line is written for each request, so nothing waits in the reader's buffer.
            if not select.select([self._process.stdout], [], [], left)[0]:
                self.close()
                raise LeftOut("the time was over; give more by --seconds")
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"error": "its process ended"}
        if "ok" in reply:
            return reply["ok"]
        self.close()
        if "mistake" in reply:
            raise UserError(reply["mistake"])
        raise LeftOut(reply["left out"]) if "left out" in reply else RuntimeError(reply["error"])


def best_threads(
    make: Callable[[int], Callable[[int], Any]], counts: tuple[int, ...], seconds: float
) -> tuple[Slice, dict[str, float]]:
    """Return the slice at the better number of threads, and the seconds at each."""
    slices = {count: Slice(make(count), seconds) for count in counts}
    seconds_at = {count: min(work(), work()) for count, work in slices.items()}
    best = min(seconds_at, key=lambda count: seconds_at[count])
    return slices[best], {"used": best, **{f"look at {n}": s for n, s in seconds_at.items()}}


def thread_counts(device: str) -> tuple[int, ...]:
    """Return the numbers of threads to try."""
    from charjax import hardware

    return tuple(dict.fromkeys((1, hardware.cores()))) if device == "cpu" else (1,)


def main() -> None:
    """Build the contestant, reply with its facts, and call a method whenever a line comes."""
    # What libraries print goes to stderr: stdout is for the replies.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(work: Callable[[], Any]) -> None:
        try:
            result = {"ok": work()}
        except LeftOut as reason:
            result = {"left out": str(reason)}
        except UserError as mistake:
            result = {"mistake": str(mistake)}
        except (Exception, SystemExit) as error:
            described = extensions.describe_failure(error)
            result = {"mistake": described} if described else {"error": first_line(error)}
        replies.write(json.dumps(result) + "\n")

    built: list[Any] = []

    def build() -> Any:
        for path, version in json.loads(sys.argv[3]):
            if extensions.name_file(path).version != version:
                raise UserError(f"{path}: changed while it was measured; start again")
        built.append(importlib.import_module(sys.argv[1]).build(**json.loads(sys.argv[2])))
        return built[0].facts

    reply(build)
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            method, arguments = json.loads(line)
            reply(lambda: getattr(built[0], method)(**arguments))  # noqa: B023 - called at once


if __name__ == "__main__":
    main()
