"""The code of a run, saved with it: each file's source, its SHA-256, a package's version."""

from pathlib import Path
from typing import Any

from charjax.extensions.fields import FIELDS
from charjax.extensions.installed import installed, package
from charjax.extensions.loading import was_found
from charjax.extensions.references import parse_reference
from charjax.extensions.sources import Source, named_source
from charjax.files import make_directory, replace

_CODE = "code "


def references_in(tree: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the settings of a configuration that are code of the user's own: (field, value)."""
    found = []
    for field in FIELDS:
        section, _, key = field.partition(".")
        value = tree.get(section, {}).get(key)
        if isinstance(value, str) and (parse_reference(value) or was_found(field, value)):
            found.append((field, value))
    return found


def save_sources(directory: Path, tree: dict[str, Any]) -> None:
    """Write a copy of each file of a configuration to code/VERSION/FILE.

    The copies of earlier versions stay: a run's first steps may have been trained with them.
    """
    for source in _sources(value for _, value in references_in(tree)):
        folder = directory / "code" / source.version
        make_directory(folder, "--workdir")
        if not (folder / source.file).exists():
            replace(folder / source.file, source.data)


def code_digests(environment: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each file of a run's own code, by its name, from `versions_of`."""
    files = (name for name in environment if name.startswith(_CODE))
    return {name.removeprefix(_CODE): str(environment[name]) for name in files}


def versions_of(tree: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each file of a configuration, and the versions of the packages."""
    references = references_in(tree)
    files = {f"{_CODE}{s.file}": s.digest for s in _sources(value for _, value in references)}
    packages = {
        f"package of {field}": package(installed(FIELDS[field].group)[value])
        for field, value in references
        if parse_reference(value) is None
    }
    return files | packages


def _sources(values: Any) -> list[Source]:
    found = {}
    for value in values:
        reference = parse_reference(value)
        source = named_source(reference.file, reference.version) if reference else None
        if source is not None:
            found[source.file] = source
    return list(found.values())
