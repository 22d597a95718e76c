"""The run of a command that reproduces figures: its directory, its results.json, its console."""

import dataclasses
import datetime
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charjax import cli
from charjax.errors import UserError, visible

if TYPE_CHECKING:
    from argparse import Namespace

    from rich.console import Console

    from charjax.reproduction.checks import Poll, Progress
    from charjax.signals import Interrupted, Signals

Result = dict[str, Any]
# By name, in the order in which they were measured.
Results = dict[str, Result]

_FORMAT = 1
# Wide enough for a table whose cells are not folded, where the output is no terminal.
_PLAIN_COLUMNS = 160


@dataclasses.dataclass(frozen=True)
class Job:
    """One entry of results.json.

    Attributes:
      name: the entry's name.
      unit: what progress counts, in the plural.
      is_current: whether a stored result need not be measured again.
      measure: measures it; called with the directory of the results, reports progress and polls for
        a signal.
      describe: the line that is printed when it is done.
    """

    name: str
    unit: str
    is_current: Callable[[Result], bool]
    measure: Callable[[Path, "Progress", "Poll"], Result]
    describe: Callable[[Result], str]


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that reproduces figures.

    Attributes:
      program: after `python -m`.
      kind: beginning of the name of a new directory in runs/.
      key: of the entries in results.json, and their name in messages.
      start: called with the directory, the stored results and the console, before the first job.
      save: writes the directory's files after each job, whose result is the last argument.
      finish: prints the results, writes what is still missing, and returns the names that failed.
      also_saved: what else than finished entries a stop keeps, for its message.
    """

    program: str
    kind: str
    key: str
    start: Callable[[Path, Results, "Console"], None]
    save: Callable[[Path, Results, Result], None]
    finish: Callable[[Path, Results, "Console"], list[str]]
    also_saved: str = ""


def run(
    command: Command, args: "Namespace", argv: list[str], jobs: Sequence[Job], signals: "Signals"
) -> int:
    """Measure the jobs that have no current result, one by one; return the exit status.

    Everything is saved after each job, so that a run that is stopped keeps what it finished.

    Args:
      command: what is run.
      args: with `out` and `resume`.
      argv: the command line, for the message that says how to go on.
      jobs: what to measure, in order.
      signals: polled while a job runs.

    Raises:
      UserError: the directory or the results in it cannot be used.
    """
    from charjax.run.lock import Lock
    from charjax.signals import Interrupted

    out = results_directory(args.out, args.resume, command.kind)
    lock = Lock(out)
    lock.acquire()
    try:
        path, console = out / "results.json", make_console()
        results = read_results(path, command.key) if path.exists() else {}
        say(console, f"results: {out}")
        command.start(out, results, console)
        for number, job in enumerate(jobs, start=1):
            if job.name in results and job.is_current(results[job.name]):
                continue
            place = f"{number}/{len(jobs)} {job.name}"
            results[job.name] = _measure(job, out, place, console, signals.poll)
            say(console, f"{place}: {job.describe(results[job.name])}")
            command.save(out, results, results[job.name])
        failed = command.finish(out, results, console)
    except Interrupted as stop:
        _say_how_to_resume(command, stop, argv, None if args.out is not None else out)
        return stop.status
    finally:
        lock.release()
    if failed:
        cli.complain(f"out of tolerance: {', '.join(failed)}")
    say(console, f"results: {out}")
    return 1 if failed else 0


def _measure(job: Job, out: Path, place: str, console: "Console", poll: "Poll") -> Result:
    """Measure a job under a bar with the time left, whose total is set by the first update."""
    from rich.progress import TimeRemainingColumn

    from charjax.progress import ProgressBar

    columns = (f"{{task.completed}}/{{task.total}} {job.unit}", TimeRemainingColumn())
    with ProgressBar(console, place, *columns, total=None) as bar:
        return job.measure(out, lambda done, total: bar.update(completed=done, total=total), poll)


def results_directory(out: str | None, resume: bool, kind: str) -> Path:
    """Return the directory of the results, made if it does not exist.

    Args:
      out: value of --out; None: a new directory in runs/.
      resume: whether --resume was given.
      kind: begins the name of a new directory.

    Raises:
      UserError: it holds results and is not to be resumed, it holds something else and is to be
        resumed, or it cannot be made.
    """
    from charjax.files import make_directory

    check_resume(out, resume)
    if out is None:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        directory = Path("runs") / f"{kind}-{stamp}"
    else:
        directory = Path(out)
    if (directory / "results.json").exists() and not resume:
        raise UserError(
            f"--out: {out!r} already holds results; go on with them by --resume, or give "
            "another directory"
        )
    # A run that was stopped before its first result leaves its lock alone.
    is_new = not directory.is_dir() or {path.name for path in directory.iterdir()} <= {".lock"}
    if resume and not (is_new or (directory / "results.json").exists()):
        raise UserError(
            f"--resume: {out!r} holds no results; give the directory that the stopped command "
            "printed, or leave --resume out"
        )
    make_directory(directory, "--out")
    return directory


def check_resume(out: str | None, resume: bool) -> None:
    """Raise a UserError if there is nothing that --resume could resume."""
    if resume and out is None:
        raise UserError("--resume: no --out given; name the directory of the results to go on with")


def write_results(path: Path, command: str, content: dict[str, Any]) -> None:
    """Replace results.json in one move by the command that made it, and its content."""
    from charjax.files import write_json

    write_json(path, {"format": _FORMAT, "command": command, **content})


def read_results(path: Path, key: str) -> Results:
    """Return the entries under `key` of a results.json, by name.

    Raises:
      UserError: the file is not one of this format.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["format"] != _FORMAT:
            raise ValueError(f"format {tree['format']}")
        return {entry["name"]: entry for entry in tree[key]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--out: {str(path)!r} cannot be read as results ({type(error).__name__}); move it "
            "away, or give another directory"
        ) from None


def is_from_here(result: Result) -> bool:
    """Return whether a result was measured on this machine, with these versions."""
    from charjax.hardware import machine_facts

    here = machine_facts() | {"date": result["hardware"]["date"]}
    return bool(result["hardware"] == here)


def make_console() -> "Console":
    """Return the console of the results."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PLAIN_COLUMNS)


def say(console: "Console", text: str) -> None:
    """Print a line as it stands, control characters made visible."""
    console.print(visible(text), emoji=False, highlight=False, soft_wrap=True, markup=False)


def _say_how_to_resume(
    command: Command, stop: "Interrupted", argv: Sequence[str], new_directory: Path | None
) -> None:
    """Report on stderr that a signal stopped the command, and the command that resumes it."""
    again = shlex.join([word for word in argv if word != "--resume"])
    out = "" if new_directory is None else f" --out {shlex.quote(str(new_directory))}"
    cli.complain(
        f"stopped by {stop}; finished {command.key}{command.also_saved} are kept: go on with "
        f"python -m {command.program} {again}{out} --resume".replace("  ", " ")
    )
