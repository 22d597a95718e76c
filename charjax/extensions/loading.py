"""From a setting's value to the object that it names."""

import contextlib
import inspect
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from charjax.errors import UserError, did_you_mean
from charjax.extensions.failures import failed
from charjax.extensions.fields import FIELDS
from charjax.extensions.installed import installed, load_installed
from charjax.extensions.references import Reference, parse_reference
from charjax.extensions.sources import Source, accepts_changes, name_file, named_source

# Modules and objects of this process: what was executed once is not executed again.
_modules: dict[tuple[str, str], types.ModuleType] = {}
_objects: dict[tuple[str, str], Any] = {}


def name_word(field: str, text: str) -> str:
    """Return a setting's value from the command line, the file that it names being known then.

    Args:
      field: one of FIELDS.
      text: the value; `./mine.py:scheme` becomes `mine.py:scheme@3f2a9c0b71de`.

    Raises:
      UserError: there is no such file, or no name after it.
    """
    reference = parse_reference(text)
    if reference is None:
        return text
    if not reference.name.isidentifier():
        raise UserError(
            f"{field}: {text!r} given; name {FIELDS[field].what} in the file, as in "
            f"{field}={reference.path}:NAME"
        )
    if reference.version is not None:
        # As a configuration of a run has it: that names no file.
        bound = bind(field, text)
        refuse_unnamed(field, bound)
        return bound
    source = name_file(reference.path)
    return f"{source.file}:{reference.name}@{source.version}"


def bind(field: str, text: str) -> str:
    """Return a value of a configuration with the version of the file that the user has named.

    Where the user has named none, or the value is no reference, it is returned as it is.

    Raises:
      UserError: the file has changed since its version was written, and no change is accepted.
    """
    reference = parse_reference(text)
    if reference is None or named_source(reference.file, reference.version) is None:
        source = named_source(reference.file) if reference else None
        if reference is None or source is None:
            return text
        if not accepts_changes():
            raise _changed(field, reference, source)
    else:
        source = named_source(reference.file, reference.version)
        assert source is not None
    return f"{source.file}:{reference.name}@{source.version}"


def is_named(text: Any) -> bool:
    """Return False for a reference to a file that the user has not named."""
    reference = parse_reference(text)
    return reference is None or named_source(reference.file, reference.version) is not None


def refuse_unnamed(field: str, text: str) -> None:
    """Raise a UserError for a file that only a configuration or a run names."""
    if not is_named(text):
        file = text.partition(":")[0].replace("\\", "/").rpartition("/")[2]
        raise UserError(
            f"{field}: {text!r} is code in a file that only a configuration or a run names, and "
            f"such files are not executed: if you trust it, add --code PATH/{file} "
            "(code= in Python; a run has a copy of its own in code/)"
        )


def find_object(field: str, text: str) -> Any:
    """Return the object that a setting names, in a file or in an installed package.

    Args:
      field: one of FIELDS.
      text: the setting's value.

    Returns:
      The object; None if the value is neither.

    Raises:
      UserError: the file was not named by the user, fails, or has no such object.
    """
    reference = parse_reference(text)
    if reference is None:
        found = load_installed(FIELDS[field], text)
        if found is not None:
            _objects[field, text] = found
        return found
    refuse_unnamed(field, text)
    source = named_source(reference.file, reference.version)
    assert source is not None
    module = _execute(source, field)
    if not hasattr(module, reference.name):
        names = [name for name in vars(module) if not name.startswith("_")]
        defined = [name for name in names if _is_from(vars(module)[name], module)]
        raise UserError(
            f"{field}: {source.path} has no {reference.name!r}; it has: "
            f"{', '.join(defined) or 'nothing'}{did_you_mean(reference.name, defined or names)}"
        )
    found = getattr(module, reference.name)
    _objects[field, text] = found
    return found


def executed(field: str, text: str) -> Any:
    """Return an object that `find_object` has found before in this process.

    Raises:
      UserError: it has not, and the user has not named its file.
    """
    found = _objects.get((field, text))
    return found if found is not None else find_object(field, text)


def was_found(field: str, text: str) -> bool:
    """Return True for a setting that `find_object` has found before in this process."""
    return (field, text) in _objects


def installed_names(field: str) -> list[str]:
    """Return the names that installed packages give a setting."""
    return list(installed(FIELDS[field].group))


def check_callable(field: str, text: str, found: Any, arguments: int, form: str) -> Callable:
    """Return an object if it can be called with so many positional arguments.

    Args:
      field: one of FIELDS.
      text: the setting's value.
      found: the object.
      arguments: their number.
      form: how it is called, for the message.

    Raises:
      UserError: it cannot.
    """
    if not callable(found):
        raise UserError(
            f"{field}: {text!r} is of type {type(found).__name__}; it must be a function: {form}"
        )
    try:
        inspect.signature(found).bind(*[None] * arguments)
    except TypeError as error:
        raise UserError(
            f"{field}: {text!r} cannot be called as {form}: {error}; give it that form"
        ) from None
    except ValueError:  # a built-in function without a signature
        pass
    return found  # type: ignore[no-any-return]


def _changed(field: str, reference: Reference, source: Source) -> UserError:
    return UserError(
        f"{field}: {source.path} has changed since: its SHA-256 began with {reference.version} and "
        f"begins with {source.version} now; name the old file (a run has a copy in "
        f"code/{reference.version}/), or accept the change with --accept-changed-code"
    )


def _execute(source: Source, field: str) -> types.ModuleType:
    """Execute a file, once for each version."""
    key = source.path, source.version
    if key in _modules:
        return _modules[key]
    module = types.ModuleType(f"charjax_own_{Path(source.file).stem}_{source.version}")
    module.__file__ = source.path
    # Dataclasses and pydantic look a class's module up.
    sys.modules[module.__name__] = module
    try:
        code = compile(source.data, source.path, "exec", dont_inherit=True)
        # Standard output is the command's: it may be one JSON object.
        with contextlib.redirect_stdout(sys.stderr):
            exec(code, vars(module))
    except KeyboardInterrupt:
        del sys.modules[module.__name__]
        raise
    except BaseException as error:
        del sys.modules[module.__name__]
        if isinstance(error, UserError):
            raise
        if isinstance(error, SyntaxError) and error.filename is None:  # of null bytes
            error.filename = source.path
        raise failed(error, field) from error
    _modules[key] = module
    return module


def _is_from(value: Any, module: types.ModuleType) -> bool:
    """Return True for what a module defines, False for what it imports."""
    return not inspect.ismodule(value) and getattr(value, "__module__", None) in (
        module.__name__,
        None,
    )
