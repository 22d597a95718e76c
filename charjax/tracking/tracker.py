"""The interface of trackers, and the values that they are given."""

import re
import secrets
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from charjax import files
from charjax.config import Config, flat_settings
from charjax.config.values import value_text

# A line of metrics.jsonl; the texts of a step of samples.txt.
Line = dict[str, Any]
Texts = tuple[int, list[str]]


class TrackedRun(NamedTuple):
    """The run that a tracker writes.

    Attributes:
      name: shown for it.
      run_id: 8 letters and digits, kept in the run's directory.
      config: the resolved configuration.
      folder: where the tracker's files go.
    """

    name: str
    run_id: str
    config: Config
    folder: Path


class Tracker(Protocol):
    """A place that holds the metrics and samples of one run.

    Every method may raise any exception; afterwards only `close` is called.
    """

    def open(self, lines: list[Line], samples: list[Texts]) -> None:
        """Start anew with what the run has written so far, in the place of what is there."""

    def write(self, lines: list[Line]) -> None:
        """Add lines of metrics.jsonl."""

    def sample(self, step: int, texts: list[str]) -> None:
        """Add the samples of a step."""

    def close(self, status: int, summary: dict[str, Any]) -> str:
        """Write out everything; return a line about where it is.

        Args:
          status: the exit status of the run.
          summary: the fields of summary.json; {} of a run that has not ended.
        """


def numbers(line: Line) -> dict[str, float]:
    """Return the numbers of a line of metrics.jsonl by tag: train/loss, val/bpc, ..."""
    return {
        f"{line['split']}/{key}": float(value)
        for key, value in line.items()
        if key not in ("step", "split") and isinstance(value, int | float)
    }


def settings(config: Config) -> dict[str, str | bool | int | float]:
    """Return the settings by name, section.key; lists as text, unset ones left out."""
    return {
        name: value if isinstance(value, str | bool | int | float) else value_text(value)
        for name, value in flat_settings(config)
        if value is not None
    }


def run_id(directory: Path) -> str:
    """Return the id of a run, made and kept in its directory at the first call.

    Raises:
      OSError: it cannot be written.
    """
    path = directory / "run_id"
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    if not re.fullmatch(r"[a-z0-9]{8}", text):
        text = secrets.token_hex(4)
        files.replace(path, f"{text}\n")
    return text
