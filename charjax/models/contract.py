"""What every family of models promises, so that nothing else knows a model by its name.

Letters: B batch, T tokens given, N outputs asked for (the last N of the T), V vocabulary,
S history and outputs together.
"""

from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from charjax.models.roles import Parameter

Memory = Literal["finite", "carried", "windowed"]


class CharModel(nn.Module):
    """A causal model of characters: tokens to logits, all at once or a few at a time.

    Attributes:
      vocab_size: V.
      dtype: of the matrix products; parameters, norms' statistics, logits and all sums over batch
        and time, those of the gradients too, are float32.
      memory: what the output depends on. "finite": the last lookback + 1 tokens; "carried": every
        token before, through a state; "windowed": at most context_length tokens.
      fitted: whether the family counts (`fit`) and is not trained by gradients.
      looks_up_targets: whether it has `target_log_probs`.
      roles: (regular expression over a parameter's "/"-joined path, what that parameter is);
        exactly one covers each parameter.
    """

    vocab_size: int
    dtype: DTypeLike
    memory: ClassVar[Memory]
    fitted: ClassVar[bool] = False
    looks_up_targets: ClassVar[bool] = False
    roles: ClassVar[tuple[tuple[str, Parameter], ...]]

    @property
    def lookback(self) -> int:
        """Tokens before the newest that an output depends on, where memory is finite; else 0."""
        return 0

    @property
    def capacity(self) -> int | None:
        """The most tokens that a cache holds, where memory is windowed; else None."""
        return None

    def init_cache(self, batch_size: int) -> Any:
        """The cache before the first token: a pytree of arrays that needs no parameters."""
        raise NotImplementedError

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
            windowed memory the caller sees to it that no more than `capacity` tokens come in.
          num_outputs: N, from 1 to T; only the last N positions are computed. None: all T.
          train: dropout (rng "dropout") and batch statistics (collection "batch_stats", mutable).

        Returns:
          logits (B, N, V) float32, and the cache with the tokens in it: of the same structure,
          shapes and dtypes as the one given, so that it can be a loop's carry. Given None, a
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
        """The last tokens (B, lookback): token 0."""
        return jnp.zeros((batch_size, self.lookback), jnp.int32)

    def read(
        self, tokens_BT: Array, cache: Array | None, num_outputs: int | None
    ) -> tuple[Array, Array | None]:
        """What the outputs depend on, and the new cache.

        Returns:
          history (B, S) int32 with S = lookback + N: output i is computed from the tokens
          i ... i + lookback of it; and the last `lookback` tokens, or None if none were given.
        """
        B, T = tokens_BT.shape
        before = self.init_cache(B) if cache is None else cache
        text = jnp.concatenate([before, tokens_BT.astype(jnp.int32)], axis=1)
        history_BS = text[:, T - (num_outputs or T) :]
        return history_BS, None if cache is None else text[:, T:]


def check_window(length: int, context_length: int) -> None:
    """Refuse more tokens at once than a windowed model can see: a mistake of the caller's."""
    if length > context_length:
        raise ValueError(f"{length} tokens given; the model's context_length is {context_length}")
