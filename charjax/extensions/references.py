"""References to an object in a file: `./mine.py:scheme`, and `mine.py:scheme@3f2a9c0b71de`."""

import re
from typing import Any, NamedTuple

VERSION_DIGITS = 12
_REFERENCE = re.compile(
    rf"(?P<path>.*\.py)(?::(?P<name>[^@]*))?(?:@(?P<version>[0-9a-f]{{{VERSION_DIGITS}}}))?",
    re.DOTALL,
)


class Reference(NamedTuple):
    """An object in a file.

    Attributes:
      path: the file, as it was written.
      name: the object; "" if none is named.
      version: the first 12 hexadecimal digits of the file's SHA-256; None if not given.
    """

    path: str
    name: str
    version: str | None

    @property
    def file(self) -> str:
        """The file's name, without folders."""
        return self.path.replace("\\", "/").rpartition("/")[2]


def parse_reference(value: Any) -> Reference | None:
    """Return the reference that a setting's value is; None for another value."""
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return Reference(match["path"], match["name"] or "", match["version"]) if match else None


def is_reference(value: Any) -> bool:
    """Return True for a value that refers to a file."""
    return parse_reference(value) is not None
