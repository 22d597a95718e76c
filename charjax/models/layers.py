"""Modules that the families share: characters to vectors, vectors to logits, and norms.

Letters: B batch, T time, V vocabulary, D width.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from charjax.models.own import activation_of
from charjax.models.roles import Parameter, Role, dense
from charjax.ops.choice import is_small_product
from charjax.ops.dropout import keep_mask
from charjax.ops.linear import matmul, matmul_reference
from charjax.ops.lookup import lookup
from charjax.ops.normalization import EPSILON, layer_norm, rms_norm
from charjax.ops.precision import wide_dtype

NormKind = Literal["layernorm", "rmsnorm"]
EMBEDDING = Parameter(Role.EMBEDDING, fan_out=(1,))
ENDS = (
    ("token_embedding/embedding", EMBEDDING),
    ("readout/kernel", dense(Role.READOUT)),
    ("readout/bias", Parameter(Role.BIAS)),
)


class Embedding(nn.Module):
    """A vector for each symbol: `embedding`, (V, D) float32.

    The vectors are float32 whatever the compute, because the gradient of a lookup is summed over
    all places of a symbol in the lookup's dtype: bfloat16 stops adding ones at 256.
    """

    num_embeddings: int
    features: int

    def setup(self) -> None:
        """Declare the table."""
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        shape = (self.num_embeddings, self.features)
        self.embedding = self.param("embedding", init, shape, jnp.float32)

    def __call__(self, tokens_BT: Array) -> Array:
        """Look the tokens up: (B, T, D) float32."""
        return lookup(self.embedding, tokens_BT)


class Linear(nn.Module):
    """y = x W + b, with the parameters of `nn.Dense`; the product is in `dtype`.

    The bias is added in float32, so that its gradient, a sum over batch and time, is float32 too.
    In `nn.Dense` that sum is in `dtype`.

    Attributes:
      features: E, width of the output.
      bias: there is a b.
      dtype: of the product and the output.
      product: of x (..., D) and W (D, E).
    """

    features: int
    bias: bool
    dtype: DTypeLike
    product: Callable[[Array, Array], Array] = matmul

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., D) to (..., E)."""
        shape = (x.shape[-1], self.features)
        kernel_DE = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        y = self.product(x.astype(self.dtype), kernel_DE.astype(self.dtype))
        if self.bias:
            bias_E = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
            y = (y.astype(wide_dtype(self.dtype)) + bias_E).astype(self.dtype)
        return y


class Shift(nn.Module):
    """x + b with one number b, as before the layers of Fixup (Zhang et al. 2019).

    It is added in float32, as the bias of `Linear` is.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Any shape to the same."""
        bias = self.param("bias", nn.initializers.zeros, (), jnp.float32)
        return (x.astype(wide_dtype(self.dtype)) + bias).astype(self.dtype)


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
        logits_BTV = float32_logits(h_BTD.astype(self.dtype), kernel_DV.astype(self.dtype))
        if self.bias:
            logits_BTV += self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
        return logits_BTV


class Dropout(nn.Module):
    """Zeros in a part of the elements, the others scaled up (Srivastava et al. 2014).

    The draws are those of `nn.Dropout`.

    Attributes:
      rate: the part.
      deterministic: the elements as they are.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Any shape to the same."""
        if self.rate == 0.0 or self.deterministic:
            return x
        keep = keep_mask(self.make_rng("dropout"), self.rate, x.shape)
        return jax.lax.select(keep, x / (1.0 - self.rate), jnp.zeros_like(x))


def float32_logits(h_BTD: Array, kernel_DV: Array) -> Array:
    """Return the product (B, T, V), summed in float32."""
    return matmul(h_BTD, kernel_DV, preferred_element_type=wide_dtype(h_BTD.dtype))


class Norm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias (Ba et al. 2016), in float32."""

    bias: bool
    dtype: DTypeLike
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        """(B, T, D) to (B, T, D)."""
        D = x_BTD.shape[-1]
        scale_D = self.param("scale", nn.initializers.ones, (D,), jnp.float32)
        x_BTD = layer_norm(x_BTD, scale_D, self.epsilon)
        if self.bias:
            x_BTD += self.param("bias", nn.initializers.zeros, (D,), jnp.float32)
        return x_BTD.astype(self.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * scale (Zhang and Sennrich 2019), in float32, without bias."""

    dtype: DTypeLike
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., D) to (..., D)."""
        scale_D = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        return rms_norm(x, scale_D, self.epsilon).astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class NormForm:
    """A kind of norm, and the number that is added under its root."""

    kind: NormKind = "layernorm"
    epsilon: float = EPSILON


def make_norm(form: NormForm, bias: bool, dtype: DTypeLike, name: str) -> nn.Module:
    """Return a norm over the last axis; the bias is a layer norm's."""
    if form.kind == "rmsnorm":
        return RMSNorm(dtype, form.epsilon, name=name)
    return Norm(bias, dtype, form.epsilon, name=name)


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-5) * scale + bias over batch and time, in float32.

    Ioffe and Szegedy 2015, with the conventions of `torch.nn.BatchNorm1d`: in training the
    variance of the batch divides by n, and what it adds to the running variance by n - 1.

    Attributes:
      momentum: weight of the old running statistics (1 - PyTorch's `momentum`). The 0.999 of the
        makemore lectures needs thousands of steps to forget the initial values, and PyTorch's 0.9
        is noisy with batches of 32.
    """

    momentum: float = 0.99

    @nn.compact
    def __call__(self, x_BTD: Array, *, train: bool) -> Array:
        """(B, T, D) to (B, T, D); in training it updates the collection "batch_stats"."""
        D = x_BTD.shape[-1]
        scale_D = self.param("scale", nn.initializers.ones, (D,), jnp.float32)
        bias_D = self.param("bias", nn.initializers.zeros, (D,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (D,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (D,), jnp.float32)
        mean_D, var_D = mean.value, var.value
        if train:
            n = math.prod(x_BTD.shape[:-1])
            mean_D = jnp.mean(x_BTD, axis=(0, 1))
            var_D = jnp.mean(jnp.square(x_BTD - mean_D), axis=(0, 1))
            if not self.is_initializing():
                mean.value = self._moved(mean.value, mean_D)
                var.value = self._moved(var.value, var_D * (n / max(1, n - 1)))
        return (x_BTD - mean_D) * (jax.lax.rsqrt(var_D + 1e-5) * scale_D) + bias_D

    def _moved(self, old_D: Array, new_D: Array) -> Array:
        return self.momentum * old_D + (1.0 - self.momentum) * jax.lax.stop_gradient(new_D)


def product_dtype(h_BTD: Array, width: int, dtype: DTypeLike) -> DTypeLike:
    """Return the dtype of a hidden layer's product: float32 in place of `dtype` if it is small."""
    *leading, D = h_BTD.shape
    if dtype == jnp.bfloat16 and is_small_product(math.prod(leading), D, width):
        return jnp.float32
    return dtype


def hidden_layer(
    h_BTD: Array,
    width: int,
    dtype: DTypeLike,
    norm: str,
    names: tuple[str, str],
    activation: str,
    *,
    train: bool,
) -> Array:
    """f(h W + b), or with norm = "batch" f(BN(h W)), which brings a bias of its own.

    f is in float32: tanh's derivative is 1 - tanh^2, which loses its digits near 1.

    To be called in a module's compact method; `names` are those of its linear layer and its norm.
    """
    linear, normal = names
    dtype = product_dtype(h_BTD, width, dtype)
    # XLA's CPU backend may sum a product whose operand is read transposed, as the kernel's gradient
    # is, in bfloat16 (jaxlib 0.12); `matmul` lays it out before.
    product = matmul if dtype == jnp.bfloat16 else matmul_reference
    h_BTD = Linear(width, norm == "none", dtype, product, name=linear)(h_BTD)
    if norm == "batch":
        h_BTD = BatchNorm(name=normal)(h_BTD.astype(wide_dtype(dtype)), train=train)
    return activation_of(activation)(h_BTD.astype(wide_dtype(dtype))).astype(dtype)
