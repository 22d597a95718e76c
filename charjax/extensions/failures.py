"""Errors out of a file of the user's, described with its line."""

import ast
import contextlib
import re
import traceback
from collections.abc import Iterator

from charjax.errors import UserError
from charjax.extensions.fields import FIELDS
from charjax.extensions.references import parse_reference
from charjax.extensions.sources import Source, named_source, named_sources

_LONGEST = 200
# FIELD: ... 'FILE.py:NAME@VERSION' ...
_ABOUT = re.compile(
    rf"(?P<field>{'|'.join(map(re.escape, FIELDS))}): "
    r"(?P<before>[^']*)'(?P<text>[^']+)'(?P<rest>.*)"
)


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
    # flax replaces an AttributeError within a property by an error without its frame.
    for one in _with_causes(error):
        if lines := _lines(one, paths):
            error, (path, line) = one, lines[-1]
            break
    else:
        return None
    hint = ""
    if isinstance(error, ModuleNotFoundError):
        hint = (
            "; a file of your own may import installed packages: install that one, or put its "
            "code into this file"
        )
    return f"{path}:{line}: {_brief(error)}{hint}"


def failed(error: BaseException, prefix: str) -> UserError:
    """Return an error of the user's code as a UserError."""
    return UserError(f"{prefix}: {describe_failure(error) or _brief(error)}")


@contextlib.contextmanager
def calling(field: str, text: str) -> Iterator[None]:
    """Call what a setting names: every error within becomes a UserError that names it.

    An error of a library may have no frame in the user's file: `act = jax.nn.glu` has none.

    Args:
      field: one of FIELDS.
      text: the setting's value.

    Raises:
      UserError: an error was raised, or the process was to be ended.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        described = describe_failure(error)
        raise UserError(described or f"{field}: {text!r} fails: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    text = str(error).strip().split("\n")[0].strip()
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return f"{type(error).__name__}{': ' if text else ''}{text}"


def with_place(message: str) -> str:
    """Return a message about an object of the user's with the line where it is defined.

    Args:
      message: of a UserError; `optim.kind: 'mine.py:make@3f2a9c0b71de' returns ...` becomes
        `optim.kind: ./mine.py:17: 'make' returns ...`, and others are returned as they are.
    """
    found = _ABOUT.fullmatch(message)
    reference = parse_reference(found["text"]) if found else None
    if found is None or reference is None or reference.version is None:
        return message
    source = named_source(reference.file, reference.version)
    if source is None:
        return message
    place = f"{source.path}:{_line_of(source, reference.name)}"
    return f"{found['field']}: {place}: {found['before']}{reference.name!r}{found['rest']}"


def _line_of(source: Source, name: str) -> int:
    """Return the line at which a file defines a name; 1 if it is not found."""
    try:
        tree = ast.parse(source.data)
    except (SyntaxError, ValueError):
        return 1
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name)
        or (isinstance(node, ast.alias) and name in (node.name, node.asname))
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name)
    ]
    return min(lines, default=1)


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _lines(error: BaseException, paths: set[str]) -> list[tuple[str, int]]:
    frames = traceback.walk_tb(error.__traceback__)
    return [
        (frame.f_code.co_filename, line)
        for frame, line in frames
        if frame.f_code.co_filename in paths
    ]
