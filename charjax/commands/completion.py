"""`charjax completion`: a script with which a shell completes commands, flags and settings.

charjax completion bash|zsh

The script holds every name, so that pressing Tab starts no Python.
"""

import argparse
import contextlib
import importlib
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from charjax import cli
from charjax.errors import UserError

_SHELLS = ("bash", "zsh")


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = cli.Parser(
        prog="charjax completion",
        usage="%(prog)s bash|zsh",
        description="Print a script with which a shell completes commands, flags and settings.\n\n"
        'bash: add  eval "$(charjax completion bash)"  to ~/.bashrc, or write the output to\n'
        "      ~/.local/share/bash-completion/completions/charjax\n"
        "zsh:  write the output to a file _charjax in a folder of $fpath",
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell")
    shell = parser.parse_args(argv).shell
    try:
        import shtab
    except ImportError:
        raise UserError(
            f"completion: {shell} given, but shtab is not installed; pip install "
            '"charjax[completion]"'
        ) from None
    print(shtab.complete(_tree(), shell=shell, preamble=_words_function()))
    if shell == "bash":
        print(_WITHOUT_SPACE)
    return 0


# A setting is followed by its value, without a space.
_WITHOUT_SPACE = """
_charjax() {
  _shtab_charjax "$@"
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
}
complete -o bashdefault -F _charjax charjax"""


def _tree() -> argparse.ArgumentParser:
    """Return one parser with all commands as sub-parsers."""
    from charjax.__main__ import COMMANDS

    root = argparse.ArgumentParser(prog="charjax")
    root.add_argument("--version", action="version", version="")
    commands = root.add_subparsers()
    for name, (module, purpose) in COMMANDS.items():
        _add(commands, name, purpose, importlib.import_module(module).main, [])
    return root


def _add(
    commands: Any, name: str, purpose: str, run: Callable[[list[str]], Any], words: list[str]
) -> None:
    """Add a command, and the commands that it has itself."""
    found = _parser_of(run, words)
    if not (found.usage or "").endswith("..."):
        command = commands.add_parser(name, help=purpose, parents=[found], add_help=False)
        for action in command._actions:
            if (by := _completed_by(action)) is not None:
                action.complete = by
        return
    nested = commands.add_parser(name, help=purpose).add_subparsers()
    for action in found._actions:
        for choice in action.choices or ():
            _add(nested, choice, "", run, [*words, choice])


class _FoundParserError(Exception):
    """The parser of a command, raised in place of parsing."""


def _parser_of(run: Callable[[list[str]], Any], words: list[str]) -> cli.Parser:
    """Return the parser with which a command parses what follows some words."""
    with _stopping_after(len(words)), contextlib.suppress(UserError):
        try:
            run(words)
        except _FoundParserError as found:
            parser: cli.Parser = found.args[0]
            return parser
    raise AssertionError(f"{run.__module__} parses no arguments")


@contextlib.contextmanager
def _stopping_after(count: int) -> Iterator[None]:
    """Let the first `count` parsers parse; the next one is raised."""
    original, calls = cli.Parser.parse_known_args, 0

    def parse(self: cli.Parser, *arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > count:
            raise _FoundParserError(self)
        return original(self, *arguments, **keywords)

    cli.Parser.parse_known_args = parse  # type: ignore[method-assign]
    try:
        yield
    finally:
        cli.Parser.parse_known_args = original  # type: ignore[method-assign]


def _completed_by(action: argparse.Action) -> Any:
    """Return what completes the value of an argument, by the name that its help shows."""
    import shtab

    shown = action.metavar if isinstance(action.metavar, str) else ""
    if "section.key=value" in shown or "CONFIG" in shown:
        return dict.fromkeys(_SHELLS, "_charjax_words")
    if shown.startswith(("DIR", "RUN", "WORKDIR")):
        return shtab.DIRECTORY
    return shtab.FILE if shown.startswith("FILE") else None


def _words_function() -> dict[str, str]:
    """Return a function per shell that completes configurations, settings and files."""
    from charjax.config import describe_fields, shipped_configs

    settings = [f"{row[0]}=" for _, rows in describe_fields() for row in rows]
    words = shlex.quote(" ".join([*shipped_configs(), *dict.fromkeys(settings)]))
    return {
        "bash": f"""_charjax_words() {{
  compgen -W {words} -- "$1"
  compgen -f -- "$1"
}}""",
        "zsh": f"""_charjax_words() {{
  local -a words=(${{(s: :){words}}})
  compadd -S '' -- $words
  _files
}}""",
    }
