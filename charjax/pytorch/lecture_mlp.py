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
        """Build the network with charjax's parameters."""
        table, w1, w2 = (
            params["token_embedding"]["embedding"],
            params["hidden_0"]["kernel"],
            params["readout"]["kernel"],
        )
        context_length = w1.shape[0] // table.shape[1]
        model = LectureMLP(table.shape[0], context_length, table.shape[1], w1.shape[1])
        tensors = {
            "C.weight": table,
            "hidden.weight": w1.T,
            "hidden.bias": params["hidden_0"]["bias"],
            "out.weight": w2.T,
            "out.bias": params["readout"]["bias"],
        }
        model.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in tensors.items()})
        return model

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, V) of the character after each context."""
        return self.out(torch.tanh(self.hidden(self.C(x).flatten(1))))


def contexts_of(tokens: np.ndarray, context_length: int) -> tuple[np.ndarray, np.ndarray]:
    """List all contexts (N - 1, C) and targets (N - 1,), int64, of lines separated by token 0."""
    contexts = np.zeros((len(tokens) - 1, context_length), np.int64)
    context = np.zeros(context_length, np.int64)
    for place, token in enumerate(tokens[:-1].tolist()):
        context = np.append(context[1:], token) if token else np.zeros(context_length, np.int64)
        contexts[place] = context
    return contexts, tokens[1:].astype(np.int64)
