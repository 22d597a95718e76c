"""Shell blocks of the pages: their commands, parsed by the real parsers or run with few steps."""

import argparse
import importlib
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from charjax.__main__ import COMMANDS
from charjax.config import FAMILIES, load_config
from tests import commands

ROOT = Path(__file__).resolve().parent.parent
# Files that the pages call the reader's own.
TEXT = "The quick brown fox jumps over the lazy dog. " * 40
FILES = {
    "my.txt": TEXT,
    "mytext.txt": TEXT,
    "list.txt": "emma\nolivia\nava\nisabella\nsophia\nmia\n" * 20,
    "my.toml": '[data]\nname = "stdlib"\n',
}
# Appended, or in place of the page's: the same command, finished in a moment.
SMALL = {"charjax.sample": ["--max-new-tokens", "5"]}
STEPS = ["train.steps=2", "train.batch_size=2"]
RANDOM = ["eval.protocol=random", "eval.batches=1"]
# Other programs that pages call, but do not run.
OTHERS = ("export", "tensorboard")
# Parsers of a command's name alone.
DISPATCHERS = ("charjax", "python -m charjax.initlab")


class Command(NamedTuple):
    """A command of charjax: its module, and the arguments."""

    module: str
    arguments: list[str]


def lines(block: str) -> Iterator[list[str]]:
    """Yield the words of each command; of a session with prompts, those after `$ `."""
    found = block.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in found):
        found = [line.removeprefix("$ ") for line in found if line.startswith("$ ")]
    for line in found:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in (";", "&&"):
                words.append(word)
            elif words:
                # Without the file that the output goes to.
                yield words[: words.index(">")] if ">" in words else words
                words = []


def is_synopsis(block: str) -> bool:
    """Return true for the usage of commands, with [brackets] around what may be left out."""
    return bool(re.search(r"(?:^|\s)\[", block))


def charjax_command(words: list[str]) -> Command | None:
    """Return a command of charjax, or None for other programs."""
    if words[0] == "charjax":
        if words[1] not in COMMANDS:
            raise ValueError(f"charjax has no command {words[1]!r}")
        module, arguments = COMMANDS[words[1]][0], words[2:]
    elif words[:2] == ["python", "-m"] and words[2].startswith("charjax."):
        module, arguments = words[2], words[3:]
    else:
        return None
    if module in ("charjax.initlab", "charjax.initlab.__main__"):
        module, arguments = f"charjax.initlab.commands.{arguments[0]}", arguments[1:]
    return Command(module, arguments)


def check(words: list[str]) -> None:
    """Check a command without running it.

    Raises:
      AssertionError, UserError, ValueError: it is not one, or its arguments are not accepted.
    """
    if command := charjax_command(words):
        parse(command)
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        named = [word for word in words[1:] if "=" not in word]
        assert set(named) <= set(targets), words
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None, words
    elif words[:2] == ["pip", "install"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extras in re.findall(r"\[(.*?)\]", " ".join(words)):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), words
    else:
        assert words[0] in OTHERS, f"{words[0]!r} is not a command that the tests know"


def parse(command: Command) -> None:
    """Parse the arguments as the command does, and resolve the configuration that they name."""

    class ParsedError(Exception):
        pass

    def parser(original):
        def parse(self, args=None, namespace=None):
            found = original(self, args, namespace)
            if self.prog not in DISPATCHERS:
                raise ParsedError(found)
            return found

        return parse

    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            original = getattr(argparse.ArgumentParser, name)
            patch.setattr(argparse.ArgumentParser, name, parser(original))
        try:
            importlib.import_module(command.module).main(command.arguments)
        except ParsedError as parsed:
            found = parsed.args[0]
        else:
            raise AssertionError(f"{command} parses no arguments")
    words = getattr(found, "words", None)
    if words and command.module != "charjax.evaluate":
        from charjax.cli import config_words

        load_config(*config_words(words, lambda note: None))


def run(command: Command) -> commands.Result:
    """Run a command with few steps, in the current folder."""
    arguments = list(command.arguments)
    if flag := SMALL.get(command.module):
        if flag[0] in arguments:
            place = arguments.index(flag[0])
            del arguments[place : place + len(flag)]
        arguments += flag
    if command.module == "charjax.train":
        arguments = small_training(command.arguments)
    return commands.run(command.module.removeprefix("charjax."), *arguments)


def small_training(arguments: list[str]) -> list[str]:
    """Return the arguments of a training run that takes two steps of a tiny model."""
    from charjax.train import train_arguments

    args = train_arguments(arguments, lambda note: None)
    if args.resume:
        return arguments
    config = load_config(args.config, args.overrides)
    if FAMILIES[config.model.kind].fitted:
        return arguments
    small = [*STEPS, *commands.TINY[config.model.kind]]
    if config.data.layout != "pairs":
        # Batch norm is of pairs alone.
        small = [word for word in small if word != "model.norm=batch"]
    if config.data.val_fraction:
        small += RANDOM
    names = {word.partition("=")[0] for word in small}
    return [*(word for word in arguments if word.partition("=")[0] not in names), *small]


def flags_of(module: str, *names: str) -> set[str]:
    """Return the flags in the --help of a command."""
    done = commands.run(module.removeprefix("charjax."), *names, "--help")
    assert done.status == 0, done.err
    return set(re.findall(r"--[a-z][a-z-]+", done.out))


def synopses(block: str) -> Iterator[tuple[list[str], set[str]]]:
    """Yield the words and the flags of each command of a synopsis; indented lines continue."""
    joined = re.sub(r"\n\s+", " ", block)
    for line in joined.splitlines():
        line = line.partition("#")[0]
        yield line.split(), set(re.findall(r"--[a-z][a-z-]+", line))
