"""The MLP of Building makemore Part 2 and Part 3: an embedding, a hidden layer, one target a row.

Letters: B batch, C context length, N characters.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class LectureMLP(nn.Module):
    """Contexts (B, C) to logits (B, V)."""

    def __init__(self, vocab_size: int, context_length: int, d_embed: int, hidden: int):
        super().__init__()
        self.C = nn.Embedding(vocab_size, d_embed)
        self.hidden = nn.Linear(context_length * d_embed, hidden)
        self.out = nn.Linear(hidden, vocab_size)

    @staticmethod
    def holding(params: dict[str, Any]) -> "LectureMLP":
        """The network with charjax's parameters."""
        table, w1, w2 = (
            params["token_embedding"]["embedding"],
            params["hidden_0"]["kernel"],
            params["readout"]["kernel"],
        )
        context_length = w1.shape[0] // table.shape[1]
        model = LectureMLP(table.shape[0], context_length, table.shape[1], w1.shape[1])
        held = {
            "C.weight": table,
            "hidden.weight": w1.T,
            "hidden.bias": params["hidden_0"]["bias"],
            "out.weight": w2.T,
            "out.bias": params["readout"]["bias"],
        }
        model.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in held.items()})
        return model

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the character after each context."""
        return self.out(torch.tanh(self.hidden(self.C(x).flatten(1))))


def contexts_of(tokens: np.ndarray, context_length: int) -> tuple[np.ndarray, np.ndarray]:
    """All (context, target) pairs of lines that token 0 parts: (N - 1, C) and (N - 1,) int64."""
    contexts = np.zeros((len(tokens) - 1, context_length), np.int64)
    seen = np.zeros(context_length, np.int64)
    for place, token in enumerate(tokens[:-1].tolist()):
        seen = np.append(seen[1:], token) if token else np.zeros(context_length, np.int64)
        contexts[place] = seen
    return contexts, tokens[1:].astype(np.int64)
