"""Generation: one compiled decode loop for every family of models.

Shapes: B samples, T tokens, K tokens of one call, V symbols.

The loop knows no family by name. Its state is the model's cache and one token that is not in the
cache yet; a step feeds that token and samples the next. The text does not depend on how it is cut
into calls: the token at index n of sample i is drawn with the key `fold_in(fold_in(key(seed), i),
n)` from the tokens after `window_start`. So a sample does not depend on the number of samples (as
far as matrix products of a larger batch round the same way), and generation from a generated text
as the prompt continues it as it would have continued.
"""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array

from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError
from charjax.generation.decoder import Decoder, cache_length, group_size
from charjax.generation.kernel_decoder import KernelDecoder, is_covered, make_kernel_decoder
from charjax.generation.sampling import Sampling, choose
from charjax.generation.stop_text import StopText
from charjax.models.contract import CharModel
from charjax.random_streams import folded_keys

# Tokens per call, of each sample: a terminal shows them, and signals are answered, between calls.
# Calls that take longer than the seconds below are shortened; a rest of less than half a call is
# added to the call before it (decoder.CALL_LIMIT).
_CALL_TOKENS = 64
_CALL_SECONDS = 0.25
MOST_SAMPLES = 1 << 16
# How a model with a window reads a text that is longer than it: see `window_start`.
PastContext = Literal["jump", "slide"]


class Chunk(NamedTuple):
    """The result of one call of the loop.

    Attributes:
      tokens_BK: int32, of the samples in `rows`; one that has ended is padded with the stop token.
      rows: the samples: all, or a group of them if their caches are large.
      seconds: time of the call.
      compile_seconds: time of compilation before it, not in `seconds`.
    """

    tokens_BK: np.ndarray
    seconds: float
    compile_seconds: float
    rows: slice = slice(None)


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
    stop_text: str | None = None,
    poll: Callable[[], None] = lambda: None,
) -> list[str]:
    """Continue a prompt several times; compiled once per model, settings and shapes.

    Args:
      model: any family.
      variables: its parameters and other collections.
      tokenizer: of the text it was trained on.
      prompt: the beginning of each text; may be empty.
      num_samples: texts generated in one batch, each from its own random stream.
      max_new_tokens: after the prompt, for each.
      settings: the logits processors.
      seed: 0 to 2**32 - 1.
      past_context: see `window_start`.
      stop_text: a text ends before it; generation ends when all texts have.
      poll: called between calls of the loop; may raise.

    Returns:
      The texts, prompt included. If documents are lines, a text is one line without its newline.

    Raises:
      UserError: a number out of its bounds, or a character that is not in the alphabet.
    """
    stop, chunks = stop_token(tokenizer), []
    try:
        ending = StopText(tokenizer, stop_text, num_samples)
    except UserError as error:
        raise UserError(f"stop: {error}") from None
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
        ended=lambda chunk: ending.reached(chunk.tokens_BK, chunk.rows),
    ):
        chunks.append(chunk)
        poll()
    rows = cut_at_stop(whole_rows(chunks, num_samples), stop)
    return [prompt + ending.decode(tokens) for tokens in rows]


def start_tokens(tokenizer: Tokenizer, prompt: str) -> np.ndarray:
    """Return the tokens at the beginning of a text, (T,) int32, at least one.

    If documents are lines, the boundary stands before the prompt. Otherwise an empty prompt becomes
    a newline, or token 0 if the alphabet has no newline.

    Raises:
      UserError: the prompt has a character that is not in the alphabet.
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
    """Return the token that ends a sample: the boundary if documents are lines, else None."""
    return 0 if tokenizer.boundary else None


def cut_at_stop(rows: Iterable[np.ndarray], stop: int | None) -> list[np.ndarray]:
    """Return each sample's tokens up to its first stop token."""
    if stop is None:
        return list(rows)
    return [row[: np.append(np.flatnonzero(row == stop), row.size)[0]] for row in rows]


def whole_rows(chunks: Sequence[Chunk], num_samples: int) -> list[np.ndarray]:
    """Concatenate the tokens of the calls, stop tokens included; none of a group not begun."""
    groups: dict[tuple[int, int, int], list[np.ndarray]] = {}
    for chunk in chunks:
        groups.setdefault(chunk.rows.indices(num_samples), []).append(chunk.tokens_BK)
    rows = [np.zeros(0, np.int32)] * num_samples
    for indices, parts_BK in groups.items():
        rows[slice(*indices)] = np.concatenate(parts_BK, axis=1)
    return rows


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
    ended: Callable[[Chunk], bool] = lambda chunk: False,
    uses_kernels: bool = True,
) -> Iterator[Chunk]:
    """Yield new tokens as they are generated: up to 64 of each sample per call of about 0.25 s.

    Samples whose caches are large together are generated in groups, one after the other.

    Args:
      model: any family.
      variables: its parameters and other collections.
      prompt_T: at least one token (`start_tokens`); see `window_start` for long ones.
      num_samples: texts.
      max_new_tokens: after the prompt, for each.
      settings: the logits processors.
      seed: 0 to 2**32 - 1.
      stop: the token that ends a sample; when all have ended, so does the stream.
      past_context: see `window_start`.
      ended: called with each chunk; true ends its samples.
      uses_kernels: use the compiled kernel where it is installed and covers what is asked for.

    Raises:
      UserError: a number out of its bounds, or "slide" for a model without a window.
    """
    for name, value, last in (
        ("num-samples", num_samples, MOST_SAMPLES),
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
            "--past-context: slide given; only the transformer and bow read it, as a model whose "
            f"memory is {model.memory} has no context to exceed: leave it out"
        )
    positions = cache_length(len(prompt_T) + max_new_tokens, model.capacity)
    decoder: Decoder | KernelDecoder | None = None
    if uses_kernels and is_covered(model, settings, num_samples, past_context):
        decoder = make_kernel_decoder(model, settings, stop, variables)
    # For one text it would return 1 after tracing the cache.
    size = 1 if num_samples == 1 else group_size(model, variables, num_samples, positions)
    groups = -(-num_samples // size)
    keys_B = sample_keys(seed, groups * size)
    if decoder is None:
        decoder = Decoder(model, settings, stop, variables, size, positions)
    seen_BV = None
    if settings.reads_text:
        seen_BV = symbols_in(np.tile(prompt_T, (size, 1)), model.vocab_size)

    def generated() -> Iterator[Chunk]:
        for first in range(0, num_samples, size):
            decoder.begin(keys_B if groups == 1 else keys_B[first : first + size])
            # Of the last group only a part may be wanted; the others do not keep it going.
            rows = slice(first, min(first + size, num_samples))
            done_B = np.arange(size) >= rows.stop - first
            for chunk in _segments(
                decoder, model.capacity, past_context, prompt_T, done_B, max_new_tokens, seen_BV
            ):
                wanted = chunk._replace(tokens_BK=chunk.tokens_BK[: rows.stop - first], rows=rows)
                yield wanted
                if ended(wanted):
                    break

    return generated()


def symbols_in(tokens_BT: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return which symbols stand in each text, (B, V) bool."""
    seen_BV = np.zeros((len(tokens_BT), vocab_size), bool)
    np.put_along_axis(seen_BV, np.asarray(tokens_BT, np.int64), True, axis=1)
    return seen_BV


def _segments(
    decoder: Decoder | KernelDecoder,
    capacity: int | None,
    past_context: PastContext,
    prompt_T: np.ndarray,
    done_B: np.ndarray,
    max_new_tokens: int,
    seen_BV: np.ndarray | None = None,
) -> Iterator[Chunk]:
    """Generate a group in segments, each prefilled once and decoded until the cache is full.

    With a sliding window the second segment is the last; a decoder that refills has one.
    """
    length, end = len(prompt_T), len(prompt_T) + max_new_tokens
    recent_BT = np.tile(prompt_T[window_start(length, capacity, past_context) :], (len(done_B), 1))
    call_tokens = 8
    while length < end and not done_B.all():
        began, compiled_before = time.perf_counter(), decoder.compile_seconds
        start = window_start(length, capacity, past_context)
        sliding = past_context == "slide" and start > 0
        # A forward pass over a whole window takes much longer than a step with a cache.
        call_tokens = 1 if sliding else call_tokens
        begin: Callable[..., Any] = decoder.prefill
        if sliding:
            assert isinstance(decoder, Decoder)
            begin = decoder.begin_sliding
        state = begin(recent_BT[:, start - length :], length, done_B)
        state = state if seen_BV is None else state._replace(seen_BV=seen_BV)
        is_whole = capacity is None or sliding or decoder.refills
        full = end if is_whole else min(end, start + (capacity or 0) + 1)
        while length < full and not done_B.all():
            rest = full - length
            steps = rest if 2 * rest <= 3 * call_tokens else call_tokens
            state, new_BK = decoder.decode(state, steps, sliding)
            # A copy: the state is donated to the next call.
            done_B = np.array(state.done_B)
            length += new_BK.shape[1]
            if seen_BV is not None:
                seen_BV = seen_BV | symbols_in(new_BK, seen_BV.shape[1])
            recent_BT = np.concatenate([recent_BT, new_BK], axis=1)[:, -(capacity or 1) :]
            compile_seconds = decoder.compile_seconds - compiled_before
            seconds = time.perf_counter() - began - compile_seconds
            yield Chunk(new_BK, seconds, compile_seconds)
            began, compiled_before = time.perf_counter(), decoder.compile_seconds
            longer = seconds > _CALL_SECONDS
            call_tokens = max(1, call_tokens // 2) if longer else min(_CALL_TOKENS, 2 * call_tokens)


def window_start(length: int, capacity: int | None, past_context: PastContext = "jump") -> int:
    """Return the index of the first token from which the one at index `length` is drawn.

    A text is read from its beginning until it is longer than `capacity`. From there on:

    jump: the next token is drawn from the newest half of the capacity alone, and from there the
      context grows again. The cache remains valid, so a token takes one step.
    slide: each token is drawn from the `capacity` newest ones, as in nanoGPT. Every token then
      changes its position with each new one, so that no cache can hold it (even with rotary
      positions: the second block's vectors depend on the whole window), and a token takes a
      forward pass over the window.

    The result depends on the length only: a prompt longer than the capacity is read as if it had
    been generated.
    """
    if capacity is None or length <= capacity:
        return 0
    if past_context == "slide":
        return length - capacity
    newest = max(1, capacity // 2)
    stride = capacity + 1 - newest
    return -(-(length - capacity) // stride) * stride


def sample_keys(seed: int, num_samples: int) -> Array:
    """Return the keys (B,) of the samples; a sample's key does not depend on their number."""
    return folded_keys(seed, np.arange(num_samples))


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
    """Generate as `stream` must, with a forward pass over the whole window for each token.

    Returns:
      The new tokens (B, max_new_tokens) int32.
    """
    text_BT, end = np.tile(prompt_T, (num_samples, 1)), len(prompt_T) + max_new_tokens
    keys_B = sample_keys(seed, num_samples)
    for length in range(len(prompt_T), end):
        window_BT = text_BT[:, window_start(length, model.capacity, past_context) :]
        T = window_BT.shape[1]
        # Padded at its end to one length: compiled once, and a causal model does not see it.
        padded_BT = np.pad(window_BT, ((0, 0), (0, (model.capacity or end) - T)))
        last, index = np.int32(T - 1), np.int32(length)
        seen_BV = symbols_in(text_BT, model.vocab_size) if settings.reads_text else None
        token_B = _choose_next(model, settings, variables, keys_B, padded_BT, last, index, seen_BV)
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
    seen_BV: Array | None,
) -> Array:
    """Draw the tokens (B,) at index `index` of the text; `last` is the newest in the window."""
    logits_BTV, _ = model.apply(variables, tokens_BT)
    return choose(logits_BTV[:, last], keys_B, index, settings, seen_BV)
