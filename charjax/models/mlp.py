"""The feed-forward network over a fixed window of characters.

Letters: B batch, T time, N outputs, S history, C context length, E width of an embedding,
H width of a hidden layer, V vocabulary.
"""

from typing import ClassVar, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from charjax.models.contract import FiniteModel
from charjax.models.layers import ENDS, Embedding, Readout, tanh_layer
from charjax.models.roles import Parameter, Role, dense


class MLP(FiniteModel):
    """The neural probabilistic language model (Bengio et al. 2003), without direct connections.

    The embeddings of the last C characters side by side go through hidden layers of tanh:

        x_t = [E[c_{t-C+1}], ..., E[c_t]]     h_t = tanh(x_t W1 + b1)     logits_t = h_t W2 + b2

    With norm = "batch" each hidden layer is tanh(BN(x W)), where BN (Ioffe and Szegedy 2015)
    brings each unit to mean 0 and variance 1 over batch and positions, then scales it and adds
    a bias, for which the layer gives up its own.

    With `blank` what stands before a text is a symbol of its own, as in makemore.py, the last
    row of the table of embeddings. The tokens hold 0 there, which is also the boundary that every
    line begins with; so all that comes before the last boundary in a window is the blank.

    Attributes:
      context_length: C; before the start of a text stands token 0, or the blank.
      d_embed: width of an embedding.
      hidden: widths of the hidden layers.
      norm: "none" or "batch".
      blank: whether the blank is a symbol of its own; for texts of lines.
    """

    context_length: int
    d_embed: int
    hidden: tuple[int, ...]
    norm: Literal["none", "batch"]
    blank: bool
    roles: ClassVar[tuple[tuple[str, Parameter], ...]] = (
        *ENDS,
        ("hidden_0/kernel", dense(activation="tanh", reads_embedding=True)),
        (r"hidden_[1-9]\d*/kernel", dense(activation="tanh")),
        (r"(hidden|norm)_\d+/bias", Parameter(Role.BIAS)),
        (r"norm_\d+/scale", Parameter(Role.GAIN)),
    )

    @property
    def lookback(self) -> int:
        """C - 1."""
        return self.context_length - 1

    @nn.compact
    def __call__(
        self,
        tokens_BT: Array,
        cache: Array | None = None,
        *,
        num_outputs: int | None = None,
        train: bool = False,
    ) -> tuple[Array, Array | None]:
        """See CharModel."""
        history_BS, cache = self.read(tokens_BT, cache, num_outputs)
        N = history_BS.shape[1] - self.lookback
        symbols = self.vocab_size + self.blank
        embedding = Embedding(symbols, self.d_embed, name="token_embedding")
        readout = Readout(self.vocab_size, bias=True, dtype=self.dtype, name="readout")
        if self.blank:
            parts = [embedding(tokens_BN) for tokens_BN in self._blanked(history_BS, N)]
        else:
            # Each token is looked up once, not once for every window that it is in.
            x_BSE = embedding(history_BS)
            parts = [x_BSE[:, i : i + N] for i in range(self.context_length)]
        h_BNH = jnp.concatenate(parts, axis=-1)
        for i, width in enumerate(self.hidden):
            names = (f"hidden_{i}", f"norm_{i}")
            h_BNH = tanh_layer(h_BNH, width, self.dtype, self.norm, names, train=train)
        return readout(h_BNH), cache

    def _blanked(self, history_BS: Array, N: int) -> list[Array]:
        """The C tokens (B, N) of each output's window, the oldest first, with their blanks."""
        tokens, begun_BN = [], jnp.zeros((history_BS.shape[0], N), bool)
        for i in reversed(range(self.context_length)):
            token_BN = history_BS[:, i : i + N]
            tokens.append(jnp.where(begun_BN, self.vocab_size, token_BN))
            begun_BN |= token_BN == 0
        return tokens[::-1]
