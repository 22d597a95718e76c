"""The sublayers of a transformer's block: attention over the positions so far, and an MLP.

Letters: B batch, T time, N outputs, C context length (the cache's length), D width of the
residual stream, H heads, K width of a head (D = H K), J heads of keys and values, E = (H + 2 J) K,
S time of the keys, F width within the MLP.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.typing import DTypeLike

from charjax.models.layers import Linear, NormForm, Shift, make_norm
from charjax.models.own import activation_of
from charjax.ops.activation import gelu, gelu_tanh, relu2, silu
from charjax.ops.attention import causal_attention, soft_capped
from charjax.ops.choice import is_compiled_attention, is_compiled_product
from charjax.ops.compiled_gpt import compiled_attention, compiled_mlp
from charjax.ops.normalization import layer_norm, rms_norm
from charjax.ops.precision import wide_dtype
from charjax.ops.rotary import ROTARY_BASE, rotary_angles, rotate

# Or an activation of the user's own.
MLPActivation = Literal["gelu", "gelu_tanh", "relu2", "swiglu", "geglu"] | str
AttentionScale = Literal["inverse_sqrt", "inverse"]
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu2": relu2,
}
# The MLPs of Shazeer 2020 (arXiv:2002.05202), by the function of their gate.
GATES: dict[str, tuple[Literal["silu", "gelu"], Callable[[Array], Array]]] = {
    "swiglu": ("silu", silu),
    "geglu": ("gelu", gelu),
}


@dataclasses.dataclass(frozen=True)
class AttentionForm:
    """The differences of attention from GPT-2's.

    Attributes:
      n_kv_head: J, of which H is a multiple; None: H.
      qk_norm: the norm of each head's queries and keys, before they are rotated; None: as they are.
      softcap: c, by which scores become c tanh(score / c); 0 leaves them.
      window: the most keys that a query sees, its own position's included; None: all.
      rotary_base: of the angles, where positions are rotary.
      scale: of the scores, q k / sqrt(K) or, "inverse", q k / K.
      recompute: training computes the weights again in the backward pass, and saves none.
    """

    n_kv_head: int | None = None
    qk_norm: NormForm | None = None
    softcap: float = 0.0
    window: int | None = None
    rotary_base: float = ROTARY_BASE
    scale: AttentionScale = "inverse_sqrt"
    recompute: bool = False

    @property
    def of_scores(self) -> dict[str, Any]:
        """The arguments of `causal_attention` and `cached_attention` other than the default."""
        arguments = {"softcap": self.softcap, "window": self.window}
        return {name: value for name, value in arguments.items() if value}

    def is_plain(self, n_head: int) -> bool:
        """Return true if it is GPT-2's, with as many heads of keys and values as of queries."""
        changes = self.of_scores or self.qk_norm or self.scale != "inverse_sqrt" or self.recompute
        return self.n_kv_head in (None, n_head) and not changes


def mlp_width(D: int, activation: MLPActivation) -> int:
    """Return F where it is not set: 4 D, or 8 D / 3 to the nearest whole number if gated.

    The three kernels of a gated MLP then have as many weights as the two of GPT-2's, 8 D D, to
    within 1.5 D.
    """
    return (16 * D + 3) // 6 if activation in GATES else 4 * D


class KeysValues(NamedTuple):
    """One layer's keys and values (B, J, C, K): with heads first, decoding on a CPU is fastest."""

    keys: Array
    values: Array


class FeedForward(nn.Module):
    """phi(x W_up) W_down, or gated (phi(x W_gate) * x W_up) W_down; F of None is `mlp_width`.

    With `shifts`, a number is added to all units before phi, and another before W_down, as
    Fixup has it; not if gated.
    """

    bias: bool
    activation: MLPActivation
    dtype: DTypeLike
    d_ff: int | None = None
    shifts: bool = False

    @nn.compact
    def __call__(self, x_BTD: Array, *, train: bool = False) -> Array:
        """(B, T, D) to (B, T, D); in training, without tap points in it where a kernel does all."""
        B, T, D = x_BTD.shape
        F = self.d_ff or mlp_width(D, self.activation)
        is_plain = self.activation == "gelu" and not (self.bias or self.shifts)
        if train and is_plain and is_compiled_product(B * T, D, F, self.dtype):
            up_DF = Linear(F, False, self.dtype, _kernel_alone, name="up")(x_BTD)
            # As many columns as the input of this layer has.
            down_FD = Linear(D, False, self.dtype, _kernel_alone, name="down")(up_DF)
            return compiled_mlp(x_BTD.reshape(B * T, D), up_DF, down_FD).reshape(B, T, D)
        if self.activation in GATES:
            _, gate = GATES[self.activation]
            h_BTF = gate(_linear(self, F, "gate")(x_BTD)) * _linear(self, F, "up")(x_BTD)
        else:
            activation = _ACTIVATIONS.get(self.activation) or activation_of(self.activation)
            h_BTF = _linear(self, F, "up")(x_BTD)
            if self.shifts:
                h_BTF = Shift(self.dtype, name="shift_up")(h_BTF)
            h_BTF = activation(h_BTF)
            if self.shifts:
                h_BTF = Shift(self.dtype, name="shift_down")(h_BTF)
        return _linear(self, D, "down")(h_BTF)


def _kernel_alone(x: Array, kernel_DE: Array) -> Array:
    """Return a layer's kernel, in place of its product, to be multiplied elsewhere."""
    return kernel_DE


class Attention(nn.Module):
    """softmax(q k^T / sqrt(K)) v in H heads, each position over itself and those before it.

    With the form's scale "inverse" it is q k^T / K.
    """

    n_head: int
    dropout: float
    bias: bool
    dtype: DTypeLike
    form: AttentionForm = AttentionForm()

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        cache: KeysValues | None,
        start: Array | int,
        angles: tuple[Array, Array] | None,
        *,
        num_outputs: int,
        train: bool,
    ) -> tuple[Array, KeysValues | None]:
        """Attend, with the arguments and results of `charjax.models.transformer.Block`."""
        B, T, D = x_BTD.shape
        rate = self.dropout if train else 0.0
        is_plain = cache is None and num_outputs == T and angles is None and not rate
        is_covered = is_plain and self.form.is_plain(self.n_head)
        if is_covered and is_compiled_attention(B, T, D, self.dtype):
            o_BTD = compiled_attention(_linear(self, 3 * D, "qkv")(x_BTD), self.n_head)
            return _linear(self, D, "out")(o_BTD), cache
        q_BTHK, k_BTJK, v_BTJK = self._project(x_BTD)
        if angles is not None:
            q_BTHK, k_BTJK = rotate(q_BTHK, angles), rotate(k_BTJK, angles)
        form = self.form.of_scores
        if cache is None:
            key = self.make_rng("dropout") if rate else None
            o_BTHK = causal_attention(
                q_BTHK,
                k_BTJK,
                v_BTJK,
                dropout_rate=rate,
                dropout_key=key,
                recompute=train and self.form.recompute,
                **form,
            )
        else:
            cache = _append(cache, k_BTJK, v_BTJK, start)
            o_BTHK = cached_attention(q_BTHK, cache, start, **form)
        o_BND = o_BTHK[:, -num_outputs:].reshape(B, num_outputs, D)
        return _linear(self, D, "out")(o_BND), cache

    def _project(self, x_BTD: Array) -> tuple[Array, Array, Array]:
        """Return queries (B, T, H, K), and keys and values (B, T, J, K)."""
        B, T, D = x_BTD.shape
        H, J = self.n_head, self.form.n_kv_head
        if J is None or J == H:
            qkv_BTHK = _linear(self, 3 * D, "qkv")(x_BTD).reshape(B, T, 3 * H, -1)
            q_BTHK, k_BTJK, v_BTJK = jnp.split(qkv_BTHK, 3, axis=2)
        else:
            q_BTHK = _linear(self, D, "query")(x_BTD).reshape(B, T, H, -1)
            kv_BTJK = _linear(self, 2 * J * (D // H), "key_value")(x_BTD).reshape(B, T, 2 * J, -1)
            k_BTJK, v_BTJK = jnp.split(kv_BTJK, 2, axis=2)
        if self.form.qk_norm is not None:
            # The scale is shared by the heads.
            q_BTHK = make_norm(self.form.qk_norm, False, self.dtype, "query_norm")(q_BTHK)
            k_BTJK = make_norm(self.form.qk_norm, False, self.dtype, "key_norm")(k_BTJK)
        if self.form.scale == "inverse":
            # The scores are divided by sqrt(K) once more.
            q_BTHK = q_BTHK / math.sqrt(q_BTHK.shape[-1])
        return q_BTHK, k_BTJK, v_BTJK


def _append(cache: KeysValues, k_BTJK: Array, v_BTJK: Array, start: Array | int) -> KeysValues:
    def write(old_BJCK: Array, new_BTJK: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(old_BJCK, new_BTJK.swapaxes(1, 2), start, axis=2)

    return KeysValues(write(cache.keys, k_BTJK), write(cache.values, v_BTJK))


def cached_attention(
    q_BTHK: Array,
    cache: KeysValues,
    start: Array | int,
    *,
    softcap: float = 0.0,
    window: int | None = None,
) -> Array:
    """Attend from the T queries at start, start + 1, ... over the keys up to each position.

    Args:
      q_BTHK: (B, T, H, K).
      cache: keys and values with those of the T positions already in it.
      start: position of the first query.
      softcap: as of `causal_attention`.
      window: as of `causal_attention`.

    Returns:
      (B, T, H, K).
    """
    B, T, H, K = q_BTHK.shape
    J, C = cache.keys.shape[1:3]
    if J != H:
        # The heads that share keys become queries of one head, so that the cache is not copied.
        q_BTHK = q_BTHK.reshape(B, T, J, H // J, K).swapaxes(2, 3).reshape(B, -1, J, K)
    scores_BHTC = jnp.einsum(
        "bthk,bhck->bhtc", q_BTHK, cache.keys, preferred_element_type=wide_dtype(q_BTHK.dtype)
    ) / math.sqrt(K)
    if softcap:
        scores_BHTC = soft_capped(scores_BHTC, softcap)
    visible_TC = jnp.arange(C) <= start + jnp.arange(T)[:, None]
    if window is not None:
        visible_TC &= jnp.arange(C) > start - window + jnp.arange(T)[:, None]
    if J != H:
        visible_TC = jnp.repeat(visible_TC, H // J, axis=0)
    weights_BHTC = jax.nn.softmax(jnp.where(visible_TC, scores_BHTC, -jnp.inf), axis=-1)
    o_BTHK = jnp.einsum("bhtc,bhck->bthk", weights_BHTC.astype(q_BTHK.dtype), cache.values)
    if J != H:
        o_BTHK = o_BTHK.reshape(B, T, H // J, J, K).swapaxes(2, 3).reshape(B, T, H, K)
    return o_BTHK


def _linear(parent: Attention | FeedForward, features: int, name: str) -> Linear:
    return Linear(features, parent.bias, parent.dtype, name=name)


def attention_weights(
    qkv_BTE: Array, params: Any, n_head: int, form: AttentionForm, *, rotary: bool
) -> Array:
    """Return the weights of causal attention, (B, H, T, S) float32, see CharModel."""
    B, T, E = qkv_BTE.shape
    J = form.n_kv_head or n_head
    K = E // (n_head + 2 * J)
    q_BTHK, k_BTJK, _ = jnp.split(qkv_BTE.reshape(B, T, -1, K), [n_head, n_head + J], axis=2)
    if form.qk_norm is not None:
        norm = rms_norm if form.qk_norm.kind == "rmsnorm" else layer_norm
        q_BTHK = norm(q_BTHK, params["query_norm"]["scale"], form.qk_norm.epsilon)
        k_BTJK = norm(k_BTJK, params["key_norm"]["scale"], form.qk_norm.epsilon)
    if rotary:
        angles = rotary_angles(jnp.arange(T), K, form.rotary_base)
        q_BTHK, k_BTJK = rotate(q_BTHK, angles), rotate(k_BTJK, angles)
    k_BTHK = jnp.repeat(k_BTJK, n_head // J, axis=2)
    scores_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK) / math.sqrt(K)
    if form.scale == "inverse":
        scores_BHTS /= math.sqrt(K)
    if form.softcap:
        scores_BHTS = soft_capped(scores_BHTS, form.softcap)
    visible_TS = jnp.tri(T, dtype=bool)
    if form.window is not None:
        visible_TS &= ~jnp.tri(T, k=-form.window, dtype=bool)
    return jax.nn.softmax(jnp.where(visible_TS, scores_BHTS, -jnp.inf), axis=-1)
