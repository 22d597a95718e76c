"""Decisions by the size of a step on a CPU: sharing the batch among cores, oneDNN, heaps.

By default XLA splits an operation over the cores, and they wait for each other after each.
Where every core is a device with rows of its own, they meet once per step, to add up gradients;
but then each core takes the whole of the optimiser's step, too. So sharing the batch is worth it
for steps of many operations that are small beside the parameters (measured on two cores:
benchmarks/NOTES.md).
"""

import jax.numpy as jnp

from charjax.config import Config
from charjax.models import CharModel, build
from charjax.ops.choice import is_compiled_attention, is_compiled_product, onednn_gradient

# Per core and pass; with less work, waiting for the other cores costs more than sharing saves.
_LEAST_MULTIPLICATIONS = 2 * 10**7
# Each core reads and writes all parameters; with more of them per target that costs more.
_MOST_PARAMETERS_PER_TARGET = 8192
# Size of the temporary arrays, as estimated below, from which one heap serves all threads.
_MANY_BYTES = 48 * 2**20
# Assumed context length where the text decides it, before the text is read.
_SHORT = 64


def share_batch(config: Config, cores: int) -> bool:
    """Return true if each of so many cores should compute its part of every batch."""
    targets = config.train.batch_size * _context(config)
    weights = matrix_weights(config)
    return (
        cores > 1
        and config.train.batch_size % cores == 0
        and weights * targets >= _LEAST_MULTIPLICATIONS * cores
        and weights * cores <= _MOST_PARAMETERS_PER_TARGET * targets
    )


def needs_one_heap(config: Config, cores: int) -> bool:
    """Return true if a call of the loop may need more temporary arrays than a thread's heap holds.

    Counted are the numbers that a window saves for the backward pass.
    """
    windows = config.train.batch_size
    if share_batch(config, cores):
        windows //= cores
    return 4 * windows * _model(config).saved_values(_context(config)) > _MANY_BYTES


def has_onednn_products(config: Config, devices: int) -> bool:
    """Return true if the widest gradient of the model's weights is large enough for oneDNN.

    Only where one device has all threads: oneDNN's wait for each other.
    """
    product = _model(config).widest_product
    if devices > 1 or product is None:
        return False
    rows = config.train.batch_size * _context(config)
    return onednn_gradient(rows, *product, jnp.dtype(config.runtime.dtype))


def has_compiled_products(config: Config, devices: int) -> bool:
    """Return true if a compiled kernel computes the model's widest product, or may attend."""
    model, dtype = _model(config), config.runtime.dtype
    # "auto" is chosen when the session starts.
    if model.widest_product is None or dtype == "auto":
        return False
    windows, T = config.train.batch_size // devices, _context(config)
    attends = model.has_attention and is_compiled_attention(
        windows, T, model.widest_product[0], jnp.dtype(dtype)
    )
    return attends or is_compiled_product(windows * T, *model.widest_product, jnp.dtype(dtype))


def matrix_weights(config: Config) -> int:
    """Count the weights that every position is multiplied by, where that was measured; else 0."""
    return _model(config).matrix_weights


def _model(config: Config) -> CharModel:
    """Build the model; symbols and dtype, not chosen yet, have no part in the figures used here."""
    return build(config.model, 1, jnp.float32)


def _context(config: Config) -> int:
    return config.model.context_length or _SHORT
