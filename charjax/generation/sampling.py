"""From logits to a token: temperature, top-k, top-p, and the draw.

Shapes: B samples, V symbols.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax.errors import UserError
from charjax.ops.choice import on_cpu


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits; fixed when the loop is compiled.

    The processors follow one another in this order; one that is not asked for is not there.

    Attributes:
      temperature: what the logits are divided by.
      top_k: only the k likeliest symbols are left (equal ones: the lower index first).
      top_p: only the smallest set of likeliest symbols whose probability, among those left, is at
        least p (nucleus sampling, Holtzman et al. 2020). The probabilities and their sums are in
        float64, of the float32 logits as the temperature and top_k leave them.
      greedy: the likeliest symbol, always; the others are then not used.

    Raises:
      UserError: a number out of its bounds.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UserError(
                f"temperature: {self.temperature} given; it must be a finite number above 0 (for "
                "the likeliest character every time, ask for greedy)"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k: {self.top_k} given; it must be a whole number of at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p: {self.top_p} given; it must lie above 0 and be at most 1")


def choose(logits_BV: Array, keys_B: Array, index: Array, settings: Sampling) -> Array:
    """The tokens (B,) int32 at this index of each sample's text."""
    if settings.greedy:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = process(logits_BV, settings)
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, index)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def process(logits_BV: Array, settings: Sampling) -> Array:
    """The logits (B, V) float32 to draw from: -inf for every symbol that is left out."""
    if settings.temperature != 1:
        # The largest becomes 0 first, so that no temperature above 0 overflows.
        bounds = np.finfo(np.float32)
        temperature = min(max(settings.temperature, float(bounds.tiny)), float(bounds.max))
        logits_BV = (logits_BV - logits_BV.max(axis=-1, keepdims=True)) / np.float32(temperature)
    V = logits_BV.shape[-1]
    top_k = V if settings.top_k is None else settings.top_k
    top_p = 1.0 if settings.top_p is None else settings.top_p
    if top_k >= V and top_p == 1:
        return logits_BV
    order_BV = jnp.argsort(-logits_BV, axis=-1, stable=True)
    sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    if top_k < V:
        sorted_BV = jnp.where(jnp.arange(V) < top_k, sorted_BV, -jnp.inf)
    if top_p < 1:
        sorted_BV = jnp.where(_in_nucleus(sorted_BV, top_p), sorted_BV, -jnp.inf)
    return jnp.take_along_axis(sorted_BV, jnp.argsort(order_BV, axis=-1), axis=-1)


def _in_nucleus(sorted_BV: Array, top_p: float) -> Array:
    """Return which logits (B, V), sorted from the largest, are among the top-p.

    A symbol is kept while the probability of those before it is below p. All of it is computed in
    float64: sums in float32 are off by 1e-7, which near p = 1 is the probability of many symbols.
    """
    # No positive p is flushed to zero, and so the likeliest symbol is always kept.
    top_p = max(top_p, float(np.finfo(np.float64).tiny))
    with jax.enable_x64(True):
        probabilities_BV = jax.nn.softmax(sorted_BV.astype(jnp.float64))
        likelier_BV = _cumulative(probabilities_BV) - probabilities_BV
        return likelier_BV < np.float64(top_p)


def _cumulative(x_BV: Array) -> Array:
    """Sum from the first column up to each, one after the other on a CPU, as NumPy does.

    Another order rounds otherwise, which shows where a sum is p exactly. On a GPU, XLA's parallel
    order is far faster.
    """
    if not on_cpu():
        return jnp.cumsum(x_BV, axis=-1)

    def add(sum_B: Array, x_B: Array) -> tuple[Array, Array]:
        sum_B = sum_B + x_B
        return sum_B, sum_B

    _, sums_VB = jax.lax.scan(add, jnp.zeros_like(x_BV[:, 0]), x_BV.T)
    return sums_VB.T
