"""The MLP of makemore.py, and the MLP with batch norm of Building makemore.

Letters: B batch, T time, V vocabulary, C context length.
"""

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Bengio et al. 2003: the last C characters' embeddings, newest first, through tanh layers."""

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_embd: int,
        hidden: tuple[int, ...],
        blank: bool = True,
        batch_norm: bool = False,
    ):
        """Make the model.

        Args:
          vocab_size: V.
          block_size: C.
          n_embd: width of an embedding.
          hidden: widths of the hidden layers.
          blank: what stands before the start is a token of its own, <BLANK>, else token 0.
          batch_norm: between each linear layer, then without a bias, and its tanh.
        """
        super().__init__()
        self.block_size = block_size
        self.blank = vocab_size if blank else 0
        self.wte = nn.Embedding(vocab_size + blank, n_embd)
        layers: list[nn.Module] = []
        fan_in = block_size * n_embd
        for width in hidden:
            layers.append(nn.Linear(fan_in, width, bias=not batch_norm))
            if batch_norm:
                # Over batch and positions: rows of a matrix.
                layers.append(nn.BatchNorm1d(width, momentum=0.01))
            layers.append(nn.Tanh())
            fan_in = width
        self.mlp = nn.Sequential(*layers, nn.Linear(fan_in, vocab_size))

    def forward(self, idx: Tensor) -> Tensor:
        """Compute logits (B, T, V) of tokens (B, T)."""
        embs = []
        for _ in range(self.block_size):
            embs.append(self.wte(idx))
            idx = torch.roll(idx, 1, 1)
            idx[:, 0] = self.blank
        x = torch.cat(embs, -1)
        return self.mlp(x.flatten(0, 1)).view(*x.shape[:2], -1)
