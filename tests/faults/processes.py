"""Runs of charjax as processes that can be observed, signalled and killed.

`python -m` spends seconds on imports, and a fault matrix needs hundreds of processes. So one
process imports what the commands need, starts no backend, and forks: each child then runs a
command from its first line to its exit, in a process of its own, as `python -m` would. A hook may
change something in the child before that: tests/faults/hooks.py.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent.parent
# What the commands would import.
_IMPORTED = (
    *("charjax.evaluate", "charjax.generation.generate", "charjax.interop", "charjax.sample"),
    *("charjax.train", "charjax.run.recorder", "charjax.training.session"),
    *("charjax.initlab.__main__", "charjax.initlab.commands.probe"),
    *("charjax.initlab.commands.report", "matplotlib.backends.backend_agg", "matplotlib.figure"),
    "tests.faults.hooks",
)
# Nothing here takes more than a few seconds on a quiet machine.
_LIMIT = 300.0


@dataclasses.dataclass
class Process:
    """A running or finished command."""

    pid: int
    out_path: Path
    err_path: Path
    _reap: Callable[[int], int | None]
    status: int | None = None

    @property
    def out(self) -> str:
        """The output so far."""
        return self.out_path.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """The errors printed so far."""
        return self.err_path.read_text(encoding="utf-8")

    def alive(self) -> bool:
        """Return True while the process runs."""
        if self.status is None:
            self.status = self._reap(self.pid)
        return self.status is None

    def send(self, number: int) -> bool:
        """Send a signal and return True, if the process still runs."""
        alive = self.alive()
        if alive:
            os.kill(self.pid, number)
        return alive

    def wait(self) -> int:
        """Wait and return the exit status, or minus the number of the signal that ended it."""
        self.until(lambda: not self.alive())
        assert self.status is not None
        return self.status

    def until(self, true: Callable[[], Any], *, every: float = 0.002) -> bool:
        """Wait until a condition holds; return False if the process ends first."""
        limit = time.monotonic() + _LIMIT
        while not true():
            if not self.alive():
                return bool(true())
            if time.monotonic() > limit:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"{self.out}\n{self.err}")
            time.sleep(every)
        return True


class Forks:
    """The process that forks commands; used by one test at a time."""

    def __init__(self, folder: Path):
        self._folder, self._count = folder, 0
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def start(
        self,
        command: str,
        *arguments: object,
        mortal: bool = False,
        uncached: bool = False,
        file_limit: int = 0,
        hook: Sequence[object] = (),
        folder: Path = ROOT,
        leave_early: bool = False,
        terminal: bool = False,
        **environment: str,
    ) -> Process:
        """Start a command.

        Args:
          command: its module in charjax.
          arguments: its arguments.
          mortal: drop root's capabilities, so that file permissions apply.
          uncached: compile everything, without the cache.
          file_limit: the largest size of a file in bytes; 0 for no limit.
          hook: the name of a function in tests/faults/hooks.py and its arguments (JSON values);
            called before the command.
          folder: the working directory.
          leave_early: exit once the output is flushed and `atexit` has run; Python's own cleanup
            takes ten times as long as a refusal.
          terminal: connect each output to a terminal.
          environment: environment variables, set too late for those that JAX reads on import.
        """
        self._count += 1
        out, err = (self._folder / f"{self._count}.{name}" for name in ("out", "err"))
        job = {
            "command": command,
            "arguments": [str(argument) for argument in arguments],
            "environment": environment,
            "mortal": mortal,
            "uncached": uncached,
            "file_limit": file_limit,
            "hook": list(hook),
            "folder": str(folder),
            "leave_early": leave_early,
            "out": str(out),
            "err": str(err),
        }
        for path in (out, err):
            path.touch()
        screens = [Screen(path) for path in (out, err)] if terminal else []
        if screens:
            job |= {"out": screens[0].device, "err": screens[1].device}
        return Process(self._ask(job), out, err, lambda pid: self._reap(pid, screens))

    def run(self, command: str, *arguments: object, **options: Any) -> Process:
        """Start a command and wait for its end."""
        process = self.start(command, *arguments, **options)
        process.wait()
        return process

    def close(self) -> None:
        """End the process that forks."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()

    def _reap(self, pid: int, screens: list["Screen"]) -> int | None:
        status = self._ask({"reap": pid})
        if status is not None:
            for screen in screens:
                screen.close()
        return status

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


class Screen:
    """A terminal whose output is written to a file, byte for byte."""

    def __init__(self, path: Path):
        self._ours, self._theirs = os.openpty()
        mode = termios.tcgetattr(self._theirs)
        mode[1] &= ~termios.OPOST  # no line's end is turned into two characters
        termios.tcsetattr(self._theirs, termios.TCSANOW, mode)
        self.device = os.ttyname(self._theirs)
        self._thread = threading.Thread(target=self._copy, args=(path,))
        self._thread.start()

    def close(self) -> None:
        """Wait for pending output; called after the last process on the terminal has ended."""
        os.close(self._theirs)
        self._thread.join()
        os.close(self._ours)

    def _copy(self, path: Path) -> None:
        with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            # Where nobody has the other side open any more, Linux says EIO.
            while data := os.read(self._ours, 65536):
                file.write(data)


def _serve(requests: IO[str], answers: IO[str]) -> None:
    """Fork and reap on request; a child returns from here by ending its command."""
    for name in _IMPORTED:
        importlib.import_module(name)
    # Nothing that a child looks through to collect its garbage is ever its own: it would copy it.
    gc.collect()
    gc.freeze()
    for line in iter(requests.readline, ""):
        request = json.loads(line)
        if "reap" in request:
            pid, status = os.waitpid(request["reap"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            _become(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _become(job: dict[str, Any]) -> None:
    """Become the command, until the process exits."""
    import jax

    from charjax import cli
    from tests.faults import hooks

    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(job["out"], os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
    err = os.open(job["err"], os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
    for number, file in enumerate((null, out, err)):
        os.dup2(file, number)
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    if job["mortal"] and os.geteuid() == 0:
        _drop_capabilities()
    if limit := job["file_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if job["uncached"]:
        jax.config.update("jax_enable_compilation_cache", False)
    if job["hook"]:
        name, *arguments = job["hook"]
        getattr(hooks, name)(*arguments)
    main = importlib.import_module(f"charjax.{job['command']}").main
    if job["leave_early"]:
        _run_and_leave(main, job["arguments"])
    cli.run(main, job["arguments"])


def _run_and_leave(main: Callable[[list[str]], int | None], arguments: list[str]) -> NoReturn:
    """Run a command, and exit as the interpreter does, without cleanup that is not visible."""
    from charjax import cli

    try:
        cli.run(main, arguments)
    except SystemExit as leave:
        status = int(leave.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _drop_capabilities() -> None:
    """Drop all capabilities by Linux's capset(2), so that permissions bind root too."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    _serve(sys.stdin, sys.stdout)
