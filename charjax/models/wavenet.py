"""The tree of pairs: the form of WaveNet that the lectures arrive at.

Letters: B batch, T time, N outputs, S history, P places of a level, E width of an embedding,
H width of a hidden layer, V vocabulary.
"""

from typing import ClassVar, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from charjax.models.contract import FiniteModel
from charjax.models.layers import ENDS, Embedding, Readout, tanh_layer
from charjax.models.roles import Parameter, Role, dense


class WaveNet(FiniteModel):
    """A causal convolution of width two and doubling dilation (van den Oord et al. 2016).

    Without gates, residuals or skips it is the network of Building makemore Part 5: a context of
    C = 2**levels characters is fused two by two, then the pairs two by two, up to one vector:

        h_0,t = E[c_t]     h_l,t = tanh([h_{l-1}, t - 2**(l-1); h_{l-1}, t] W_l + b_l)
        logits_t = h_levels,t W + b

    With norm = "batch" each level is tanh(BN(x W)), as in the lecture. Where one output is asked
    for, only the places of its own tree are computed, and only those enter the batch's
    statistics; for many outputs the trees share their places.

    Attributes:
      context_length: C, a power of two; before the start of a text stands token 0.
      d_embed: E.
      d_hidden: H of every level.
      norm: "none" or "batch".
    """

    context_length: int
    d_embed: int
    d_hidden: int
    norm: Literal["none", "batch"]
    roles: ClassVar[tuple[tuple[str, Parameter], ...]] = (
        *ENDS,
        ("level_0/kernel", dense(activation="tanh", reads_embedding=True)),
        (r"level_[1-9]\d*/kernel", dense(activation="tanh")),
        (r"(level|norm)_\d+/bias", Parameter(Role.BIAS)),
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
        one = history_BS.shape[1] == self.context_length
        embedding = Embedding(self.vocab_size, self.d_embed, name="token_embedding")
        h_BPH = embedding(history_BS)
        for level in range((self.context_length - 1).bit_length()):
            older_BPH, newer_BPH = _pairs(h_BPH, 1 if one else 2**level, 2 if one else 1)
            pair_BPD = jnp.concatenate([older_BPH, newer_BPH], axis=-1)
            names = (f"level_{level}", f"norm_{level}")
            h_BPH = tanh_layer(pair_BPD, self.d_hidden, self.dtype, self.norm, names, train=train)
        readout = Readout(self.vocab_size, bias=True, dtype=self.dtype, name="readout")
        return readout(h_BPH), cache


def _pairs(h_BPH: Array, distance: int, stride: int) -> tuple[Array, Array]:
    """Each place and the one `distance` after it, for every `stride`-th place."""
    return h_BPH[:, :-distance:stride], h_BPH[:, distance::stride]
