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
    """The logits processors, in the order in which they are applied; constants of the program.

    Attributes:
      temperature: divides the logits.
      top_k: leaves only the k likeliest symbols (of equal ones, those of lower index).
      top_p: leaves only the smallest set of likeliest symbols whose probability, among those left
        by top_k, is at least p (nucleus sampling, Holtzman et al. 2020). The probabilities and
        their sums are computed in float64.
      greedy: takes the likeliest symbol always, and ignores the others.

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
                "the likeliest character every time, use greedy)"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k: {self.top_k} given; it must be a whole number of at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p: {self.top_p} given; it must be above 0 and at most 1")


def choose(logits_BV: Array, keys_B: Array, index: Array, settings: Sampling) -> Array:
    """Draw each sample's token at index `index` of its text: (B,) int32."""
    if settings.greedy:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = process(logits_BV, settings)
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, index)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def process(logits_BV: Array, settings: Sampling) -> Array:
    """Return the logits to draw from, (B, V) float32: -inf for every excluded symbol."""
    if settings.temperature != 1:
        # Subtracting the largest first keeps every temperature above 0 from overflowing.
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

    A symbol is among them while the probability of those before it is below p. Computed in float64:
    sums in float32 are off by 1e-7, which near p = 1 is the probability of many symbols.
    """
    # A positive p must not be flushed to zero: the likeliest symbol is always among them.
    top_p = max(top_p, float(np.finfo(np.float64).tiny))
    with jax.enable_x64(True):
        probabilities_BV = jax.nn.softmax(sorted_BV.astype(jnp.float64))
        likelier_BV = _cumulative(probabilities_BV) - probabilities_BV
        return likelier_BV < np.float64(top_p)


def _cumulative(x_BV: Array) -> Array:
    """Return the cumulative sums of the rows, added from left to right on a CPU, as NumPy does.

    Another order rounds differently, which matters where a sum equals p. On a GPU, XLA's parallel
    order is used: it is far faster.
    """
    if not on_cpu():
        return jnp.cumsum(x_BV, axis=-1)

    def add(sum_B: Array, x_B: Array) -> tuple[Array, Array]:
        sum_B = sum_B + x_B
        return sum_B, sum_B

    _, sums_VB = jax.lax.scan(add, jnp.zeros_like(x_BV[:, 0]), x_BV.T)
    return sums_VB.T
