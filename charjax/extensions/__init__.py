"""Code of the user's own: files named as `./mine.py:scheme`, and installed packages' entry points.

A file is executed only if the user names it, on the command line or in a call. A configuration, a
run or a checkpoint holds the name alone, with the beginning of the file's SHA-256:
`mine.py:scheme@3f2a9c0b71de`.

Importing this package must stay cheap (no JAX).
"""

from charjax.extensions.failures import calling, describe_failure, with_place
from charjax.extensions.fields import FIELDS, Kind
from charjax.extensions.loading import (
    bind,
    check_callable,
    executed,
    find_object,
    is_named,
    name_word,
    refuse_unnamed,
)
from charjax.extensions.references import Reference, is_reference, parse_reference
from charjax.extensions.saved import code_digests, references_in, save_sources, versions_of
from charjax.extensions.sources import accepting_changes, name_file, separate_names

__all__ = [
    "FIELDS",
    "Kind",
    "Reference",
    "accepting_changes",
    "bind",
    "calling",
    "check_callable",
    "code_digests",
    "describe_failure",
    "executed",
    "find_object",
    "is_named",
    "is_reference",
    "name_file",
    "name_word",
    "parse_reference",
    "references_in",
    "refuse_unnamed",
    "save_sources",
    "separate_names",
    "versions_of",
    "with_place",
]
