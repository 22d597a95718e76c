"""Outcomes of `python -m benchmarks.gpu`, in one file that is written after every row.

The file holds every step's outcome, the end of its log, and the JSON files of its folder, so it
is all that a later call needs, on the same machine or on another one.
"""

import contextlib
import dataclasses
import datetime
import json
import shutil
from pathlib import Path
from typing import Any, Literal

from benchmarks import resuming
from charjax import files
from charjax.errors import UserError

NAME = "gpu-bench.json"
_FORMAT = 1
_TAIL_CHARACTERS = 4000

Status = Literal["open", "done", "failed"]


@dataclasses.dataclass
class Record:
    """A step's outcome so far.

    Attributes:
      status: "open" if the next call goes on with it.
      why: what failed, or stopped it.
      tries: how often it ended without anything new.
      seconds: of all its runs.
      log: the end of its output.
      files: its JSON files, by name.
    """

    status: Status = "open"
    why: str = ""
    tries: int = 0
    seconds: float = 0.0
    log: str = ""
    files: dict[str, Any] = dataclasses.field(default_factory=dict)

    def measured(self) -> int:
        """Return how many entries its files have; a step that goes on has more of them."""
        return sum(_entries(tree) for tree in self.files.values())

    def failures(self) -> list[str]:
        """Return the rows that failed, and why."""
        lost = [each for tree in self.files.values() for each in tree.get("left_out", ())]
        return [f"{each['what']}: {each['why']}" for each in lost if each["failed"]]

    def is_complete(self) -> bool:
        """Return whether no file has a row that only time was too short for."""
        results = [tree for tree in self.files.values() if "left_out" in tree]
        unwritten = any(name.endswith(resuming.PART) for name in self.files)
        return not unwritten and all(resuming.is_complete(tree) for tree in results)


def _entries(tree: dict[str, Any]) -> int:
    if "devices" in tree:
        return sum(map(_entries, tree["devices"])) + len(tree["left_out"])
    return sum(len(tree.get(key, ())) for key in ("rows", "reproductions", "attempts"))


@dataclasses.dataclass
class State:
    """All steps' outcomes.

    Attributes:
      path: the file.
      dry: whether the steps ran at their smallest sizes on a CPU.
      records: by the name of the step.
    """

    path: Path
    dry: bool = False
    records: dict[str, Record] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> Record:
        return self.records.setdefault(name, Record())

    def save(self) -> None:
        """Replace the file in one move."""
        tree = {
            "format": _FORMAT,
            "dry_run": self.dry,
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "steps": {name: dataclasses.asdict(each) for name, each in self.records.items()},
        }
        files.replace(self.path, json.dumps(tree) + "\n")


def load(folder: Path, out: Path, *, dry: bool) -> State:
    """Read what an earlier call has written to a folder, to go on with it in another.

    Raises:
      UserError: there is no such file, or it is not one of this kind.
    """
    path = folder / NAME
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["format"] != _FORMAT:
            raise ValueError
        records = {name: Record(**each) for name, each in tree["steps"].items()}
        state = State(out / NAME, tree["dry_run"], records)
    except FileNotFoundError:
        raise UserError(
            f"--resume: {str(folder)!r} holds no {NAME}; give the folder of an earlier call's "
            "results, or leave it out"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"--resume: {str(path)!r} is not a file of this command; give another folder"
        ) from None
    if state.dry != dry:
        kind = "a dry run" if state.dry else "measurements"
        raise UserError(f"--resume: {str(path)!r} is of {kind}; give another folder")
    return state


def fill(folder: Path, record: Record) -> None:
    """Make a step's folder anew, with the files that it has so far."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, tree in record.files.items():
        files.write_json(folder / name, tree)


def log_path(folder: Path) -> Path:
    """Return the log of a step: beside its folder, which some commands want to be empty."""
    return folder.with_suffix(".log")


def collect(folder: Path, record: Record) -> None:
    """Take over the JSON files of a step's folder, and the end of its log."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        # One that cannot be read must not take the place of an earlier one.
        found[path.name] = record.files.get(path.name, {})
        with contextlib.suppress(OSError, ValueError):
            found[path.name] = json.loads(path.read_text(encoding="utf-8"))
    record.files = found
    log = log_path(folder)
    if log.exists():
        text = log.read_bytes()[-_TAIL_CHARACTERS:].decode("utf-8", errors="replace")
        record.log = text.replace("\r", "\n")
