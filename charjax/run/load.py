"""Reading a run back from its directory."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from charjax import backend
from charjax.config import Config
from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError
from charjax.models import build_model
from charjax.models.contract import CharModel
from charjax.run.checkpoint import Checkpoints
from charjax.run.notes import read_notes
from charjax.training.cpu_plan import needs_one_heap
from charjax.training.state import ADAM_SCALES, state_shapes, variables_of


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


def load_run(directory: Path, checkpoint: str = "best", *, core_devices: bool = False) -> Run:
    """Read a run's model.

    Args:
      directory: the run's.
      checkpoint: "best", "latest" or a step.
      core_devices: passed to `backend.start_backend`.

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
    notes = read_notes(store.read_meta(which))
    config, tokenizer = notes.config, notes.tokenizer
    # A model trained on a GPU is read on any device.
    if config.runtime.device == "gpu":
        config = config.model_copy(
            update={"runtime": config.runtime.model_copy(update={"device": "auto"})}
        )
    backend.start_backend(
        config.runtime, core_devices=core_devices, large_calls=needs_one_heap(config, 1)
    )
    model = build_model(config, tokenizer)
    shapes = state_shapes(model, config, notes.tables)
    state, _, step = store.restore(which, shapes, ones=ADAM_SCALES)
    return Run(directory, config, tokenizer, model, variables_of(state), step, notes.dataset_digest)


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
