"""The families of models, behind one contract; `build` makes any of them from its config."""

import jax.numpy as jnp
from jax.typing import DTypeLike

from charjax.config import Config, ModelConfig
from charjax.data.tokenizers import Tokenizer
from charjax.models.bigram import Bigram
from charjax.models.bow import BagOfCharacters
from charjax.models.contract import CharModel
from charjax.models.mlp import MLP
from charjax.models.ngram import NgramModel
from charjax.models.recurrent import GRU, LSTM, RNN
from charjax.models.transformer import Transformer
from charjax.models.wavenet import WaveNet

__all__ = ["CharModel", "build", "build_model"]

_REGISTRY: dict[str, type[CharModel]] = {
    "ngram": NgramModel,
    "bigram": Bigram,
    "bow": BagOfCharacters,
    "mlp": MLP,
    "wavenet": WaveNet,
    "rnn": RNN,
    "gru": GRU,
    "lstm": LSTM,
    "transformer": Transformer,
}


def build(config: ModelConfig, vocab_size: int, dtype: DTypeLike) -> CharModel:
    """The model that a config describes: its settings are the module's attributes.

    Args:
      config: the section `model`, with context_length resolved.
      vocab_size: symbols of the tokenizer.
      dtype: of the compute.
    """
    family = _REGISTRY[config.kind]
    settings = {
        name: value
        for name, value in config.model_dump().items()
        if name in family.__dataclass_fields__
    }
    return family(vocab_size=vocab_size, dtype=dtype, **settings)


def build_model(config: Config, tokenizer: Tokenizer) -> CharModel:
    """The module that a config and an alphabet describe."""
    return build(config.model, tokenizer.vocab_size, jnp.dtype(config.runtime.dtype))
