"""Errors out of a file of the user's, described with its line."""

import traceback
from types import TracebackType

from charjax.errors import UserError
from charjax.extensions.sources import named_sources

_LONGEST = 200


def describe_failure(error: BaseException) -> str | None:
    """Return `FILE:LINE: TYPE: MESSAGE` of an error that came out of a file of the user's.

    The line is the last one of the user's files in the traceback: where the mistake was made, or
    where a library was called with it.

    Returns:
      None if no file of the user's has a part in it.
    """
    paths = {source.path for source in named_sources()}
    if isinstance(error, SyntaxError) and error.filename in paths:
        return f"{error.filename}:{error.lineno or 1}: {type(error).__name__}: {error.msg}"
    lines = _lines(error.__traceback__, paths)
    if not lines:
        return None
    path, line = lines[-1]
    text = str(error).strip().split("\n")[0].strip()
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    hint = ""
    if isinstance(error, ModuleNotFoundError):
        hint = (
            "; a file of your own may import installed packages: install that one, or put its "
            "code into this file"
        )
    return f"{path}:{line}: {type(error).__name__}{': ' if text else ''}{text}{hint}"


def failed(error: BaseException, prefix: str) -> UserError:
    """Return an error of the user's code as a UserError."""
    return UserError(f"{prefix}: {describe_failure(error) or f'{type(error).__name__}: {error}'}")


def _lines(trace: TracebackType | None, paths: set[str]) -> list[tuple[str, int]]:
    frames = traceback.walk_tb(trace)
    return [
        (frame.f_code.co_filename, line)
        for frame, line in frames
        if frame.f_code.co_filename in paths
    ]
