"""Where charjax keeps, for one user, what can be had again: downloads and compiled programs."""

import os
from pathlib import Path


def user_cache() -> Path | None:
    """The user's cache directory, not made yet; None where there is no home directory."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path there is to be ignored.
    if not os.path.isabs(given):
        given = os.path.expanduser("~/.cache")
    return Path(given) / "charjax" if os.path.isabs(given) else None
