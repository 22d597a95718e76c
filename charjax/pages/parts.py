"""The parts that all pages share: templates, escaping, styles, the check of the page's file."""

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from charjax.errors import UserError, printable, visible

_HERE = Path(__file__).parent


def render(
    template: str,
    *folders: Path,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    **values: Any,
) -> str:
    """Return a page; every value is made printable, then escaped.

    Args:
      template: its name, in one of the folders or in charjax/pages/templates.
      folders: where to look first.
      styles: files of this package, after the style of all pages.
      scripts: files of this package.
      values: read by the template.
    """
    return (
        _environment(folders)
        .get_template(template)
        .render(
            style=_assets("templates/base.css", *styles),
            script=_assets(*scripts),
            **values,
        )
    )


@functools.cache
def _environment(folders: tuple[Path, ...]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, _HERE / "templates"]),
        autoescape=True,
        finalize=_shown,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "base64": _base64,
        "sha256": _sha256,
        "data": _data,
        "lines": _Lines,
    }
    return environment


class _Lines(str):
    """A text whose line breaks stay."""

    __slots__ = ()


def _shown(value: Any) -> Any:
    """Make a value printable, unless it is markup of the template itself."""
    if hasattr(value, "__html__"):
        return value
    return visible(value) if isinstance(value, _Lines) else printable(str(value))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _sha256(text: str) -> str:
    """Return the digest of a style or a script as a content security policy names it."""
    return _base64(hashlib.sha256(text.encode()).digest())


def _data(tree: Any) -> str:
    """Return JSON for a script element: no character in it ends the element or begins a tag."""
    text = json.dumps(tree, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


@functools.cache
def _assets(*names: str) -> str:
    """Return styles or scripts of this package, which templates do not escape."""
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


def check_out(out: Path) -> None:
    """Raise a UserError unless a page can be written to a file of this name."""
    if out.is_dir():
        raise UserError(f"--out: {str(out)!r} is a directory; give a file, as in report.html")
    if not out.parent.is_dir():
        raise UserError(f"--out: there is no directory {str(out.parent)!r}; make it first")
