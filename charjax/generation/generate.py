"""Generation: one compiled decode loop for every family of models.

Shapes: B samples, T tokens, K tokens of one call, V symbols.

The loop knows no family by name. Its state is the model's cache and one token that is not in the
cache yet; a step feeds that token and samples the next. The text does not depend on how it is cut
into calls: the token at index n of sample i is drawn with the key `fold_in(fold_in(key(seed), i),
n)` from the tokens that `window_start` says, whatever came in the same call. So a sample is the
same whatever the number of samples beside it (as far as the products of a larger batch round the
same way), and a text given back as the prompt goes on as it would have.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError
from charjax.generation.decoder import Groups
from charjax.generation.sampling import Sampling, choose
from charjax.models.contract import CharModel

# Tokens a call makes for each sample: a terminal sees them come, and signals are answered between
# calls. Calls longer than the seconds below are cut shorter; a rest of less than half a call is
# made in the call before it (decoding.CALL_LIMIT).
_CALL_TOKENS = 64
_CALL_SECONDS = 0.25
_MOST_SAMPLES = 1 << 16
# Where a model with a window reads a text that is longer than it: see `window_start`.
PastContext = Literal["jump", "slide"]


class Chunk(NamedTuple):
    """What one call of the loop made.

    Attributes:
      tokens_BK: int32; a sample that has ended is filled up with the stop token.
      seconds: it took.
      compile_seconds: spent on compilation before it, not in `seconds`.
    """

    tokens_BK: np.ndarray
    seconds: float
    compile_seconds: float


def generate(
    model: CharModel,
    variables: Any,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    num_samples: int,
    max_new_tokens: int,
    settings: Sampling,
    seed: int,
    past_context: PastContext = "jump",
    poll: Callable[[], None] = lambda: None,
) -> list[str]:
    """Continue a prompt, several times over; compiled once for a model, settings and shapes.

    Args:
      model: any family.
      variables: its parameters and other collections.
      tokenizer: of the text it was trained on.
      prompt: what each text begins with; may be empty.
      num_samples: texts made in one batch, each from its own random stream.
      max_new_tokens: after the prompt, for each.
      settings: how tokens are chosen.
      seed: 0 to 2**32 - 1.
      past_context: as of `window_start`.
      poll: called between calls of the loop; may raise.

    Returns:
      The texts, prompt included. Where documents are lines, a text is one line without its end.

    Raises:
      UserError: a number out of its bounds, or a character that the model has never seen.
    """
    stop, parts_BK = stop_token(tokenizer), []
    for chunk in stream(
        model,
        variables,
        start_tokens(tokenizer, prompt),
        num_samples=num_samples,
        max_new_tokens=max_new_tokens,
        settings=settings,
        seed=seed,
        stop=stop,
        past_context=past_context,
    ):
        parts_BK.append(chunk.tokens_BK)
        poll()
    return [prompt + tokenizer.decode(tokens) for tokens in join(parts_BK, stop)]


def start_tokens(tokenizer: Tokenizer, prompt: str) -> np.ndarray:
    """The tokens (T,) int32 that a text begins with; never none.

    Where documents are lines, the boundary stands before the prompt. Elsewhere an empty prompt
    begins after a newline, or after token 0 where the alphabet has no newline.

    Raises:
      UserError: the prompt has a character that the model has never seen.
    """
    tokens = np.asarray(tokenizer.encode(prompt), np.int32)
    if tokenizer.boundary:
        return np.concatenate([np.zeros(1, np.int32), tokens])
    if tokens.size:
        return tokens
    try:
        return np.asarray(tokenizer.encode("\n"), np.int32)
    except UserError:
        return np.zeros(1, np.int32)


def stop_token(tokenizer: Tokenizer) -> int | None:
    """The token that ends a sample: the boundary where documents are lines, else none."""
    return 0 if tokenizer.boundary else None


def join(parts_BK: Sequence[np.ndarray], stop: int | None) -> list[np.ndarray]:
    """Each sample's new tokens from those of the calls, up to its first stop token."""
    rows = np.concatenate(parts_BK, axis=1)
    if stop is None:
        return list(rows)
    return [row[: np.append(np.flatnonzero(row == stop), row.size)[0]] for row in rows]


def stream(
    model: CharModel,
    variables: Any,
    prompt_T: np.ndarray,
    *,
    num_samples: int,
    max_new_tokens: int,
    settings: Sampling,
    seed: int,
    stop: int | None = None,
    past_context: PastContext = "jump",
) -> Iterator[Chunk]:
    """New tokens as they come: about 64 of each sample, or what a quarter second makes.

    Args:
      model: any family.
      variables: its parameters and other collections.
      prompt_T: at least one token (`start_tokens`); see `window_start` for long ones.
      num_samples: texts made in one batch.
      max_new_tokens: after the prompt, for each.
      settings: how tokens are chosen.
      seed: 0 to 2**32 - 1.
      stop: the token that ends a sample; when all have ended, so does the stream.
      past_context: as of `window_start`.

    Raises:
      UserError: a number out of its bounds, or "slide" for a model without a window.
    """
    for name, value, last in (
        ("num-samples", num_samples, _MOST_SAMPLES),
        ("max-new-tokens", max_new_tokens, 2**31 - 1 - len(prompt_T)),
        ("seed", seed, 2**32 - 1),
    ):
        first = 0 if name == "seed" else 1
        if not first <= value <= last:
            raise UserError(
                f"{name}: {value} given; it must be a whole number from {first} to {last}"
            )
    if past_context == "slide" and model.capacity is None:
        raise UserError(
            f"--past-context: slide given, but a model whose memory is {model.memory} has no "
            "context to go past and writes one and the same text; the transformer and bow read "
            "it: leave it out"
        )
    keys_B = sample_keys(seed, num_samples)
    decoder = Groups(model, settings, stop, variables, keys_B)
    return _segments(decoder, model.capacity, past_context, prompt_T, num_samples, max_new_tokens)


def _segments(
    decoder: Groups,
    capacity: int | None,
    past_context: PastContext,
    prompt_T: np.ndarray,
    num_samples: int,
    max_new_tokens: int,
) -> Iterator[Chunk]:
    """Segments of the text, each prefilled once and decoded until the cache is full.

    Where the window slides, the second segment is the last.
    """
    length, end = len(prompt_T), len(prompt_T) + max_new_tokens
    recent_BT = np.tile(prompt_T[window_start(length, capacity, past_context) :], (num_samples, 1))
    done_B = np.zeros(num_samples, bool)
    call_tokens = 8
    while length < end and not done_B.all():
        began, compiled_before = time.perf_counter(), decoder.compile_seconds
        start = window_start(length, capacity, past_context)
        sliding = past_context == "slide" and start > 0
        # A pass over a whole window takes much longer than a step with a cache.
        call_tokens = 1 if sliding else call_tokens
        states = decoder.begin(recent_BT[:, start - length :], length, done_B, sliding)
        full = end if capacity is None or sliding else min(end, start + capacity + 1)
        while length < full and not done_B.all():
            left = full - length
            steps = left if 2 * left <= 3 * call_tokens else call_tokens
            states, new_BK, done_B = decoder.decode(states, steps, sliding)
            length += new_BK.shape[1]
            recent_BT = np.concatenate([recent_BT, new_BK], axis=1)[:, -(capacity or 1) :]
            compile_seconds = decoder.compile_seconds - compiled_before
            seconds = time.perf_counter() - began - compile_seconds
            yield Chunk(new_BK, seconds, compile_seconds)
            began, compiled_before = time.perf_counter(), decoder.compile_seconds
            longer = seconds > _CALL_SECONDS
            call_tokens = max(1, call_tokens // 2) if longer else min(_CALL_TOKENS, 2 * call_tokens)


def window_start(length: int, capacity: int | None, past_context: PastContext = "jump") -> int:
    """Where the tokens begin that the one at index `length` is drawn from; they end before it.

    A text is read from its beginning until its `capacity` newest tokens are in use. From there:

    jump: the next token is drawn from the newest half of the capacity alone, and from there the
      context grows again. What is in the cache stays there, so a token is one step.
    slide: each token is drawn from the `capacity` newest, as nanoGPT draws it. Every token then
      stands at another position than for the token before, so that no cache can hold it (even
      with rotary positions: a vector of the second block depends on all that its window held),
      and a token is a pass over the whole window.

    This depends on the length only: a prompt that is longer than the capacity is read as if it had
    been generated.
    """
    if capacity is None or length <= capacity:
        return 0
    if past_context == "slide":
        return length - capacity
    kept = max(1, capacity // 2)
    stride = capacity + 1 - kept
    return -(-(length - capacity) // stride) * stride


def sample_keys(seed: int, num_samples: int) -> Array:
    """The random streams (B,) of the samples: each its own, whatever their number."""
    return _sample_keys(np.uint32(seed), num_samples)


@functools.partial(jax.jit, static_argnames="num_samples")
def _sample_keys(seed: Array | np.uint32, num_samples: int) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(num_samples))


def generate_uncached(
    model: CharModel,
    variables: Any,
    prompt_T: np.ndarray,
    *,
    num_samples: int,
    max_new_tokens: int,
    settings: Sampling,
    seed: int,
    past_context: PastContext = "jump",
) -> np.ndarray:
    """The plain version that `stream` must equal: all of the window anew for each token.

    Returns:
      The new tokens (B, max_new_tokens) int32.
    """
    text_BT, end = np.tile(prompt_T, (num_samples, 1)), len(prompt_T) + max_new_tokens
    keys_B = sample_keys(seed, num_samples)
    for length in range(len(prompt_T), end):
        window_BT = text_BT[:, window_start(length, model.capacity, past_context) :]
        T = window_BT.shape[1]
        # Padded at its end to one length, so compiled once; a causal model cannot see it.
        padded_BT = np.pad(window_BT, ((0, 0), (0, (model.capacity or end) - T)))
        places = np.int32(T - 1), np.int32(length)
        token_B = _choose_next(model, settings, variables, keys_B, padded_BT, *places)
        text_BT = np.append(text_BT, np.asarray(token_B)[:, None], axis=1)
    return text_BT[:, len(prompt_T) :]


@functools.partial(jax.jit, static_argnames=("model", "settings"))
def _choose_next(
    model: CharModel,
    settings: Sampling,
    variables: Any,
    keys_B: Array,
    tokens_BT: Array,
    last: Array,
    index: Array,
) -> Array:
    """The tokens (B,) at `index` of the text, whose newest token stands at `last`."""
    logits_BTV, _ = model.apply(variables, tokens_BT)
    return choose(logits_BTV[:, last], keys_B, index, settings)
