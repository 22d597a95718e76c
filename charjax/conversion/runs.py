"""Write the directory of a run whose parameters were trained elsewhere."""

from pathlib import Path
from typing import Any

import jax

from charjax import parallel
from charjax.config import Config
from charjax.conversion.state_dicts import flatten, unflatten
from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError
from charjax.files import replacing
from charjax.hardware import environment
from charjax.models import build_model
from charjax.run.checkpoint import Checkpoints
from charjax.run.notes import checkpoint_meta
from charjax.run.progress import Progress
from charjax.run.tokenizer_file import write_tokenizer
from charjax.training.state import (
    TrainState,
    adam_scales_of,
    initial_state,
    parameter_count,
    remove_multipliers,
    scales_of,
    state_shapes,
)


def check_workdir(directory: Path) -> None:
    """Raise a UserError unless the directory is empty or does not exist yet."""
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
    """Write a run at step 0 with these parameters, atomically.

    Args:
      directory: empty, or not existing yet.
      config: the resolved configuration.
      tokenizer: the alphabet of the model's text.
      dataset_digest: SHA-256 of that text.
      variables: arrays by path, as in `params/readout/kernel`.
      devices: on which the parameters are placed.

    Returns:
      The number of parameters.
    """
    state = _state(config, tokenizer, variables)
    mesh = parallel.make_mesh(devices, config.train.batch_size)
    facts = environment(devices, mesh)
    meta = checkpoint_meta(config, tokenizer, dataset_digest, facts, Progress().to_json())
    directory.parent.mkdir(parents=True, exist_ok=True)
    with replacing(directory, shared=True) as staging:
        staging.mkdir()
        (staging / "config.toml").write_text(config.to_toml(), encoding="utf-8")
        write_tokenizer(staging, tokenizer)
        store = Checkpoints(staging / "checkpoints", config.checkpoint.keep)
        store.save(0, state, meta, best=True)
        store.close()
    return parameter_count(state.params)


def _state(config: Config, tokenizer: Tokenizer, variables: dict[str, Any]) -> TrainState:
    model = build_model(config, tokenizer)
    trees = unflatten(variables)
    shapes = state_shapes(model, config)
    wanted = flatten({"params": shapes.params, **shapes.model_state})
    assert {name: leaf.shape for name, leaf in wanted.items()} == {
        name: array.shape for name, array in variables.items()
    }
    params = jax.device_put(trees.pop("params"))
    # The tensors define the function; the config's scheme defines its parametrisation.
    scales = scales_of(model, config, shapes.params)
    adam_scales = adam_scales_of(model, config, shapes.params)
    params = remove_multipliers(params, scales)
    return initial_state(model, config, params, jax.device_put(trees), scales, adam_scales)
