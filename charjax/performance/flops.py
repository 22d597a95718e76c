"""Floating-point operations of a training step, for each token, by formula.

The formulas are the models' (`charjax.models`). Counted are matrix products as the model is
written, two operations for a multiplication and an addition, and the backward pass as twice the
forward pass. Not counted: lookups, elementwise work, the optimiser, and whatever an implementation
computes again or leaves out. Attention is counted over the whole context, as PaLM (Chowdhery et
al. 2022) and nanoGPT do, though a causal model needs half of it.

Letters: V vocabulary, C window, E embedding, H hidden, G gates, L layers, D width, T context.
"""

from typing import Any


def flops_formula(kind: str) -> str:
    """Return the formula of a family, as tables show it."""
    from charjax.models import REGISTRY
    from charjax.models.own import own_family

    return (REGISTRY.get(kind) or own_family(kind)).flops_formula


def train_flops(model: Any, vocab_size: int) -> float | None:
    """Count the operations of one training step per token.

    Args:
      model: the section `model` of a resolved configuration.
      vocab_size: V.

    Returns:
      The number, or None for a family that counts.
    """
    forward = forward_flops(model, vocab_size)
    return None if forward is None else 3.0 * forward


def forward_flops(model: Any, vocab_size: int) -> float | None:
    """Count the operations of the forward pass per token; arguments as of `train_flops`."""
    from charjax.models import build

    return build(model, vocab_size, "float32").forward_flops
