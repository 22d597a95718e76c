"""From logits to a token: the penalty of repetitions, temperature, top-k, top-p, ..., the draw.

The order is that of transformers' `generate`, and so is what each of them leaves (tests/parity).

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
      greedy: takes the likeliest symbol always, and ignores the others but repetition_penalty.
      min_p: leaves only symbols at least min_p times as likely as the likeliest (Nguyen et al.
        2024, arXiv:2407.01082); 0 leaves all.
      typical_p: leaves only the symbols whose surprise is nearest the entropy, as many as have the
        probability p (Meister et al. 2022, arXiv:2202.00666), and those as near as the last of
        them; of the ones left by all before. 1 leaves all.
      repetition_penalty: divides the logits above 0 of symbols that stand in the text, prompt
        included, and multiplies those below 0, before anything else (Keskar et al. 2019,
        arXiv:1909.05858); 1 leaves them.

    Raises:
      UserError: a number out of its bounds.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0

    @property
    def reads_text(self) -> bool:
        """The draw depends on the symbols that stand in the text, beside the logits."""
        return self.repetition_penalty != 1

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
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min-p: {self.min_p} given; it must be from 0 to 1")
        if self.typical_p is not None and not 0 < self.typical_p <= 1:
            raise UserError(f"typical-p: {self.typical_p} given; it must be above 0 and at most 1")
        penalty = self.repetition_penalty
        if not (math.isfinite(penalty) and penalty > 0):
            raise UserError(
                f"repetition-penalty: {penalty} given; it must be a finite number above 0 (above 1 "
                "makes repetitions rarer, 1 leaves them)"
            )


def choose(
    logits_BV: Array,
    keys_B: Array,
    index: Array,
    settings: Sampling,
    seen_BV: Array | None = None,
) -> Array:
    """Draw each sample's token at index `index` of its text: (B,) int32.

    Args:
      logits_BV: of the next symbol.
      keys_B: of the samples.
      index: of the token.
      settings: the processors.
      seen_BV: bool, the symbols that stand in each text; needed if the settings read the text.
    """
    if settings.reads_text:
        assert seen_BV is not None
        logits_BV = penalised(logits_BV, seen_BV, settings.repetition_penalty)
    if settings.greedy:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = process(logits_BV, settings)
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, index)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def penalised(logits_BV: Array, seen_BV: Array, penalty: float) -> Array:
    """Return the logits, those of symbols in the text divided or multiplied by the penalty."""
    bounds = np.finfo(np.float32)
    factor = np.float32(min(max(penalty, float(bounds.tiny)), float(bounds.max)))
    changed_BV = jnp.where(logits_BV < 0, logits_BV * factor, logits_BV / factor)
    # Finite, so that there is a likeliest symbol even if all are in the text.
    return jnp.where(seen_BV, jnp.clip(changed_BV, bounds.min, bounds.max), logits_BV)


def process(logits_BV: Array, settings: Sampling) -> Array:
    """Return the logits to draw from, (B, V) float32: -inf for every excluded symbol.

    The repetition penalty, which needs the text, is `penalised`.
    """
    if settings.temperature != 1:
        # Subtracting the largest first keeps every temperature above 0 from overflowing.
        bounds = np.finfo(np.float32)
        temperature = min(max(settings.temperature, float(bounds.tiny)), float(bounds.max))
        logits_BV = (logits_BV - logits_BV.max(axis=-1, keepdims=True)) / np.float32(temperature)
    V = logits_BV.shape[-1]
    top_k = V if settings.top_k is None else settings.top_k
    top_p = 1.0 if settings.top_p is None else settings.top_p
    if top_k < V or top_p < 1:
        logits_BV = _likeliest(logits_BV, top_k, top_p)
    if settings.min_p:
        logits_BV = jnp.where(_above_min_p(logits_BV, settings.min_p), logits_BV, -jnp.inf)
    if settings.typical_p not in (None, 1):
        logits_BV = jnp.where(_is_typical(logits_BV, settings.typical_p), logits_BV, -jnp.inf)
    return logits_BV


def _likeliest(logits_BV: Array, top_k: int, top_p: float) -> Array:
    """Return the logits that top-k and top-p leave, -inf for the others."""
    V = logits_BV.shape[-1]
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


def _above_min_p(logits_BV: Array, min_p: float) -> Array:
    """Return which symbols (B, V) are at least min_p times as likely as the likeliest."""
    with jax.enable_x64(True):
        logits_BV = logits_BV.astype(jnp.float64)
        ratio_BV = jnp.exp(logits_BV - logits_BV.max(axis=-1, keepdims=True))
        return ratio_BV >= np.float64(min_p)


def _is_typical(logits_BV: Array, typical_p: float | None) -> Array:
    """Return which symbols (B, V) have a surprise near enough to the entropy.

    Those of lesser distance have, together, less than typical_p. Symbols at one distance are
    in or out together.
    """
    with jax.enable_x64(True):
        logs_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float64), axis=-1)
        p_BV = jnp.exp(logs_BV)
        entropy_B1 = -jnp.sum(jnp.where(p_BV > 0, p_BV * logs_BV, 0.0), axis=-1, keepdims=True)
        distance_BV = jnp.abs(-logs_BV - entropy_B1)
        order_BV = jnp.argsort(distance_BV, axis=-1, stable=True)
        sums_BV = _cumulative(jnp.take_along_axis(p_BV, order_BV, axis=-1))
        count_B1 = jnp.sum(sums_BV < np.float64(typical_p or 1), axis=-1, keepdims=True)
        last_B1 = jnp.minimum(count_B1, logits_BV.shape[-1] - 1)
        farthest_B1 = jnp.take_along_axis(
            jnp.take_along_axis(distance_BV, order_BV, axis=-1), last_B1, axis=-1
        )
        return distance_BV <= farthest_B1


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
