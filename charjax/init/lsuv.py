"""Layer-sequential unit variance: kernels scaled until their outputs have variance 1.

Letters: B batch, S inputs, K kernels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

Layer = tuple[str, ...]


def unit_variance(model: Any, variables: Any, inputs_BS: Array, num_outputs: int) -> Any:
    """Scale the kernels (Mishkin and Matas 2016, arXiv:1511.06422), for biases that are 0.

    Layer after layer, in the order in which they are computed, W <- W / std(output). As an output
    is linear in its kernel, one pass gives variance 1, and the paper's loop would end after it.

    Args:
      model: a CharModel.
      variables: its parameters and other collections.
      inputs_BS: a batch.
      num_outputs: N, as the batch has targets.

    Returns:
      The parameters, scaled.
    """
    flat = flatten_dict(variables["params"])
    layers, outputs = layers_of(model, variables, inputs_BS, num_outputs)

    def deviations(params: Any) -> Array:
        """Return the standard deviation of every layer's output, (K,)."""
        return jnp.stack([_std(output) for output in outputs(params)])

    def scale(index: Array, flat: dict[tuple[str, ...], Array]) -> dict[tuple[str, ...], Array]:
        std = deviations(unflatten_dict(flat))[index]
        return flat | {
            (*layer, "kernel"): jnp.where(index == k, 1 / std, 1.0) * flat[*layer, "kernel"]
            for k, layer in enumerate(layers)
        }

    return unflatten_dict(jax.lax.fori_loop(0, len(layers), scale, flat))


def layers_of(
    model: Any, variables: Any, inputs_BS: Array, num_outputs: int
) -> tuple[list[Layer], Callable[[Any], list[Array]]]:
    """Find the modules that have a kernel, and their outputs.

    Args:
      model: a CharModel.
      variables: its parameters and other collections.
      inputs_BS: a batch.
      num_outputs: N, as the batch has targets.

    Returns:
      The modules' paths in the order in which they are computed, and the function from parameters
      to their outputs.
    """
    flat = flatten_dict(variables["params"])
    others = {name: tree for name, tree in variables.items() if name != "params"}
    layers: list[Layer] = []

    def is_layer(module: nn.Module, method: str) -> bool:
        has_kernel = method == "__call__" and (*module.path, "kernel") in flat
        if has_kernel and module.path not in layers:
            layers.append(module.path)
        return has_kernel

    def outputs(params: Any) -> list[Array]:
        _, caught = model.apply(
            {"params": params, **others},
            inputs_BS,
            num_outputs=num_outputs,
            # With batch norm, the statistics are this batch's.
            train="batch_stats" in others,
            capture_intermediates=is_layer,
            mutable=[*others, "intermediates"],
        )
        found = flatten_dict(caught["intermediates"])
        return [found[*layer, "__call__"][0] for layer in layers]

    jax.eval_shape(outputs, variables["params"])  # finds the layers
    return layers, outputs


def _std(output: Array) -> Array:
    # Never zero: an output that is constant over a batch is not scaled to infinity.
    return jnp.maximum(jnp.std(output.astype(jnp.float32)), 1e-8)
