"""Runs of a directory: state, step, best loss, size; and the removal of old checkpoints."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from charjax.config import Config, load_config
from charjax.errors import UserError
from charjax.run.checkpoint import Checkpoints
from charjax.run.comparison import read_summary
from charjax.run.lock import is_held
from charjax.run.metrics import MetricsFile, best_line, per_character

State = Literal["training", "finished", "stopped", "not saved", "damaged"]


@dataclasses.dataclass(frozen=True)
class ListedRun:
    """A run of a directory.

    Attributes:
      directory: of the run.
      state: training (a process writes there), finished, stopped (it can be resumed), not saved (no
        checkpoint yet), or damaged (its config.toml cannot be read).
      kind: model.kind; "" if damaged.
      step: the last one that a metrics line or a checkpoint names.
      steps: train.steps.
      best_val_loss: nats per character; None before the first evaluation.
      best_step: its step.
      size: bytes of all files.
      saved: steps of the checkpoints.
    """

    directory: Path
    state: State
    kind: str
    step: int
    steps: int
    best_val_loss: float | None
    best_step: int | None
    size: int
    saved: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self) | {"directory": str(self.directory)}


def list_runs(directory: Path) -> list[ListedRun]:
    """Return the runs below a directory, by path; of a run's own directory, that run.

    Raises:
      UserError: there is no such directory.
    """
    if not directory.is_dir():
        raise UserError(
            f"DIR: {str(directory)!r} is not a directory; give one that holds runs (without "
            "--workdir they are made in runs/)"
        )
    return [describe_run(path) for path in sorted(_find(directory))]


def _find(directory: Path) -> Iterator[Path]:
    """Yield directories of runs; nothing inside one is searched, and no link is followed."""
    for folder, folders, files in os.walk(directory):
        if "config.toml" in files:
            folders.clear()
            yield Path(folder)


def describe_run(directory: Path) -> ListedRun:
    """Read what is known of a run, without JAX's devices and without its arrays."""
    saved = Checkpoints(directory / "checkpoints", warn=lambda text: None).steps()
    lines, summary = (
        MetricsFile(directory / "metrics.jsonl").read_thinned(),
        read_summary(directory),
    )
    best = best_line(lines)
    config = _config(directory)
    return ListedRun(
        directory=directory,
        state=run_state(directory, config, bool(saved), bool(summary)),
        kind=config.model.kind if config else "",
        step=max([*saved, *(line["step"] for line in lines)], default=0),
        steps=config.train.steps if config and not summary.get("counting_tokens_per_second") else 1,
        best_val_loss=per_character(best) if best else None,
        best_step=best["step"] if best else None,
        size=_size(directory),
        saved=tuple(saved),
    )


def _config(directory: Path) -> Config | None:
    try:
        return load_config(directory / "config.toml", saved=True)
    except UserError:
        return None


def run_state(directory: Path, config: Config | None, is_saved: bool, has_summary: bool) -> State:
    """Return the state of a run; see `ListedRun`."""
    if is_held(directory):
        return "training"
    if config is None:
        return "damaged"
    if has_summary:
        return "finished"
    return "stopped" if is_saved else "not saved"


def _size(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            # A run that is training removes files meanwhile.
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def prune_run(run: ListedRun) -> tuple[int, str | None]:
    """Remove a run's checkpoints but for the best and the latest one.

    Returns:
      The bytes that became free, and the reason why nothing was removed, or None.
    """
    if run.state in ("training", "damaged"):
        return 0, "a process writes there" if run.state == "training" else "it is damaged"
    store = Checkpoints(run.directory / "checkpoints", warn=lambda text: None)
    try:
        store.prune()
    except UserError as error:
        return 0, str(error)
    return run.size - _size(run.directory), None
