"""The command line: what the commands accept, and how a command ends.

JAX is not imported here, so `--help` and a mistyped flag are answered at once.
"""

import argparse
import difflib
import errno
import math
import os
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

from charjax import signals
from charjax.errors import UserError, printable

_COLUMNS = 100


def run(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> NoReturn:
    """Run a command and exit with its status.

    A UserError is one line on stderr and status 2; an error of the operating system (a full disk,
    a file that may not be read) one line and status 1; Ctrl-C is 130. A reader that closes the
    pipe early, as `head` does, ends the command without a word.
    """
    signals.after_imports()
    try:
        status = main(sys.argv[1:] if argv is None else argv) or 0
        sys.stdout.flush()
    except UserError as error:
        complain(str(error))
        status = 2
    except BrokenPipeError:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        complain(printable(str(error)))
        # No file has too long a name: it was given.
        status = 2 if error.errno == errno.ENAMETOOLONG else 1
    except KeyboardInterrupt:
        status = 130
    except (ImportError, SystemError):
        # What native code makes of Ctrl-C while it is loaded.
        if not signals.interrupted():
            raise
        status = 130
    sys.exit(status)


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"error: {message}", file=sys.stderr)


def remark(message: str) -> None:
    """One line on stderr that is no error."""
    print(f"note: {printable(message)}", file=sys.stderr)


def train_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse `charjax.train`'s: config, overrides, workdir, resume, init_from, print_config."""
    parser = Parser(
        prog="python -m charjax.train",
        usage="%(prog)s [CONFIG.toml] [section.key=value ...] [options]",
        description="Train a character-level language model; by default a small one, on Python's "
        "own source.",
        epilog=_describe_config,
        advise=lambda flag: _advise_setting(flag, argv),
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG.toml | section.key=value",
        help="a configuration (a file, or the name of one that is shipped), and settings of it",
    )
    parser.add_argument("--workdir", metavar="DIR", help="where the run goes (a new one in runs/)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --workdir")
    parser.add_argument(
        "--init-from", metavar="RUN", help="start from the parameters of another run (fine-tuning)"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="best|latest|STEP",
        type=_checkpoint,
        help="with --init-from: which of its saved steps (best)",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="check all that comes before the first step, print the resolved configuration, and "
        "stop",
    )
    args = parser.parse_intermixed_args(argv)
    args.config, args.overrides = config_words(args.words)
    del args.words
    return args


def _advise_setting(flag: str, argv: list[str]) -> str | None:
    """The error message for an unknown flag that is a setting, of charjax or of a peer."""
    from charjax.config_errors import unknown_flag

    name, equals, value = flag.partition("=")
    following = argv[argv.index(flag) + 1 :][:1] if flag in argv and not equals else []
    # A number may be negative.
    given = [word for word in following if not word.startswith("-") or word[1:2].isdigit()]
    return unknown_flag(name, value if equals else next(iter(given), None))


def config_words(words: list[str]) -> tuple[str | None, list[str]]:
    """The configuration, if any, and the settings."""
    # Not Path.is_file, which raises where a name is too long for a file.
    overrides = [word for word in words if "=" in word and not os.path.isfile(word)]
    files = [word for word in words if word not in overrides]
    if len(files) > 1:
        raise UserError(
            f"{files[0]!r} and {files[1]!r} given; one configuration at most, and settings as "
            "section.key=value"
        )
    return files[0] if files else None, overrides


def sample_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse `charjax.sample`'s; `checkpoint` is "best", "latest" or a step's digits."""
    parser = Parser(
        prog="python -m charjax.sample",
        usage="%(prog)s WORKDIR [options]",
        description="Let a trained model write.",
    )
    _add_run(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="STR", default="", help="the text to go on from")
    prompt.add_argument("--prompt-file", metavar="FILE", help="the same, from a file")
    count = whole_number(1)
    parser.add_argument("--num-samples", metavar="N", type=count, default=1, help="how many (1)")
    parser.add_argument(
        "--max-new-tokens", metavar="N", type=count, default=500, help="length of each (500)"
    )
    parser.add_argument(
        "--temperature",
        metavar="F",
        type=number_above_zero(math.inf, "; for the likeliest character every time use --greedy"),
        default=1.0,
        help="below 1 safer, above 1 wilder (1.0)",
    )
    parser.add_argument("--top-k", metavar="N", type=count, help="only the N likeliest characters")
    parser.add_argument(
        "--top-p",
        metavar="F",
        type=number_above_zero(1.0),
        help="only the likeliest characters that make up this probability",
    )
    parser.add_argument("--greedy", action="store_true", help="always the likeliest character")
    parser.add_argument(
        "--past-context",
        metavar="jump|slide",
        choices=("jump", "slide"),
        default="jump",
        help="transformer and bow, when the text is longer than the context: jump keeps the newest "
        "half of it and reads on from there, with the cache (fast); slide draws every character "
        "from the newest context_length ones, as nanoGPT does (a whole pass each) (jump)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=whole_number(0, 2**32 - 1), default=0, help="of the draws (0)"
    )
    return parser.parse_args(argv)


def evaluate_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse `charjax.evaluate`'s; `text`, `context` and `stride` are None unless given."""
    parser = Parser(
        prog="python -m charjax.evaluate",
        usage="%(prog)s WORKDIR [data.path=FILE] [options]",
        description="Measure the exact loss of a trained model on a text.",
    )
    _add_run(parser)
    text = parser.add_mutually_exclusive_group()
    text.add_argument(
        "--split", choices=("train", "val", "test"), default="val", help="of the run's text (val)"
    )
    text.add_argument("--text", metavar="FILE", help="another text, read as the run's own was")
    parser.add_argument(
        "--unseen",
        choices=("error", "skip"),
        default="error",
        help="characters of --text that the run does not know: refused (error), or left out, "
        "counted and reported (skip)",
    )
    parser.add_argument(
        "--context", metavar="N", type=whole_number(1), help="characters a window (the model's)"
    )
    parser.add_argument(
        "--stride", metavar="N", type=whole_number(1), help="between windows (their length)"
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="data.path=FILE",
        help="where the run's own text is now, if it was moved (known by its SHA-256)",
    )
    args = parser.parse_intermixed_args(argv)
    args.data_path = _moved_text(args.words)
    del args.words
    return args


def _moved_text(words: list[str]) -> str | None:
    """The file that a `data.path=FILE` word names; None where there is none."""
    path = None
    for word in words:
        name, _, path = word.partition("=")
        if name != "data.path" or not path:
            raise UserError(
                f"{word!r} given after the run; only data.path=FILE may stand there, with the file "
                "that the run was trained on: another one is given by --text"
            )
    return path


def reproduce_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse `charjax.reproduce`'s; `tier`, `seeds` and `out` are None unless given."""
    parser = Parser(
        prog="python -m charjax.reproduce",
        usage="%(prog)s [options]",
        description="Measure what is published, and say whether it was reproduced. The exit "
        "status is 1 if a row is out of its tolerance.",
    )
    parser.add_argument(
        "--tier",
        choices=("cpu", "gpu"),
        help="cpu: what two cores finish in 40 minutes; gpu: what needs one (what there is)",
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help="this row, of any tier; several times for several; patterns as in 'names-mlp-*'",
    )
    parser.add_argument(
        "--seeds", metavar="N", type=whole_number(1, 10_000), help="runs a row (each row's own)"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where results.json goes (a new directory in runs/)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows that --out already has, run the rest"
    )
    parser.add_argument("--list", action="store_true", help="print the rows' names, and stop")
    return parser.parse_args(argv)


def interop_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse `charjax.interop`'s: `action` is "import" or "export", the rest as that needs it."""
    parser = Parser(
        prog="python -m charjax.interop",
        usage="%(prog)s import|export ...",
        description="Parameters to and from PyTorch's state dicts, as safetensors: the GPT of "
        "nanoGPT, minGPT and\nmakemore, torch.nn.RNN, GRU and LSTM (emb, rnn or gru, fc), "
        "makemore's MLP and Bigram.\nSee `import --help`, `export --help`.",
    )
    parser.add_argument("action", choices=("import", "export"), help="which way")
    action = parser.parse_args(argv[:1]).action
    args = (_import_arguments if action == "import" else _export_arguments)(argv[1:])
    args.action = action
    return args


def _import_arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m charjax.interop import",
        usage="%(prog)s FILE.safetensors [CONFIG.toml] [section.key=value ...] --workdir DIR",
        description="Make a run of a state dict: what the shapes tell is taken from them, the rest "
        "from the\nfile's header, if charjax wrote it, or from the configuration.",
    )
    parser.add_argument("file", metavar="FILE.safetensors", help="the state dict")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG.toml | section.key=value",
        help="settings that no tensor shows: the text (data.name=...); of a GPT model.n_head=... "
        "and model.activation=gelu or gelu_tanh; of a torch.nn.RNN model.activation=tanh or relu",
    )
    parser.add_argument("--workdir", metavar="DIR", required=True, help="where the run goes")
    args = parser.parse_intermixed_args(argv)
    args.config, args.overrides = config_words(args.words)
    del args.words
    return args


def _export_arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m charjax.interop export",
        usage="%(prog)s WORKDIR FILE.safetensors [options]",
        description="Write a run's parameters under the names that PyTorch's original has.",
    )
    _add_checkpoint(parser)
    parser.add_argument("file", metavar="FILE.safetensors", help="the file to write")
    parser.add_argument(
        "--module",
        metavar="NAME",
        choices=("rnn", "gru", "lstm"),
        help="what the recurrent module is called (gru of a GRU, else rnn)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    return parser.parse_args(argv)


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_checkpoint(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workdir", metavar="WORKDIR", help="the run's directory")
    parser.add_argument(
        "--checkpoint",
        metavar="best|latest|STEP",
        type=_checkpoint,
        default="best",
        help="which of the saved steps (best)",
    )


def without_out(argv: list[str]) -> list[str]:
    """The command line without what only says where and how it went."""
    kept, words = [], iter(argv)
    for word in words:
        if word == "--out":
            next(words, None)
        elif word != "--resume" and not word.startswith("--out="):
            kept.append(word)
    return kept


def _checkpoint(text: str) -> str:
    if text in ("best", "latest") or (text.isascii() and text.isdecimal()):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} given; must be best, latest or a step's number")


def whole_number(low: int, high: int = 2**31 - 2) -> Callable[[str], int]:
    """An argument's type: a whole number from `low` to `high`."""

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


def number_above_zero(high: float, instead_of_zero: str = "") -> Callable[[str], float]:
    """An argument's type: a number greater than 0 and at most `high`.

    Args:
      high: the highest number.
      instead_of_zero: ends the message for 0: what to do instead.
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


class Parser(argparse.ArgumentParser):
    """Mistakes are UserErrors, so one line; the epilog is written only for --help.

    `advise` returns the error message for an unknown flag that it knows more about.
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
            prog=prog,
            usage=usage,
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, max_help_position=32, width=_COLUMNS
            ),
        )
        self._write_epilog = epilog
        self._advise = advise

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse does, but a value that is "--" is one (before Python 3.13 it is lost)."""
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
        """The help, with the epilog."""
        if self._write_epilog is not None:
            self.epilog = self._write_epilog()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, with the nearest flag if one was mistyped."""
        text = message.removeprefix("argument ")
        unknown = text.removeprefix("unrecognized arguments: ").split(" ")[0]
        if text.startswith("unrecognized") and (advice := self._advise(unknown)):
            raise UserError(advice)
        if text.startswith("unrecognized") and "." in unknown:
            text += "; settings have no dashes: section.key=value"
        elif text.startswith("unrecognized"):
            flags = [flag for action in self._actions for flag in action.option_strings]
            close = difflib.get_close_matches(unknown.partition("=")[0], flags, n=1)
            text += f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"{text}; see {self.prog} --help")


def _describe_config() -> str:
    """Every setting with its type, default and meaning, as a table."""
    from charjax.config import describe_fields, shipped_configs

    known = f"configurations: {', '.join(shipped_configs()) or 'none'}"
    lines = textwrap.wrap(known, _COLUMNS, subsequent_indent="  ")
    groups = list(describe_fields())
    widths = [max(len(row[column]) for _, rows in groups for row in rows) for column in range(3)]
    for heading, rows in groups:
        lines += ["", *textwrap.wrap(heading, _COLUMNS)]
        for name, kind, default, meaning in rows:
            start = f"  {name:{widths[0]}}  {kind:{widths[1]}}  {default:{widths[2]}}  "
            indent = " " * len(start)
            lines += textwrap.wrap(
                meaning, _COLUMNS, initial_indent=start, subsequent_indent=indent
            )
    return "\n".join(lines)
