"""Code of installed packages, by entry points."""

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from charjax.errors import UserError
from charjax.extensions.fields import Kind


@functools.cache
def installed(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name.

    Raises:
      UserError: two packages have one of the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UserError(
                f"{group}: {point.name!r} is of two installed packages, {package(other)} and "
                f"{package(point)}: uninstall one"
            )
    return found


def load_installed(kind: Kind, name: str) -> Any:
    """Import what an entry point names; None if there is none of that name.

    Raises:
      UserError: it cannot be imported.
    """
    point = installed(kind.group).get(name)
    if point is None:
        return None
    try:
        return point.load()
    except Exception as error:
        raise UserError(
            f"{name}: {kind.what} of the installed package {package(point)}, whose "
            f"{point.value!r} cannot be imported: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}"
        ) from error


def package(point: EntryPoint) -> str:
    """Return the name and version of the package of an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "without a name"
