"""Earlier rows that a benchmark's --resume keeps."""

import json
from pathlib import Path
from typing import Any

# End of the name of the file that holds a device's rows until its result is written.
PART = ".part.json"
# What is left out when a device's process ends before all rows are measured.
REST = "the rest"
# How often a row is begun: after that, a process that ends with it is its fault.
_MOST_TRIES = 2


def earlier(out: Path, part: Path, device: str) -> dict[str, Any] | None:
    """Return the section to go on with: of a process that was killed, or of a result.

    Args:
      out: file of the result.
      part: file of the device's rows.
      device: the device.
    """
    if part.exists():
        return reopened(json.loads(part.read_text(encoding="utf-8")))
    if not out.exists():
        return None
    tree = json.loads(out.read_text(encoding="utf-8"))
    lost = [each for each in tree["left_out"] if each["device"] == device]
    found = [each for each in tree["devices"] if each["device"] == device]
    return reopened(found[0] | {"left_out": lost}) if found else None


def reopened(section: dict[str, Any]) -> dict[str, Any]:
    """Return a section without the rows that are measured again.

    These are the rows that failed, were under way when the process ended, or came too late. A row
    that has failed or ended its process twice stays left out.
    """
    # A result of before there was a --resume has none: it is measured anew.
    attempts: dict[str, Any] = dict(section.get("attempts", {}))
    left_out = [each for each in section["left_out"] if not _is_open(each)]
    failed = {each["what"] for each in left_out if each["failed"]}
    for name, attempt in list(attempts.items()):
        if attempt["done"] and name not in failed:
            continue
        if attempt["tried"] < _MOST_TRIES:
            attempts[name] = {"tried": attempt["tried"], "done": False, "rows": []}
            left_out = [each for each in left_out if not _is_of(each["what"], name)]
        elif not attempt["done"]:
            attempts[name] = {"tried": attempt["tried"], "done": True, "rows": []}
            why = f"its process ended or was stopped {attempt['tried']} times"
            left_out.append({"device": section["device"], "what": name, "why": why, "failed": True})
    names = {row for attempt in attempts.values() for row in attempt["rows"]}
    rows = [row for row in section["rows"] if row["name"] in names]
    return section | {"attempts": attempts, "rows": rows, "left_out": left_out}


def is_complete(tree: dict[str, Any]) -> bool:
    """Return whether a result has no row for which the time was too short."""
    return not any(_is_open(each) for each in tree["left_out"])


def is_same_machine(section: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Return whether a section's rows, if it has any, were measured on a machine of these facts."""
    if "hardware" not in section:
        return True
    then, now = section["hardware"], facts["hardware"]
    names = ("processor", "cores", "accelerator", "python")
    if any(then[name] != now[name] for name in names):
        return False
    # Those of other packages are added while the rows are measured.
    return all(then["versions"].get(name) == now["versions"][name] for name in now["versions"])


def _is_open(left_out: dict[str, Any]) -> bool:
    return bool(left_out.get("late")) or left_out["what"] == REST


def _is_of(what: str, name: str) -> bool:
    return what == name or what.startswith(f"{name}, ")
