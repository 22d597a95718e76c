"""A run's directory made from parameters that were trained elsewhere."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax

from charjax import parallel
from charjax.config import Config
from charjax.conversion.state_dicts import flatten, unflatten
from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError
from charjax.hardware import environment
from charjax.models import build_model
from charjax.run.checkpoint import Checkpoints
from charjax.run.notes import checkpoint_meta
from charjax.run.progress import Progress
from charjax.training.state import (
    TrainState,
    adam_scales_of,
    initial_state,
    remove_multipliers,
    scales_of,
    state_shapes,
)


def check_workdir(directory: Path) -> None:
    """Raise a UserError unless a run can be put there: the directory is empty, or not there."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        what = "already holds a run" if (directory / "config.toml").exists() else "is not empty"
        what = what if directory.is_dir() else "is not a directory"
        raise UserError(f"--workdir: {str(directory)!r} {what}; give another directory")


def write_run(
    directory: Path,
    config: Config,
    tokenizer: Tokenizer,
    dataset_digest: str,
    variables: dict[str, Any],
    devices: list[jax.Device],
) -> int:
    """Write a run that stands at step 0 with these parameters, whole or not at all.

    Args:
      directory: not there yet, or empty.
      config: resolved.
      tokenizer: of the model's text.
      dataset_digest: SHA-256 of that text.
      variables: arrays by path, as in `params/readout/kernel`.
      devices: on which the parameters are placed.

    Returns:
      The number of parameters.
    """
    state = _state(config, tokenizer, variables)
    mesh = parallel.make_mesh(devices, config.train.batch_size)
    noted = environment(devices, mesh)
    meta = checkpoint_meta(config, tokenizer, dataset_digest, noted, Progress().to_json())
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        mask = os.umask(0)
        os.umask(mask)
        made.chmod(0o777 & ~mask)
        (made / "config.toml").write_text(config.to_toml(), encoding="utf-8")
        store = Checkpoints(made / "checkpoints", config.checkpoint.keep)
        store.save(0, state, meta, best=True)
        store.close()
        # An empty directory in its place is replaced.
        made.rename(directory)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def _state(config: Config, tokenizer: Tokenizer, variables: dict[str, Any]) -> TrainState:
    model = build_model(config, tokenizer)
    trees = unflatten(variables)
    shapes = state_shapes(model, config)
    wanted = flatten({"params": shapes.params, **shapes.model_state})
    assert {name: leaf.shape for name, leaf in wanted.items()} == {
        name: array.shape for name, array in variables.items()
    }
    params = jax.device_put(trees.pop("params"))
    # What is imported is the function; the scheme of the config says in which parametrisation.
    scales = scales_of(model, config, shapes.params)
    adam_scales = adam_scales_of(model, config, shapes.params)
    params = remove_multipliers(params, scales)
    return initial_state(model, config, params, jax.device_put(trees), scales, adam_scales)
