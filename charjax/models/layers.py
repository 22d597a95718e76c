"""The two ends that the families share: characters to vectors, and vectors to logits.

Letters: B batch, T time, V vocabulary, D width.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from charjax.models.roles import Parameter, Role, dense
from charjax.ops.linear import matmul

EMBEDDING = Parameter(Role.EMBEDDING, fan_out=(1,))
ENDS = (
    ("token_embedding/embedding", EMBEDDING),
    ("readout/kernel", dense(Role.READOUT)),
    ("readout/bias", Parameter(Role.BIAS)),
)


class Embedding(nn.Module):
    """A vector for each symbol: `embedding`, (V, D)."""

    num_embeddings: int
    features: int
    dtype: DTypeLike

    def setup(self) -> None:
        """Declare the table."""
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        shape = (self.num_embeddings, self.features)
        self.embedding = self.param("embedding", init, shape, jnp.float32)

    def __call__(self, tokens_BT: Array) -> Array:
        """Look the tokens up: (B, T, D)."""
        return self.embedding.astype(self.dtype)[tokens_BT]


class Readout(nn.Module):
    """logits = h W + b: products in `dtype`, sums and logits in float32."""

    vocab_size: int
    bias: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, h_BTD: Array) -> Array:
        """Score every symbol: (B, T, V) float32."""
        shape = (h_BTD.shape[-1], self.vocab_size)
        kernel_DV = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        logits_BTV = float32_logits(h_BTD, kernel_DV.astype(self.dtype))
        if self.bias:
            logits_BTV += self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
        return logits_BTV


def float32_logits(h_BTD: Array, kernel_DV: Array) -> Array:
    """The product (B, T, V), summed and returned in float32."""
    return matmul(h_BTD, kernel_DV, preferred_element_type=jnp.float32)
