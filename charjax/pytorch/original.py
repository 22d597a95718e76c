"""The PyTorch original of a configuration's model."""

import torch
from torch import Tensor, nn

from charjax.config import ModelConfig
from charjax.pytorch.gpt import GPT
from charjax.pytorch.recurrent import RecurrentModel


class Bigram(nn.Module):
    """The table of logits of makemore.py."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros((vocab_size, vocab_size)))

    def forward(self, idx: Tensor) -> Tensor:
        """Compute logits (B, T, V) of tokens (B, T)."""
        return self.logits[idx]


def build(config: ModelConfig, vocab_size: int) -> nn.Module:
    """Build the original of a model."""
    if config.kind == "transformer":
        assert config.context_length is not None
        return GPT(
            vocab_size,
            config.context_length,
            config.n_layer,
            config.n_head,
            config.d_model,
            config.dropout,
            config.bias,
            config.tie_embeddings,
        )
    if config.kind == "bigram":
        return Bigram(vocab_size)
    # The originals of other families are only in the tests (tests/parity/originals.py).
    assert config.kind in ("rnn", "gru", "lstm")
    hidden, layers = config.d_hidden, config.n_layer
    options = {"nonlinearity": str(config.activation)} if config.kind == "rnn" else {}
    return RecurrentModel(
        config.kind, vocab_size, config.d_embed, hidden, layers, config.dropout, **options
    )
