"""The PyTorch original of a configuration's model."""

from torch import nn

from charjax.config import ModelConfig
from charjax.pytorch import original
from tests.parity import mingpt
from tests.parity.makemore import MLP


def build(config: ModelConfig, vocab_size: int) -> nn.Module:
    """Build the original of a model."""
    if config.kind == "transformer" and config.activation == "gelu_tanh":
        assert config.bias
        assert not config.tie_embeddings
        assert not config.dropout
        sizes = config.context_length, config.n_layer, config.n_head, config.d_model
        return mingpt.GPT(vocab_size, *sizes)
    if config.kind == "mlp":
        batch_norm = config.norm == "batch"
        context = config.context_length
        return MLP(vocab_size, context, config.d_embed, config.hidden, config.blank, batch_norm)
    return original.build(config, vocab_size)
