"""The JSON of a benchmark: what was run, where, with what, and every repeat."""

import datetime
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from charjax import files

RESULTS = Path(__file__).parent / "results"


def optional_versions(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def document(
    name: str, command: str, quick: bool, sections: list[dict[str, Any]], left_out: list[Any]
) -> dict[str, Any]:
    """Return a whole result.

    Args:
      name: of the benchmark.
      command: that makes it again.
      quick: whether it was only a trial, at sizes too small to publish.
      sections: one per device (see `benchmarks.section.Section.as_data`).
      left_out: `{"device", "what", "why"}` of everything that was requested and not measured.
    """
    return {
        "benchmark": name,
        "command": command,
        "quick": quick,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "devices": sections,
        "left_out": left_out,
    }


def write(path: Path, tree: dict[str, Any]) -> None:
    """Replace a JSON file in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, json.dumps(tree, indent=1, allow_nan=False) + "\n")
