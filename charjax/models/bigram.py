"""The bigram: a table of logits, one row for each character.

Letters: B batch, T time, N outputs, V vocabulary.
"""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from charjax.models.contract import FiniteModel
from charjax.models.layers import EMBEDDING
from charjax.models.roles import Roles
from charjax.models.taps import LOGITS, Tap, layer_of, tap_at


class Bigram(FiniteModel):
    """The next character given this one, by gradient descent (Karpathy, "building makemore").

    With x_t the one-hot vector of the character at t and W a (V, V) table:

        logits_t = x_t W         p(next = v) = exp(logits_tv) / sum_u exp(logits_tu)

    The lowest loss is that of the normalised counts. The product with a one-hot vector is a
    lookup, so that is what is computed, and in float32 whatever the dtype.
    """

    # It is both first layer and readout. It counts as an embedding: it is looked up, and PyTorch's
    # bigram (nn.Embedding(V, V) in the lecture on GPT) is drawn as one.
    roles: ClassVar[Roles] = (("logits", EMBEDDING),)
    flops_formula: ClassVar[str] = "0 (a lookup, no products)"

    @property
    def forward_flops(self) -> float:
        """0: there are no products."""
        return 0.0

    def taps(self) -> tuple[Tap, ...]:
        """Describe the table."""
        return (tap_at(layer_of(self.roles, "logits", "logits", reads="table"), LOGITS),)

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
        history_BN, cache = self.read(tokens_BT, cache, num_outputs)
        shape = (self.vocab_size, self.vocab_size)
        table_VV = self.param("logits", nn.initializers.lecun_normal(), shape, jnp.float32)
        return table_VV[history_BN], cache
