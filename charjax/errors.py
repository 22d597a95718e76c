"""The exception that stands for a mistake of the user's, and the text of its message."""

import difflib
from collections.abc import Iterable
from typing import Any

# Longer ones are cut: the comparison takes time quadratic in the length.
_LONGEST_COMPARED = 60


class UserError(Exception):
    """A mistake of the user's: in a config, a path, a prompt or a data file.

    The message is one line: what was given, what is allowed and what to do.
    The commands print it on stderr, without a traceback, and exit with 2.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """Return `; did you mean NAME?` with the closest known name, or "" if none is close."""
    if not isinstance(name, str):
        return ""
    # In lower case: `minGRU` is mingru.
    by_lower_case = {each.lower(): each for each in known}
    matches = difflib.get_close_matches(name[:_LONGEST_COMPARED].lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[matches[0]]}?" if matches else ""


def printable(text: str) -> str:
    r"""Escape line breaks and control characters, as in `\n`, `\x1b`.

    Messages quote prompts, paths and files, which may hold any character.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def one_line(error: BaseException) -> str:
    """Return the type of another library's error, and the first line of its message."""
    return printable(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


def visible(text: str) -> str:
    r"""Return the text with control characters other than \n and \t written as escapes."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )
