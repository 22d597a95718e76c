"""A GRU's scan written in several ways, from the plainest to one with a derivative of its own.

Each variant is `layer(x_TBD, weights) -> h_TBH`, begins at zero and computes the same function.
Letters: T time, B batch, D width of the input, H width of the state, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks import gru_kernel
from charjax.ops.gates import gru_gates
from charjax.ops.recurrence import recurrence
from charjax.training.step import cross_entropy


class Weights(NamedTuple):
    """A layer's: (D, 3H), (H, 3H), (3H,) and (3H,), the gates in the order r, z, n."""

    input_kernel: Array
    hidden_kernel: Array
    input_bias: Array
    hidden_bias: Array


Layer = Callable[[Array, Weights], Array]


def plain(x_TBD: Array, weights: Weights) -> Array:
    """The equations as they stand: six products a step."""
    wi, wh, bi, bh = (jnp.split(w, 3, axis=-1) for w in weights)

    def step(h: Array, x: Array) -> tuple[Array, Array]:
        r = jax.nn.sigmoid(x @ wi[0] + bi[0] + h @ wh[0] + bh[0])
        z = jax.nn.sigmoid(x @ wi[1] + bi[1] + h @ wh[1] + bh[1])
        n = jnp.tanh(x @ wi[2] + bi[2] + r * (h @ wh[2] + bh[2]))
        h = (1 - z) * n + z * h
        return h, h

    return lax.scan(step, _zero(x_TBD, weights), x_TBD)[1]


def fused(x_TBD: Array, weights: Weights) -> Array:
    """The gates side by side: two products a step."""

    def step(h: Array, x: Array) -> tuple[Array, Array]:
        x_gates = x @ weights.input_kernel + weights.input_bias
        h = _update(x_gates, h @ weights.hidden_kernel + weights.hidden_bias, h)
        return h, h

    return lax.scan(step, _zero(x_TBD, weights), x_TBD)[1]


def hoisted(x_TBD: Array, weights: Weights) -> Array:
    """The input's product before the scan, for all times at once: one product a step."""

    def step(h: Array, x_gates: Array) -> tuple[Array, Array]:
        h = _update(x_gates, h @ weights.hidden_kernel + weights.hidden_bias, h)
        return h, h

    return lax.scan(step, _zero(x_TBD, weights), _project(x_TBD, weights))[1]


def derived(x_TBD: Array, weights: Weights, unroll: int = 1) -> Array:
    """Also charjax's op, whose derivative is its own: of the weights' gradient one product."""
    x_TBG, h0 = _project(x_TBD, weights), _zero(x_TBD, weights)
    kernel, bias = weights.hidden_kernel, weights.hidden_bias
    _, h_TBH = recurrence(gru_gates, x_TBD.dtype, unroll, (h0,), x_TBG, None, kernel, bias)
    return h_TBH


def kernel(x_TBD: Array, weights: Weights) -> Array:
    """Each step, forward or backward, one kernel of our own."""
    x_TBG, h0 = _project(x_TBD, weights), _zero(x_TBD, weights)
    return gru_kernel.scan(False, x_TBG, weights.hidden_kernel, weights.hidden_bias, h0)


VARIANTS: dict[str, Layer] = {
    "plain scan": plain,
    "fused gates": fused,
    "hoisted projection": hoisted,
    "custom derivative": derived,
}
# A turn of a loop is a few launches, so several steps in one may tell; the kernel is for a GPU.
GPU_VARIANTS: dict[str, Layer] = {
    "kernel": kernel,
    "custom derivative, 8 steps a turn": functools.partial(derived, unroll=8),
}


def loss(
    layer: Layer, params: dict[str, Any], n_layer: int, inputs: Array, targets: Array
) -> Array:
    """The mean loss of a whole model whose parameters are charjax's GRU's."""
    x_TBD = params["token_embedding"]["embedding"][inputs.T]
    for i in range(n_layer):
        cell = params[f"cell_{i}"]
        x_TBD = layer(x_TBD, Weights(*(cell[name] for name in Weights._fields)))
    readout = params["readout"]
    flat = x_TBD.reshape(-1, x_TBD.shape[-1]) @ readout["kernel"] + readout["bias"]
    return jnp.mean(cross_entropy(flat, targets.T.reshape(-1)))


def _zero(x_TBD: Array, weights: Weights) -> Array:
    return jnp.zeros((x_TBD.shape[1], weights.hidden_kernel.shape[0]), x_TBD.dtype)


def _project(x_TBD: Array, weights: Weights) -> Array:
    T, B, D = x_TBD.shape
    flat = x_TBD.reshape(T * B, D) @ weights.input_kernel + weights.input_bias
    return flat.reshape(T, B, -1)


def _update(x_gates: Array, a_gates: Array, h: Array) -> Array:
    (x_r, x_z, x_n), (a_r, a_z, a_n) = (jnp.split(g, 3, axis=-1) for g in (x_gates, a_gates))
    r, z = jax.nn.sigmoid(x_r + a_r), jax.nn.sigmoid(x_z + a_z)
    n = jnp.tanh(x_n + r * a_n)
    return (1 - z) * n + z * h
