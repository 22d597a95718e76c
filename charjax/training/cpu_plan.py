"""Decisions by the size of a step on a CPU: how the cores share it, oneDNN, the number of heaps.

Left to itself, XLA splits an operation over the cores, and they wait for each other after each.
Where every core is a device with rows of its own, they meet once a step, to add up gradients;
but then each core also does the whole update of the optimizer. So sharing the batch is worth it
for steps of many operations that are small beside the parameters (measured on two cores:
benchmarks/NOTES.md).
"""

import jax.numpy as jnp

from charjax.config import Config
from charjax.config.sections import (
    GRUConfig,
    LSTMConfig,
    MLPConfig,
    RNNConfig,
    TransformerConfig,
    WaveNetConfig,
)
from charjax.ops.choice import onednn_gradient

# Of each core in each pass; less work is over sooner than the cores have met.
_LEAST_MULTIPLICATIONS = 2 * 10**7
# Each core reads and writes all parameters; with more of them to a target that costs more.
_MOST_PARAMETERS_A_TARGET = 8192
# Temporary arrays, by the estimate below, for which there should be one heap.
_MANY_BYTES = 48 * 2**20
# A context length that is left to the text, before the text is read.
_SHORT = 64
_GATES = {RNNConfig: 1, GRUConfig: 3, LSTMConfig: 4}


def share_batch(config: Config, cores: int) -> bool:
    """Return whether each of so many cores should have a part of every batch."""
    context = config.model.context_length or _SHORT
    targets = config.train.batch_size * context
    weights = matrix_weights(config)
    return (
        cores > 1
        and config.train.batch_size % cores == 0
        and weights * targets >= _LEAST_MULTIPLICATIONS * cores
        and weights * cores <= _MOST_PARAMETERS_A_TARGET * targets
    )


def needs_one_heap(config: Config, cores: int) -> bool:
    """Return whether a call of the loop may need more temporary arrays than a thread's heap holds.

    The estimate counts the numbers per row that the backward pass needs, as XLA reports them: 24 D
    per layer of a transformer, 8 H of a recurrent network; 6 for each hidden unit otherwise.
    """
    model = config.model
    rows = config.train.batch_size * (model.context_length or _SHORT)
    if share_batch(config, cores):
        rows //= cores
    if isinstance(model, TransformerConfig):
        numbers = 24 * model.n_layer * model.d_model
    elif isinstance(model, RNNConfig | GRUConfig | LSTMConfig):
        numbers = 8 * model.n_layer * model.d_hidden
    elif isinstance(model, MLPConfig):
        # One target a window.
        rows, numbers = config.train.batch_size, 6 * sum(model.hidden)
    elif isinstance(model, WaveNetConfig):
        numbers = 6 * model.d_hidden
    else:
        numbers = 0
    return 4 * rows * numbers > _MANY_BYTES


def has_onednn_products(config: Config, devices: int) -> bool:
    """Return whether the widest gradient of a transformer's weights is large enough for oneDNN.

    Only where one device has all threads: oneDNN's wait for each other.
    """
    model = config.model
    if devices > 1 or not isinstance(model, TransformerConfig):
        return False
    rows, width = config.train.batch_size * (model.context_length or _SHORT), model.d_model
    return onednn_gradient(rows, width, 4 * width, jnp.dtype(config.runtime.dtype))


def matrix_weights(config: Config) -> int:
    """Weights in the matrices of a transformer or a recurrent network; 0 for other families."""
    model = config.model
    if isinstance(model, TransformerConfig):
        return 12 * model.n_layer * model.d_model**2
    if isinstance(model, RNNConfig | GRUConfig | LSTMConfig):
        widths = [model.d_embed] + [model.d_hidden] * (model.n_layer - 1)
        return _GATES[type(model)] * sum((D + model.d_hidden) * model.d_hidden for D in widths)
    return 0
