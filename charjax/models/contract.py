"""The contract of every family of models, so that nothing else knows a model by its name.

Letters: B batch, T input tokens, N computed outputs (the last N of the T), V vocabulary,
S history and outputs together.
"""

from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from charjax.models.roles import Roles
from charjax.models.taps import Tap
from charjax.models.transformer_packing import KernelForm

Memory = Literal["finite", "carried", "windowed"]

# The collection of other logits of the same targets that a model sows in training.
AUXILIARY = "auxiliary"


class CharModel(nn.Module):
    """A causal model of characters: tokens to logits, all at once or a few at a time.

    Attributes:
      vocab_size: V.
      dtype: of the matrix products; parameters, norms' statistics, logits and all sums over batch
        and time, those of the gradients too, are float32.
      memory: the tokens that an output depends on. "finite": the last lookback + 1; "carried":
        all before, through a state; "windowed": at most context_length tokens.
      fitted: the family counts (`fit`) and is not trained by gradients.
      looks_up_targets: it has `target_log_probs`.
      has_attention: it has `attention_weights`; the layers of its queries, keys and values end in
        "attention/qkv", or in "attention/query" and then "attention/key_value".
      widens_small_products: on a CPU its small products are in float32, whatever the dtype.
      flops_formula: `forward_flops` as a formula of a training step (three times the forward
        pass), for tables; its letters are those of charjax/performance/flops.py.
      roles: (regular expression over a parameter's "/"-joined path, its role); exactly one covers
        each parameter.
    """

    vocab_size: int
    dtype: DTypeLike
    memory: ClassVar[Memory]
    fitted: ClassVar[bool] = False
    looks_up_targets: ClassVar[bool] = False
    has_attention: ClassVar[bool] = False
    widens_small_products: ClassVar[bool] = False
    flops_formula: ClassVar[str] = ""
    roles: ClassVar[Roles]

    @property
    def lookback(self) -> int:
        """Tokens before the newest that an output depends on, where memory is finite; else 0."""
        return 0

    @property
    def window_lookback(self) -> int:
        """Tokens before a window that a part of the model reads, though the rest reads it alone."""
        return 0

    @property
    def capacity(self) -> int | None:
        """The most tokens that a cache holds, where memory is windowed; else None."""
        return None

    @property
    def forward_flops(self) -> float | None:
        """Operations of the forward pass per token; None for a family that counts.

        Counted are matrix products as the model is written, two operations for a multiplication
        and an addition.
        """
        return None

    @property
    def tabled_flops(self) -> float:
        """The part of `forward_flops` that is computed once per symbol and looked up per token."""
        return 0.0

    @property
    def matrix_weights(self) -> int:
        """Weights between embedding and readout that every position of a window is multiplied by.

        0 keeps a CPU's cores from sharing a batch, which was measured for recurrent networks and
        transformers only.
        """
        return 0

    @property
    def widest_product(self) -> tuple[int, int] | None:
        """Input and output width of the widest linear layer by `ops.linear.matmul`, if any.

        oneDNN computes the gradient of its weights where that is large enough.
        """
        return None

    @property
    def single_layer_sizes(self) -> tuple[int, int, int] | None:
        """(C, E, H) of a float32 network softmax(tanh([C embeddings] W + b) U + c), else None.

        There is a compiled kernel for the training of such networks (`training.ensemble_kernel`).
        """
        return None

    @property
    def kernel_form(self) -> KernelForm | None:
        """The sizes of a float32 decoder of GPT-2's form, else None.

        There is a compiled kernel that generates a text by one (`generation.kernel_decoder`).
        """
        return None

    @property
    def embedding_scale(self) -> float:
        """Factor of the embeddings in the forward pass, which a tied readout does not have."""
        return 1.0

    @property
    def is_plain(self) -> bool:
        """The options at which the fitted formulas of memory hold (`performance.activations`)."""
        return True

    @property
    def auxiliary_weight(self) -> float:
        """Weight of the loss of the logits in AUXILIARY, in what is trained; 0: there are none."""
        return 0.0

    def saved_values(self, length: int) -> int:
        """Estimate the numbers that one window of so many tokens saves for the backward pass."""
        return 0

    def activation_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays that dominate the memory of a training step.

        Those of one window of so many targets; layers that are all held are a leading axis. How
        many of them a device holds at once is its compiler's choice, and is measured
        (`charjax.performance.activations`).
        """
        return {"logits": (length, self.vocab_size)}

    def library_values(self, length: int) -> int:
        """Count numbers in the CPU libraries' own arrays for one window, unknown to the compiler.

        Measured as resident memory: benchmarks/plan.py.
        """
        return 0

    def attention_weights(self, qkv_BTE: Array, params: Any = None) -> Array:
        """Compute the attention weights of a block, which the model keeps in no array.

        Args:
          qkv_BTE: queries, keys and values of all heads side by side, (B, T, 3 H K); fewer of
            keys and values where heads share them.
          params: of the attention, which one that normalises queries and keys needs.

        Returns:
          (B, H, T, S) float32; each row sums to 1 over the keys up to its own position.

        Raises:
          NotImplementedError: `has_attention` is false.
        """
        raise NotImplementedError

    def taps(self) -> tuple[Tap, ...]:
        """Describe the layers, in the order of computation.

        Raises:
          ValueError: a family without layers, such as one that counts.
        """
        raise ValueError(f"{type(self).__name__} has no layers to look into")

    def init_cache(self, batch_size: int) -> Any:
        """Return the cache before the first token: arrays that need no parameters."""
        raise NotImplementedError

    def short_cache(self, batch_size: int, length: int) -> Any:
        """Return `init_cache` for at most `length` tokens, smaller where a family has it."""
        return self.init_cache(batch_size)

    def cache_after(self, before_BL: Array) -> Any:
        """Return the cache before a window, after its `window_lookback` tokens."""
        return self.init_cache(before_BL.shape[0])

    def window_logits(self, tokens_BS: Array, num_outputs: int) -> Array:
        """Predict the characters after the tokens of a window, all at once.

        Args:
          tokens_BS: integers below V: the window, after `window_lookback` tokens.
          num_outputs: N, the tokens of the window.

        Returns:
          logits, (B, N, V) float32.
        """
        logits_BNV: Array = self(tokens_BS[:, -num_outputs:])[0]
        return logits_BNV

    def __call__(
        self,
        tokens_BT: Array,
        cache: Any = None,
        *,
        num_outputs: int | None = None,
        train: bool = False,
    ) -> tuple[Array, Any]:
        """Predict the character after each token.

        Args:
          tokens_BT: integers below V.
          cache: the text so far, which the tokens continue; None at the start of a text. With
            windowed memory the caller must not pass more than `capacity` tokens altogether.
          num_outputs: N, from 1 to T; only the last N positions are computed. None: all T.
          train: dropout (rng "dropout") and batch statistics (collection "batch_stats", mutable).

        Returns:
          logits (B, N, V) float32, and the cache with the tokens in it: of the same structure,
          shapes and dtypes as the argument, so that it can be a loop's carry. Without a cache a
          carried model returns its state and the others return None.
        """
        raise NotImplementedError

    def target_log_probs(self, tokens_BT: Array, targets_BN: Array) -> Array:
        """Return log p(target), (B, N) float32, without the logits of the other characters.

        Offered by a family that looks probabilities up (`looks_up_targets`), so that scoring a
        text costs nothing for the V - 1 characters that did not follow.

        Args:
          tokens_BT: integers below V, as of a call without a cache.
          targets_BN: the characters after the last N of them.
        """
        raise NotImplementedError


class FiniteModel(CharModel):
    """A model that looks at the last lookback + 1 tokens; token 0 stands before a text."""

    memory: ClassVar[Memory] = "finite"

    def init_cache(self, batch_size: int) -> Array:
        """Return the tokens before a text, (B, lookback): token 0."""
        return jnp.zeros((batch_size, self.lookback), jnp.int32)

    def read(
        self, tokens_BT: Array, cache: Array | None, num_outputs: int | None
    ) -> tuple[Array, Array | None]:
        """Return the tokens that the outputs depend on, and the new cache.

        Returns:
          history (B, S) int32 with S = lookback + N: output i is computed from the tokens
          i ... i + lookback of it; and the last `lookback` tokens, or None without a cache.
        """
        B, T = tokens_BT.shape
        before = self.init_cache(B) if cache is None else cache
        text = jnp.concatenate([before, tokens_BT.astype(jnp.int32)], axis=1)
        history_BS = text[:, T - (num_outputs or T) :]
        return history_BS, None if cache is None else text[:, T:]


def check_window(length: int, context_length: int) -> None:
    """Raise a ValueError for more tokens at once than a windowed model's context."""
    if length > context_length:
        raise ValueError(f"{length} tokens given; the model's context_length is {context_length}")
