"""Families without a PyTorch original, as PyTorch functions of charjax's parameters.

Letters: B batch, T time, E width of an embedding, H width of a hidden layer, V vocabulary.
"""

import torch
from torch import Tensor, nn

from charjax.config.families import BowConfig, WaveNetConfig


class Functional(nn.Module):
    """A PyTorch model whose parameters have charjax's paths and shapes."""

    def __init__(self, config: BowConfig | WaveNetConfig, vocab_size: int):
        super().__init__()
        self.config = config
        E = config.d_embed
        shapes: dict[str, tuple[int, ...]] = {"token_embedding/embedding": (vocab_size, E)}
        width = E
        if isinstance(config, WaveNetConfig):
            for level in range((config.context_length - 1).bit_length()):
                shapes |= _linear(f"level_{level}", 2 * width, config.d_hidden)
                width = config.d_hidden
        shapes |= _linear("readout", width, vocab_size)
        self.of = nn.ParameterDict({path: torch.empty(shape) for path, shape in shapes.items()})

    def forward(self, idx: Tensor) -> Tensor:
        """Map tokens (B, T) to logits (B, T, V)."""
        if isinstance(self.config, WaveNetConfig):
            h = self._wavenet(idx)
        else:
            x_BTE = self.of["token_embedding/embedding"][idx]
            lengths_T = torch.arange(1, idx.shape[1] + 1)
            h = x_BTE.cumsum(1) / lengths_T[:, None]
        return self._apply_linear("readout", h)

    def _wavenet(self, idx: Tensor) -> Tensor:
        """Pad the text with token 0 on the left."""
        before = self.config.context_length - 1
        h_BPH = self.of["token_embedding/embedding"][nn.functional.pad(idx, (before, 0))]
        for level in range(before.bit_length()):
            distance = 2**level
            pair = torch.cat([h_BPH[:, :-distance], h_BPH[:, distance:]], -1)
            h_BPH = torch.tanh(self._apply_linear(f"level_{level}", pair))
        return h_BPH

    def _apply_linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.of[f"{name}/kernel"] + self.of[f"{name}/bias"]


def _linear(name: str, fan_in: int, fan_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/kernel": (fan_in, fan_out), f"{name}/bias": (fan_out,)}
