"""The parts that all commands share: parsing of arguments, messages, exit statuses.

JAX is not imported here, so `--help` and a mistyped flag are answered at once.
"""

import argparse
import contextlib
import errno
import gc
import math
import os
import re
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from charjax import extensions, signals
from charjax.errors import UserError, did_you_mean, one_line, printable
from charjax.extensions.sources import accept_changes

COLUMNS = 100

# Called with the status and the reason before a command ends with an error: see `announce_end`.
_announcements: list[Callable[[int, str], None]] = []


def run(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> NoReturn:
    """Run a command and exit with its status.

    A UserError is one line on stderr and status 2; an error of the operating system (a full disk,
    a file that may not be read) one line and status 1; Ctrl-C is 130. If stdout is a pipe whose
    reader has closed it, as `head` does, the command ends silently with 141.
    """
    signals.after_imports()
    message = ""
    try:
        status = _guarded(main, sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except UserError as error:
        status, message = 2, str(error)
    except BrokenPipeError:
        # Python flushes stdout once more at exit, and would report the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        message = printable(str(error))
        # A name too long for a file can only be one that the user gave.
        status = 2 if error.errno == errno.ENAMETOOLONG else 1
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        # Native modules replace a KeyboardInterrupt by these while they are imported.
        is_import = isinstance(error, ImportError | SystemError)
        if not (is_import and signals.interrupted()) and not _announcements:
            raise
        status, message = 130, ""
        if not (is_import and signals.interrupted()):
            traceback.print_exc()
            status, message = 1, one_line(error)
    _end(status, message or f"it ended with status {status}", message)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Leave the garbage collector out while modules are imported: none of them is garbage.

    It takes a tenth of the time of importing JAX, flax and optax.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def announce_end(announce: Callable[[int, str], None] | None) -> None:
    """Call a function when this command ends by an exception, and end at once after that.

    Other processes of the same run learn of it so. None of what Python does at its end is waited
    for then: a device may wait for a device of a process that is gone.

    Args:
      announce: called with the exit status and the reason, in one line; None: none, from now on.
    """
    _announcements[:] = [announce] if announce else []


def _end(status: int, reason: str, message: str) -> NoReturn:
    """Exit with a status, after a message, if there is one."""
    for announce in _announcements:
        announce(status, reason)
    if message:
        complain(message)
    if _announcements:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _guarded(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Run a command; an error out of a file of the user's own becomes a UserError with its line."""
    with extensions.separate_names():
        try:
            return main(argv) or 0
        except UserError as error:
            placed = extensions.with_place(str(error))
            if placed == str(error):
                raise
            raise UserError(placed) from error
        except (Exception, SystemExit) as error:  # sys.exit() in a file of the user's
            if message := extensions.describe_failure(error):
                raise UserError(message) from error
            raise


def complain(message: str) -> None:
    """Print an error as one line on stderr."""
    print(f"error: {message}", file=sys.stderr)


def remark(message: str) -> None:
    """Print a note as one line on stderr."""
    print(f"note: {printable(message)}", file=sys.stderr)


def config_words(
    words: list[str], note: Callable[[str], None] = remark
) -> tuple[str | None, list[str]]:
    """Split words into the configuration, if any, and the settings.

    A text file where a configuration is expected becomes the setting data.path, with a note.

    Args:
      words: of the command line.
      note: called with the line about the text file.

    Raises:
      UserError: more than one configuration, or more than one text.
    """
    # Path.is_file would raise if a name is too long for a file.
    overrides = [word for word in words if "=" in word and not os.path.isfile(word)]
    files = [word for word in words if word not in overrides]
    name_words(overrides)
    texts = [file for file in files if _is_text(file)]
    if texts:
        path = next((word for word in overrides if word.startswith("data.path=")), None)
        others = [*texts[1:], *([path] if path else [])]
        if others:
            raise UserError(
                f"{texts[0]!r} and {others[0]!r} given; a run has one text: leave one out, or give "
                'a list: data.path=["a.txt", "b.txt"]'
            )
        note(f"{texts[0]} is no configuration and is read as the text: data.path={texts[0]}")
        overrides = [f"data.path={texts[0]}", *overrides]
        files = [file for file in files if file not in texts]
    if len(files) > 1:
        raise UserError(
            f"{files[0]!r} and {files[1]!r} given; one configuration at most, and settings as "
            "section.key=value"
        )
    return files[0] if files else None, overrides


def name_words(overrides: list[str]) -> None:
    """Read the files of the user's own code that overrides name: only those are ever executed.

    Raises:
      UserError: there is no such file.
    """
    for word in overrides:
        field, _, value = word.partition("=")
        if field.strip() in extensions.FIELDS:
            extensions.name_word(field.strip(), value.strip().strip("\"'"))


def add_code(parser: argparse.ArgumentParser, *, resumes: bool = True) -> None:
    """Add --code, and --accept-changed-code for a command that reads what was trained with it."""
    parser.add_argument(
        "--code",
        metavar="FILE.py",
        action="append",
        type=_named_file,
        default=argparse.SUPPRESS,
        help="a file of your own code that the configuration or the run names; no file is executed "
        "that is not named here or in a setting on the command line",
    )
    if resumes:
        parser.add_argument(
            "--accept-changed-code",
            action=_AcceptChanges,
            nargs=0,
            default=argparse.SUPPRESS,
            help="use it although it has changed since the run was begun",
        )


def _named_file(path: str) -> str:
    extensions.name_file(path)
    return path


class _AcceptChanges(argparse.Action):
    def __call__(self, *_: Any) -> None:
        accept_changes()


def _is_text(file: str) -> bool:
    """Return true for a file that is neither TOML nor a program of a peer's."""
    if file.endswith((".toml", ".py", ".ipynb")) or not os.path.isfile(file):
        return False
    try:
        if os.path.getsize(file) > _LARGEST_CONFIG:
            return True
        with open(file, encoding="utf-8-sig") as opened:
            return not tomllib.loads(opened.read())
    except (OSError, ValueError, RecursionError):
        return True


_LARGEST_CONFIG = 1_000_000


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add WORKDIR, --checkpoint, --weights, --json and --code: of a command that reads a run."""
    add_checkpoint(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add WORKDIR, --checkpoint and --weights."""
    parser.add_argument("workdir", metavar="WORKDIR", help="the run's directory")
    parser.add_argument(
        "--checkpoint",
        metavar="best|latest|STEP",
        type=checkpoint_step,
        default="best",
        help="which of the saved steps (best)",
    )
    parser.add_argument(
        "--weights",
        choices=("averaged", "trained"),
        help="of a run that averages its parameters (optim.ema, schedule_free_adamw): the average, "
        "which is the default, or the parameters as they were trained",
    )
    add_code(parser)


def without_out(argv: list[str]) -> list[str]:
    """Return the arguments without --out and --resume, which do not change the results."""
    others, words = [], iter(argv)
    for word in words:
        if word == "--out":
            next(words, None)
        elif word != "--resume" and not word.startswith("--out="):
            others.append(word)
    return others


def checkpoint_step(text: str) -> str:
    """Parse the value of --checkpoint: best, latest or the digits of a step."""
    if text in ("best", "latest") or (text.isascii() and text.isdecimal()):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} given; must be best, latest or a step's number")


def whole_number(low: int, high: int = 2**31 - 2) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r} given; must be a whole number from {low} to {high}"
            )
        return value

    return parse


def whole_numbers(low: int) -> Callable[[str], tuple[int, ...]]:
    """Return an argparse type: whole numbers `a,b,c` of at least `low`, each once."""

    def parse(text: str) -> tuple[int, ...]:
        parts = [part.strip() for part in text.split(",")]
        # Nobody takes so many steps; longer texts are not numbers.
        is_number = all(part.isascii() and part.isdigit() and len(part) <= 12 for part in parts)
        if not is_number or min(map(int, parts)) < low:
            raise argparse.ArgumentTypeError(
                f"{text!r} given; must be whole numbers of at least {low}, as in 0,1,2"
            )
        return tuple(dict.fromkeys(map(int, parts)))

    return parse


def number_above_zero(high: float, instead_of_zero: str = "") -> Callable[[str], float]:
    """Return a parser of numbers greater than 0 and at most `high`.

    Args:
      high: the highest number.
      instead_of_zero: appended to the message for 0: what to do instead.
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0.0 < value <= high or math.isinf(value):
            at_most = "" if math.isinf(high) else f" and at most {high:g}"
            instead = instead_of_zero if value == 0 else ""
            raise argparse.ArgumentTypeError(
                f"{text!r} given; must be a number greater than 0{at_most}{instead}"
            )
        return value

    return parse


def called_as(command: str) -> str:
    """Return "charjax COMMAND ..." as it was called: also `python -m charjax.COMMAND ...`."""
    package, _, rest = command.partition(" ")
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name if spec is not None else ""
    if package != "charjax" or module.partition(".")[0] != "charjax":
        return command
    module = module.removesuffix(".__main__")
    # A module is the first word of the command, and `charjax` is none.
    words = rest if module == "charjax" else rest.partition(" ")[2]
    return f"python -m {module} {words}".rstrip()


def _once(base: type[argparse.Action]) -> type[argparse.Action]:
    """Return an argparse action whose option is refused when it is given a second time."""

    class Once(base):  # type: ignore[misc,valid-type]
        def __call__(self, parser: Any, *rest: Any, **named: Any) -> None:
            flag = self.option_strings[0] if self.option_strings else ""
            if flag and flag in parser.given:
                raise argparse.ArgumentError(self, "given twice; give it once")
            parser.given.add(flag)
            super().__call__(parser, *rest, **named)

    return Once


_PLAIN = argparse.ArgumentParser()
_ONCE = {
    name: _once(type(_PLAIN.add_argument(f"--{name}", action=name)))
    for name in ("store", "store_true", "store_false")
}


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are UserErrors.

    `prog` is "charjax COMMAND", and shown as the command was called. `epilog` is called only for
    --help. `advise` returns the error message for an unknown flag, or
    None for the usual one.
    """

    def __init__(
        self,
        *,
        prog: str,
        usage: str,
        description: str,
        epilog: Callable[[], str] | None = None,
        advise: Callable[[str], str | None] = lambda flag: None,
    ):
        super().__init__(
            prog=called_as(prog),
            usage=usage,
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, max_help_position=32, width=COLUMNS
            ),
        )
        self._write_epilog = epilog
        self._advise = advise
        self.given: set[str] = set()
        for name, action in _ONCE.items():
            self.register("action", name, action)
        self.register("action", None, _ONCE["store"])

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse as argparse does, but accept "--" as a value (Python before 3.13 drops it).

        An option is given once, unless it is repeatable (action="append").
        """
        self.given.clear()
        found, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            lost = action.option_strings and action.nargs is None and action.default != []
            if lost and getattr(found, action.dest, None) == []:
                flag = action.option_strings[0]
                if action.choices:
                    self.error(f"argument {flag}: invalid choice: '--'")
                try:
                    setattr(
                        found, action.dest, action.type("--") if callable(action.type) else "--"
                    )
                except argparse.ArgumentTypeError as error:
                    self.error(f"argument {flag}: {error}")
        return found, rest

    def format_help(self) -> str:
        """Format the help, with the epilog."""
        if self._write_epilog is not None:
            self.epilog = self._write_epilog()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raise a UserError, with the closest flag if one was mistyped."""
        text = message.removeprefix("argument ")
        unknown = text.removeprefix("unrecognized arguments: ").split(" ")[0]
        if text.startswith("unrecognized") and (advice := self._advise(unknown)):
            raise UserError(advice)
        if text.startswith("unrecognized") and "." in unknown:
            text += "; settings have no dashes: section.key=value"
        elif text.startswith("unrecognized"):
            flags = [flag for action in self._actions for flag in action.option_strings]
            text += did_you_mean(unknown.partition("=")[0], flags)
        elif choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", text):
            text += did_you_mean(choice[1], re.findall(r"[^', ]+", choice[2]))
        raise UserError(f"{text}; see {self.prog} --help")
