"""The families of models, behind one contract; `build` makes any of them from its config.

A new family is a module here with a subclass of `contract.CharModel`, an entry in `REGISTRY`, and
its settings in `charjax.config.families`. A family of the user's own comes from a file or an
installed package (`charjax.models.own`).
"""

import jax.numpy as jnp
from jax.typing import DTypeLike

from charjax.config import Config, ModelConfig
from charjax.data.tokenizers import Tokenizer
from charjax.extensions import refuse_unnamed
from charjax.models.bigram import Bigram
from charjax.models.bow import BagOfCharacters
from charjax.models.contract import CharModel
from charjax.models.min_gru import MinGRU, MinLSTM
from charjax.models.mixture import Mixture
from charjax.models.mlp import MLP
from charjax.models.ngram import NgramModel
from charjax.models.own import own_family
from charjax.models.recurrent import GRU, LSTM, RNN
from charjax.models.transformer import Transformer
from charjax.models.wavenet import WaveNet

__all__ = ["REGISTRY", "CharModel", "build", "build_model"]

REGISTRY: dict[str, type[CharModel]] = {
    "ngram": NgramModel,
    "bigram": Bigram,
    "bow": BagOfCharacters,
    "mlp": MLP,
    "wavenet": WaveNet,
    "rnn": RNN,
    "gru": GRU,
    "lstm": LSTM,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "transformer": Transformer,
}


def build(config: ModelConfig, vocab_size: int, dtype: DTypeLike) -> CharModel:
    """Make the model that a config describes: its settings are the module's attributes.

    Args:
      config: the section `model`, with context_length resolved.
      vocab_size: symbols of the tokenizer.
      dtype: of the matrix products.
    """
    family = REGISTRY.get(config.kind) or own_family(config.kind)
    settings = {
        name: value
        for name, value in config.model_dump().items()
        if name in family.__dataclass_fields__
    }
    if isinstance(activation := settings.get("activation"), str):
        refuse_unnamed("model.activation", activation)
    model = family(vocab_size=vocab_size, dtype=dtype, **settings)
    if orders := getattr(config, "counts", ()):
        names = ("folds", "auxiliary", "temperature")
        others = {name: getattr(config, f"count_{name}") for name in names}
        words = getattr(config, "count_words", 0) if model.memory == "carried" else 0
        return Mixture(vocab_size, dtype, network=model, orders=orders, words=words, **others)
    return model


def build_model(config: Config, tokenizer: Tokenizer) -> CharModel:
    """Make the model of a whole config and its tokenizer; in float32 until "auto" is chosen."""
    dtype = "float32" if config.runtime.dtype == "auto" else config.runtime.dtype
    return build(config.model, tokenizer.vocab_size, jnp.dtype(dtype))
