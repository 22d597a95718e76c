"""A file of a user's own: a scheme, an optimiser, an activation and a family."""

from pathlib import Path

SOURCE = '''\
import jax.numpy as jnp
import optax
from flax import linen as nn

from charjax.init import Scheme, rules_for
from charjax.init.draws import EmbeddingNormal, FanInNormal
from charjax.models.contract import FiniteModel
from charjax.models.layers import ENDS, Embedding, Linear, Readout
from charjax.models.roles import Parameter, Role, dense
from charjax.models.taps import LOGITS, input_of, layer_of, output_of, tap_at


def scheme(init):
    return Scheme("mine", rules_for(FanInNormal(init.std or 0.7), embedding=EmbeddingNormal()))


def make(optim):
    return optax.scale_by_lion(b1=optim.beta1, b2=optim.beta2)


def act(x):
    return jnp.sin(x) + 0.3 * x


class Pair(FiniteModel):
    """The last two characters, through a hidden layer."""

    d_embed: int = 8
    d_hidden: int = 16
    roles = (
        *ENDS,
        ("hidden/kernel", dense(activation="tanh")),
        ("hidden/bias", Parameter(Role.BIAS)),
    )

    @property
    def lookback(self):
        return 1

    def taps(self):
        hidden = layer_of(self.roles, "hidden/kernel", reads="previous")
        return (
            tap_at(layer_of(self.roles, "token_embedding/embedding"), input_of("hidden")),
            tap_at(hidden, input_of("readout"), output_of("hidden")),
            tap_at(layer_of(self.roles, "readout/kernel", reads="previous"), LOGITS),
        )

    @nn.compact
    def __call__(self, tokens_BT, cache=None, *, num_outputs=None, train=False):
        history_BS, cache = self.read(tokens_BT, cache, num_outputs)
        x_BSE = Embedding(self.vocab_size, self.d_embed, name="token_embedding")(history_BS)
        pair_BND = jnp.concatenate([x_BSE[:, :-1], x_BSE[:, 1:]], axis=-1)
        h_BNH = jnp.tanh(Linear(self.d_hidden, True, self.dtype, name="hidden")(pair_BND))
        return Readout(self.vocab_size, True, self.dtype, name="readout")(h_BNH), cache
'''


def write(folder: Path, *changes: tuple[str, str], name: str = "mine.py", extra: str = "") -> Path:
    """Write the file, with parts of its source replaced and others appended."""
    source = SOURCE
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new, 1)
    path = folder / name
    path.write_text(source + extra, encoding="utf-8")
    return path
