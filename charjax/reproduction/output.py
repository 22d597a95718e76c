"""What the commands that reproduce figures share: their directory, their console, their bar."""

import datetime
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charjax import cli
from charjax.errors import UserError, visible

if TYPE_CHECKING:
    from rich.console import Console

    from charjax.progress import ProgressBar
    from charjax.signals import Interrupted

# Where the output is no terminal, wide enough for a table whose cells are not folded.
_PLAIN_COLUMNS = 160


def results_directory(out: str | None, resume: bool, kind: str) -> Path:
    """The directory of the results, made if need be.

    Args:
      out: what --out gave; None: a new directory in runs/.
      resume: whether --resume was given.
      kind: begins the name of a new directory.

    Raises:
      UserError: it holds results and is not to be resumed, or it cannot be made.
    """
    from charjax.files import make_directory

    if resume and out is None:
        raise UserError("--resume: no --out given; name the directory of the results to go on with")
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
    make_directory(directory, "--out")
    return directory


def read_results(path: Path, version: int, key: str) -> dict[str, dict[str, Any]]:
    """The entries under `key` of a results.json, by name.

    Raises:
      UserError: the file is not one of this version.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["format"] != version:
            raise ValueError(f"format {tree['format']}")
        return {entry["name"]: entry for entry in tree[key]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--out: {str(path)!r} cannot be read as results ({type(error).__name__}); move it "
            "away, or give another directory"
        ) from None


def make_console() -> "Console":
    """The console of the results."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PLAIN_COLUMNS)


def say(console: "Console", text: str) -> None:
    """Print a line as it stands, control characters made visible."""
    console.print(visible(text), emoji=False, highlight=False, soft_wrap=True, markup=False)


def progress_bar(console: "Console", description: str, unit: str) -> "ProgressBar":
    """Return a bar with the time left; its total is set by the first update."""
    from rich.progress import TimeRemainingColumn

    from charjax.progress import ProgressBar

    columns = ("{task.completed}/{task.total} " + unit, TimeRemainingColumn())
    return ProgressBar(console, description, *columns, total=None)


def say_how_to_go_on(
    stop: "Interrupted", command: str, argv: Sequence[str], kept: str, out: Path, out_given: bool
) -> None:
    """Tell on stderr that a signal stopped the command, and what goes on with it."""
    again = shlex.join([word for word in argv if word != "--resume"])
    out_too = "" if out_given else f" --out {shlex.quote(str(out))}"
    cli.complain(
        f"stopped by {stop}; finished {kept} are kept: go on with python -m {command} "
        f"{again}{out_too} --resume".replace("  ", " ")
    )
