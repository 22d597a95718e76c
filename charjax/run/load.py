"""Reading a run back from its directory."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from charjax import backend
from charjax.config import Config
from charjax.data.datasets import load_dataset
from charjax.data.splits import Split
from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError
from charjax.models import build_model
from charjax.models.contract import CharModel
from charjax.run.checkpoint import Checkpoints
from charjax.run.notes import Notes, read_notes
from charjax.training.cpu_plan import needs_one_heap
from charjax.training.state import (
    ADAM_SCALES,
    Weights,
    average_of,
    state_shapes,
    variables_of,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, read back from its directory.

    Attributes:
      directory: of the run.
      config: the resolved configuration.
      tokenizer: the alphabet of the text.
      model: the module.
      variables: its parameters and other collections.
      step: the step of the checkpoint.
      dataset_digest: SHA-256 of the text it was trained on.
    """

    directory: Path
    config: Config
    tokenizer: Tokenizer
    model: CharModel
    variables: dict[str, Any]
    step: int
    dataset_digest: str


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A checkpoint of a run, of which only the notes have been read.

    Attributes:
      directory: of the run.
      checkpoint: "best", "latest" or a step.
      notes: saved with the checkpoint.
      store: the run's checkpoints.
    """

    directory: Path
    checkpoint: str | int
    notes: Notes
    store: Checkpoints

    @property
    def config(self) -> Config:
        """The run's configuration, for any device: an accelerator's model can be read on a CPU."""
        config = self.notes.config
        return config.model_copy(update={"runtime": backend.on_any_device(config.runtime)})

    def start_backend(self, *, core_devices: bool = False) -> list[jax.Device]:
        """Start JAX for this run's model; see `charjax.backend.start_backend`."""
        return backend.start_backend(
            self.config.runtime,
            core_devices=core_devices,
            large_calls=needs_one_heap(self.config, 1),
        )


def find_run(directory: Path, checkpoint: str = "best") -> SavedRun:
    """Find a checkpoint of a run, and read its notes; JAX is not started.

    Args:
      directory: of the run.
      checkpoint: "best", "latest" or a step.

    Raises:
      UserError: no run there, no such checkpoint, or none that can be read.
    """
    require_run(directory)
    which: str | int = checkpoint
    if checkpoint not in ("best", "latest"):
        if not checkpoint.isdecimal():
            raise UserError(
                f"--checkpoint: {checkpoint!r} given; allowed: best, latest or a step's number"
            )
        which = int(checkpoint)
    store = Checkpoints(directory / "checkpoints")
    return SavedRun(directory, which, read_notes(store.read_meta(which)), store)


def load_run(saved: SavedRun, weights: Weights | None = None) -> Run:
    """Read a run's model onto the devices of the backend as it was started.

    Args:
      saved: the checkpoint.
      weights: the parameters as they were trained, or their average; None: the average where the
        run keeps one.

    Raises:
      UserError: the checkpoint cannot be read, or the run keeps no average.
    """
    config, notes = saved.config, saved.notes
    model = build_model(config, notes.tokenizer)
    shapes = state_shapes(model, config, notes.tables)
    state, _, step = saved.store.restore(saved.checkpoint, shapes, ones=ADAM_SCALES)
    if weights == "averaged" and average_of(state) is None:
        raise UserError(
            f"--weights: averaged given, but {str(saved.directory)!r} keeps no average of its "
            "parameters (optim.ema or optim.kind=schedule_free_adamw do): leave it out"
        )
    variables, digest = variables_of(state, weights or "averaged"), notes.dataset_digest
    return Run(saved.directory, config, notes.tokenizer, model, variables, step, digest)


def load_split(run: Run, name: str, moved: dict[str, Any] | None = None) -> Split:
    """Load a split of the text that a run was trained on.

    Args:
      run: the run.
      name: train, val or test.
      moved: the current data.path and data.val_path of the text, under "path" and "val_path", as
        far as it was moved.

    Raises:
      UserError: there is no such split, or the text is missing or has changed.
    """
    data = run.config.data
    moved = moved or {}
    if "path" in moved and data.path is None:
        raise UserError(
            f"data.path: {moved['path']!r} given, but the run was trained on "
            f"data.name={data.name}; set CHARJAX_DATA to the directory that holds it"
        )
    if "val_path" in moved and data.val_path is None:
        raise UserError(
            f"data.val_path: {moved['val_path']!r} given, but the run's validation split is a part "
            "of its own text: leave it out"
        )
    data = data.model_copy(update=moved)
    dataset = load_dataset(data, run.tokenizer, run.dataset_digest)
    if name not in dataset.splits:
        raise UserError(
            f"--split: {name!r} given; this run's text has: {', '.join(dataset.splits)}"
        )
    return dataset.splits[name]


def saved_dataset(directory: Path) -> tuple[Tokenizer, str] | tuple[None, None]:
    """Return a run's tokenizer and the SHA-256 of its text, or None before its first checkpoint.

    Raises:
      UserError: no checkpoint can be read.
    """
    # Damaged checkpoints are reported by the restore that follows.
    store = Checkpoints(directory / "checkpoints", warn=lambda text: None)
    if not store.steps():
        return None, None
    notes = read_notes(store.read_meta("latest"))
    return notes.tokenizer, notes.dataset_digest


def require_run(directory: Path, flag: str = "workdir") -> None:
    """Raise a UserError, naming the flag that gave it, unless the directory holds a run."""
    if (directory / "config.toml").is_file():
        return
    remedy = "give the directory that `python -m charjax.train` printed"
    problem = "holds no run" if directory.is_dir() else "is not a directory"
    if has_checkpoints(directory):
        problem, remedy = "holds checkpoints, but no config.toml", "put a copy of that file back"
    raise UserError(f"{flag}: {str(directory)!r} {problem}; {remedy}")


def has_checkpoints(directory: Path) -> bool:
    """Return whether a directory holds a checkpoint."""
    return bool(Checkpoints(directory / "checkpoints").steps())


def parameter_shapes(config: Config, source: Run) -> Any:
    """Return the shapes and dtypes of a config's parameters, with another run's alphabet."""
    model = build_model(config, source.tokenizer)
    tokens_BT = jnp.zeros((1, model.lookback + 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
