"""Values of settings as text: as the user writes them, in files and in messages."""

import json
from typing import Any

import tomli_w

from charjax.config.fields import Section

_LONGEST = 60


def toml_text(value: Any) -> str:
    """Return a value of a setting as TOML writes it on one line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_text, value))}]"
    if isinstance(value, Section):
        pairs = (f"{key} = {toml_text(inner)}" for key, inner in dict(value).items())
        return f"{{{', '.join(pairs)}}}"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").removesuffix("\n")


def format_value(value: Any) -> str:
    """Return a value for a message: as in TOML, "unset" for None, cut to 60 characters.

    It may be one that no setting has, such as another program's or a mistake of the user's.
    """
    try:
        text = _text(value)
    except (ValueError, RecursionError):  # thousands of digits, deeply nested lists
        text = "a value too long to show"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def value_text(value: Any) -> str:
    """Return a value for a table: words as they are, "unset" for None, others as in TOML."""
    return value if isinstance(value, str) else _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_text(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, Section):
        return toml_text(value)
    if isinstance(value, float):
        return repr(float(value))
    text = json.dumps(value, ensure_ascii=False, default=str)
    # Bytes of a path that are no text.
    return text.encode(errors="backslashreplace").decode()
