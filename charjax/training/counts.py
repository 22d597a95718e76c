"""Counts beside a network, in a run: what its text must be, their predictions and their tables."""

import jax
import jax.numpy as jnp
import numpy as np

from charjax import hardware
from charjax.config import Config
from charjax.config.values import format_value
from charjax.data.splits import Split
from charjax.errors import UserError
from charjax.models.mixture import Mixture
from charjax.models.ngram_cross_fit import DTYPE, cross_fit
from charjax.training.state import Tables, TrainState


def predicted_by_the_rest(config: Config, model: Mixture, split: Split) -> np.ndarray:
    """Return what counts of the rest of a text predict in place of each token (`cross_fit`).

    Raises:
      UserError: the text is too long for that, or has too few characters.
    """
    _check(config, model, split)
    return cross_fit(split, vocab_size=model.vocab_size, orders=model.orders, folds=model.folds)


def _check(config: Config, model: Mixture, split: Split) -> None:
    """Refuse a text whose probabilities by counts do not fit in memory, or too few folds of it.

    Raises:
      UserError: the message has the bytes.
    """
    needed = split.tokens.size * len(model.orders) * model.vocab_size * DTYPE.itemsize
    # The host has them once, and a CPU's device a second time while they are placed.
    free = hardware.free_memory() / 3
    if split.tokens.nbytes > config.data.device_bytes:
        raise UserError(
            f"model.counts: {format_value(model.orders)} given for a text of "
            f"{split.tokens.nbytes:,} bytes, which stays on the host as data.device_bytes is "
            f"{config.data.device_bytes:,}; counts need it on the device: raise that, or set "
            "model.counts=[]"
        )
    if needed > free:
        raise UserError(
            f"model.counts: {format_value(model.orders)} given for a text of {split.tokens.size:,} "
            f"tokens; what counts predict in place of each takes {needed / 1e9:,.1f} GB in "
            f"training, and may take {free / 1e9:,.1f} GB: set model.counts=[], or give a shorter "
            "text"
        )
    if split.num_targets < model.folds:
        raise UserError(
            f"model.count_folds: {model.folds} given for a training split of "
            f"{split.num_targets:,} characters; lower it, or give a longer text"
        )


def with_tables(state: TrainState, model: Mixture, split: Split) -> TrainState:
    """Return a state with the tables of the counts of a text."""
    return state._replace(tables=jax.tree.map(jnp.asarray, model.count(split)))


def table_shapes(model: Mixture, split: Split) -> Tables:
    """Count a text, and return the shapes of the tables."""
    return {
        name: jax.ShapeDtypeStruct(table.shape, table.dtype)
        for name, table in model.count(split).items()
    }
