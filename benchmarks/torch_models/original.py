"""The PyTorch original of a configuration's model."""

from torch import nn

from benchmarks.torch_models import mingpt
from benchmarks.torch_models.gpt import GPT
from benchmarks.torch_models.makemore import MLP, Bigram
from benchmarks.torch_models.recurrent import RecurrentModel
from charjax.config import ModelConfig


def build(config: ModelConfig, vocab_size: int) -> nn.Module:
    """Build the original of a model."""
    if config.kind == "transformer" and config.activation == "gelu_tanh":
        assert config.bias
        assert not config.tie_embeddings
        assert not config.dropout
        sizes = config.context_length, config.n_layer, config.n_head, config.d_model
        return mingpt.GPT(vocab_size, *sizes)
    if config.kind == "transformer":
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
    if config.kind == "mlp":
        batch_norm = config.norm == "batch"
        context = config.context_length
        return MLP(vocab_size, context, config.d_embed, config.hidden, config.blank, batch_norm)
    if config.kind == "bigram":
        return Bigram(vocab_size)
    # The other families have no original.
    assert config.kind in ("rnn", "gru", "lstm")
    hidden, layers = config.d_hidden, config.n_layer
    options = {"nonlinearity": config.activation} if config.kind == "rnn" else {}
    return RecurrentModel(config.kind, vocab_size, config.d_embed, hidden, layers, **options)
