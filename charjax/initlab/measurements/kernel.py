"""The empirical neural tangent kernel, against that of the start.

Letters: I contexts, V vocabulary, N parameters.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from charjax.initlab.measurements.moment import Moment, moved, step_sizes
from charjax.training.state import TrainState

# The first rows of the first batch.
CONTEXTS = 8


def ntk(moment: Moment) -> dict[str, Array]:
    """Compare the kernel of the contexts' last logits with that at step 0.

    K(x, y) is the sum over logits of the products of their gradients, the trace of the neural
    tangent kernel (Jacot et al. 2018, arXiv:1806.07572) over the outputs, in the parameters of
    `step_sizes`. Batch norm has its running statistics.

    Returns:
      ntk_distance: |K - K0| / |K0| (Frobenius); ntk_alignment: <K, K0> / (|K| |K0|), 1 less the
      kernel distance of Fort et al. 2020 (arXiv:2010.15110).
    """
    inputs_IS = moment.first.inputs[:CONTEXTS]
    # One after the other: compiled once, and the memory of one.
    states = jax.tree.map(lambda *x: jnp.stack(x), moment.initial, moment.state)
    start_II, now_II = jax.lax.map(
        functools.partial(tangent_kernel, moment.model, inputs_IS=inputs_IS), states
    )
    norms = jnp.linalg.norm(start_II), jnp.linalg.norm(now_II)
    return {
        "ntk_distance": jnp.linalg.norm(now_II - start_II) / norms[0],
        "ntk_alignment": jnp.sum(start_II * now_II) / (norms[0] * norms[1]),
    }


def tangent_kernel(model: Any, state: TrainState, inputs_IS: Array) -> Array:
    """Return the kernel of some contexts, (I, I) float32; for use in jit.

    Args:
      model: without dropout.
      state: the parameters.
      inputs_IS: tokens; the logits after the last ones count.
    """
    sizes, zeros = step_sizes(state), jax.tree.map(jnp.zeros_like, state.params)

    def logits(moves: Any, inputs_S: Array) -> Array:
        variables = moved(state, sizes, moves)
        return model.apply(variables, inputs_S[None], num_outputs=1, train=False)[0][0, 0]

    def add(index: Array, kernel_II: Array) -> Array:
        def gradient(inputs_S: Array) -> Array:
            return ravel_pytree(jax.grad(lambda m: logits(m, inputs_S)[index])(zeros))[0]

        gradients_IN = jax.lax.map(gradient, inputs_IS)
        return kernel_II + gradients_IN @ gradients_IN.T

    I = inputs_IS.shape[0]  # noqa: E741
    return jax.lax.fori_loop(0, model.vocab_size, add, jnp.zeros((I, I), jnp.float32))
