"""Floating-point operations of a training step, for each token, by formula.

Counted are matrix products as the model is written, two operations for a multiplication and an
addition, and the backward pass as twice the forward pass. Not counted: lookups, elementwise work,
the optimiser, and whatever an implementation does again or manages to leave out. Attention is
counted over the whole context, as PaLM (Chowdhery et al. 2022) and nanoGPT do, though
a causal model needs half of it.

Letters: V vocabulary, C window, E embedding, H hidden, G gates, L layers, D width, T context.
"""

import itertools
from typing import Any

# What the formulas are called where they are shown.
FORMULAS = {
    "bigram": "0 (a lookup, no products)",
    "bow": "3 x 2 E V",
    "mlp": "3 x 2 (C E H + H H' + ... + H V)",
    "wavenet": "3 x 2 (2 E H + (levels - 1) 2 H H + H V): each place once, shared by the targets",
    "rnn": "3 x 2 (sum over L of G (D_in H + H H) + H V), G = 1",
    "gru": "3 x 2 (sum over L of G (D_in H + H H) + H V), G = 3",
    "lstm": "3 x 2 (sum over L of G (D_in H + H H) + H V), G = 4",
    "transformer": "3 x (2 (12 L D D + D V) + 4 L T D)",
}
_GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def train_flops(model: Any, vocab_size: int) -> float | None:
    """Operations a token of one training step.

    Args:
      model: the section `model` of a resolved configuration.
      vocab_size: V.

    Returns:
      The number, or None for a family without a formula here.
    """
    forward = forward_flops(model, vocab_size)
    return None if forward is None else 3.0 * forward


def forward_flops(model: Any, vocab_size: int) -> float | None:
    """The same of the forward pass alone."""
    V, kind = vocab_size, model.kind
    if kind == "bigram":
        return 0.0
    if kind == "bow":
        return 2.0 * model.d_embed * V
    if kind == "mlp":
        widths = [model.context_length * model.d_embed, *model.hidden, V]
        return 2.0 * sum(a * b for a, b in itertools.pairwise(widths))
    if kind == "wavenet":
        H, levels = model.d_hidden, (model.context_length - 1).bit_length()
        return 2.0 * (2 * model.d_embed * H + (levels - 1) * 2 * H * H + H * V)
    if kind in _GATES:
        G, H = _GATES[kind], model.d_hidden
        inputs = [model.d_embed] + [H] * (model.n_layer - 1)
        return 2.0 * (sum(G * (D * H + H * H) for D in inputs) + H * V)
    if kind == "transformer":
        L, D, T = model.n_layer, model.d_model, model.context_length
        return 2.0 * (12 * L * D * D + D * V) + 4.0 * L * T * D
    return None
