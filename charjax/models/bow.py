"""The bag of characters: the average of the embeddings so far, whatever their order.

Letters: B batch, T time, N outputs, E width of an embedding, V vocabulary.
"""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from charjax.models.contract import CharModel, Memory, check_window
from charjax.models.layers import ENDS, Embedding, Readout
from charjax.models.roles import Roles
from charjax.models.taps import LOGITS, Tap, bare_layer, input_of, layer_of, output_of, tap_at
from charjax.ops.precision import wide_dtype


class BagCache(NamedTuple):
    """The sum of the embeddings so far, (B, E) float32, and their number, int32."""

    sum_BE: Array
    length: Array


class BagOfCharacters(CharModel):
    """A causal average of embeddings (the "bag of words" of Karpathy's makemore).

    It is attention with equal weights, without a layer between the average and the readout, as
    in the continuous bag of words of Mikolov et al. 2013:

        h_t = (1 / t) sum_{i <= t} E[x_i]        logits_t = h_t W + b

    Attributes:
      context_length: the most characters averaged.
      d_embed: width of an embedding.
    """

    context_length: int
    d_embed: int
    memory: ClassVar[Memory] = "windowed"
    roles: ClassVar[Roles] = ENDS
    flops_formula: ClassVar[str] = "3 x 2 E V"

    @property
    def capacity(self) -> int:
        """The context length."""
        return self.context_length

    @property
    def forward_flops(self) -> float:
        """The readout's."""
        return 2.0 * self.d_embed * self.vocab_size

    def activation_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Return embeddings and averages, and the logits."""
        return {"vectors": (length, self.d_embed), "logits": (length, self.vocab_size)}

    def library_values(self, length: int) -> int:
        """Count a copy of the embeddings, which the product that sums them makes."""
        return length * self.d_embed

    def taps(self) -> tuple[Tap, ...]:
        """Describe the embedding, the average and the readout."""
        embedding = layer_of(self.roles, "token_embedding/embedding")
        readout = layer_of(self.roles, "readout/kernel", reads="previous")
        return (
            tap_at(embedding, output_of("token_embedding")),
            tap_at(bare_layer("average"), input_of("readout")),
            tap_at(readout, LOGITS),
        )

    def init_cache(self, batch_size: int) -> BagCache:
        """Return the cache of an empty text."""
        return BagCache(jnp.zeros((batch_size, self.d_embed)), jnp.zeros((), jnp.int32))

    @nn.compact
    def __call__(
        self,
        tokens_BT: Array,
        cache: BagCache | None = None,
        *,
        num_outputs: int | None = None,
        train: bool = False,
    ) -> tuple[Array, BagCache | None]:
        """See CharModel."""
        B, T = tokens_BT.shape
        check_window(T, self.context_length)
        N = num_outputs or T
        before = self.init_cache(B) if cache is None else cache
        embedding = Embedding(self.vocab_size, self.d_embed, name="token_embedding")
        readout = Readout(self.vocab_size, bias=True, dtype=self.dtype, name="readout")
        x_BTE = embedding(tokens_BT).astype(self.dtype)
        # Sums over all that came before, as a product with the lower triangle of ones.
        seen_NT = jnp.tri(N, T, T - N, dtype=self.dtype)
        wide = wide_dtype(self.dtype)
        sums_BNE = jnp.einsum("nt,bte->bne", seen_NT, x_BTE, preferred_element_type=wide)
        sums_BNE += before.sum_BE[:, None]
        lengths_N = before.length + jnp.arange(T - N + 1, T + 1)
        h_BNE = sums_BNE / lengths_N[:, None].astype(wide)
        after = BagCache(sums_BNE[:, -1], before.length + T)
        return readout(h_BNE.astype(self.dtype)), None if cache is None else after
