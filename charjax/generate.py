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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError
from charjax.models.contract import CharModel
from charjax.processors import Sampling, choose

# Most tokens a call makes for each sample: a terminal sees them come, and signals are answered
# between calls. Calls longer than the seconds below are cut shorter.
_CALL_TOKENS = 64
_CALL_SECONDS = 0.25
# Long prompts are read in pieces of this many tokens, so that memory stays bounded.
_PIECE = 1024


class Chunk(NamedTuple):
    """What one call of the loop made.

    Attributes:
      tokens_BK: int32; a sample that has ended is filled up with the stop token.
      seconds: it took.
      compile_seconds: spent compiling before it, not in `seconds`.
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
) -> Iterator[Chunk]:
    """New tokens as they come: at most 64 of each sample, or about a quarter second, at once.

    Args:
      model: any family.
      variables: its parameters and other collections.
      prompt_T: at least one token (`start_tokens`); see `window_start` for long ones.
      num_samples: texts made in one batch.
      max_new_tokens: after the prompt, for each.
      settings: how tokens are chosen.
      seed: 0 to 2**32 - 1.
      stop: the token that ends a sample; when all have ended, so does the stream.

    Raises:
      UserError: a number out of its bounds.
    """
    for name, value, last in (
        ("num-samples", num_samples, 2**31 - 1),
        ("max-new-tokens", max_new_tokens, 2**31 - 1 - len(prompt_T)),
        ("seed", seed, 2**32 - 1),
    ):
        first = 0 if name == "seed" else 1
        if not first <= value <= last:
            raise UserError(
                f"{name}: {value} given; it must be a whole number from {first} to {last}"
            )
    keys_B = sample_keys(seed, num_samples)
    programs = _Programs(model, settings, stop, variables, keys_B)
    return _segments(programs, model.capacity, prompt_T, num_samples, max_new_tokens)


def _segments(
    programs: "_Programs",
    capacity: int | None,
    prompt_T: np.ndarray,
    num_samples: int,
    max_new_tokens: int,
) -> Iterator[Chunk]:
    """Segments of the text, each prefilled once and decoded until the cache is full."""
    length, end = len(prompt_T), len(prompt_T) + max_new_tokens
    recent_BT = np.tile(prompt_T[window_start(length, capacity) :], (num_samples, 1))
    done_B = np.zeros(num_samples, bool)
    call_tokens = 8
    while length < end and not done_B.all():
        began, compiled_before = time.perf_counter(), programs.compile_seconds
        start = window_start(length, capacity)
        state = programs.prefill(recent_BT[:, start - length :], length, done_B)
        full = end if capacity is None else min(end, start + capacity + 1)
        while length < full and not done_B.all():
            state, new_BK = programs.decode(state, min(call_tokens, full - length))
            # A copy: the state is donated to the next call.
            done_B, length = np.array(state.done_B), length + new_BK.shape[1]
            recent_BT = np.concatenate([recent_BT, new_BK], axis=1)[:, -(capacity or 1) :]
            compile_seconds = programs.compile_seconds - compiled_before
            seconds = time.perf_counter() - began - compile_seconds
            yield Chunk(new_BK, seconds, compile_seconds)
            began, compiled_before = time.perf_counter(), programs.compile_seconds
            longer = seconds > _CALL_SECONDS
            call_tokens = max(1, call_tokens // 2) if longer else min(_CALL_TOKENS, 2 * call_tokens)


def window_start(length: int, capacity: int | None) -> int:
    """Where the tokens begin that the one at index `length` is drawn from; they end before it.

    Learned positions cannot slide. So a text is read from its beginning until its `capacity`
    newest tokens are in use; the next token is drawn from the newest half of the capacity alone,
    and from there the context grows again. This depends on the length only: of a prompt that is
    longer than the capacity, between a half and the whole capacity of its last tokens are read,
    the same that would be if the prompt had been generated.
    """
    if capacity is None or length <= capacity:
        return 0
    kept = max(1, capacity // 2)
    stride = capacity + 1 - kept
    return -(-(length - capacity) // stride) * stride


def sample_keys(seed: int, num_samples: int) -> Array:
    """The random streams (B,) of the samples: each its own, whatever their number."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(num_samples))


class _State(NamedTuple):
    """What the decode loop carries: the cache holds the `length - 1` tokens before `token_B`."""

    cache: Any
    token_B: Array
    length: Array
    done_B: Array


class _Programs:
    """The compiled programs of one stream, with their constant arguments."""

    def __init__(
        self, model: CharModel, settings: Sampling, stop: int | None, variables: Any, keys_B: Array
    ):
        self.compile_seconds = 0.0
        self._model, self._settings, self._stop = model, settings, stop
        # One device does all: a state replicated over eight would do the same work eight times.
        self._device = next(iter(jnp.zeros(()).devices()))
        self._variables, self._keys_B = jax.device_put((variables, keys_B), self._device)
        self._decode: Any = None

    def prefill(self, tokens_BT: np.ndarray, length: int, done_B: np.ndarray) -> _State:
        """All tokens but the last in a new cache, that one waiting."""
        context_BT, token_B, index, done_B = jax.device_put(
            (tokens_BT[:, :-1], tokens_BT[:, -1], np.int32(length), done_B), self._device
        )
        program = self._compile(_prefill, (self._model,), self._variables, context_BT)
        return _State(program(self._variables, context_BT), token_B, index, done_B)

    def decode(self, state: _State, steps: int) -> tuple[_State, np.ndarray]:
        """Up to `steps` more tokens (B, K); fewer where every sample has ended. Waits for them."""
        count = jax.device_put(np.int32(steps), self._device)
        arguments = (self._variables, self._keys_B, state, count)
        if self._decode is None:
            static = (self._model, self._settings, self._stop)
            self._decode = self._compile(_decode, static, *arguments)
        state, buffer_KB, made = self._decode(*arguments)
        return state, np.asarray(buffer_KB)[: int(made)].T

    def _compile(self, function: Any, static: tuple[Any, ...], *arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten(arguments)
        shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for x in leaves)
        began = time.perf_counter()
        program = _compiled(function, static, tree, shapes)
        self.compile_seconds += time.perf_counter() - began
        return program


@functools.lru_cache(maxsize=32)
def _compiled(function: Any, static: tuple[Any, ...], tree: Any, shapes: tuple[Any, ...]) -> Any:
    """A program compiled ahead of time, so that compilation can be told apart from running."""
    return function.lower(*static, *jax.tree.unflatten(tree, shapes)).compile()


@functools.partial(jax.jit, static_argnames="model")
def _prefill(model: CharModel, variables: Any, tokens_BT: Array) -> Any:
    """A new cache with the tokens in it."""

    def read(cache: Any, tokens_BT: Array) -> tuple[Any, None]:
        _, cache = model.apply(variables, tokens_BT, cache, num_outputs=1)
        return cache, None

    B, T = tokens_BT.shape
    cache, first = model.init_cache(B), T % _PIECE
    if first:
        cache, _ = read(cache, tokens_BT[:, :first])
    pieces = tokens_BT[:, first:].reshape(B, -1, _PIECE).swapaxes(0, 1)
    if len(pieces):
        cache, _ = jax.lax.scan(read, cache, pieces)
    return cache


@functools.partial(jax.jit, static_argnames=("model", "settings", "stop"), donate_argnames="state")
def _decode(
    model: CharModel,
    settings: Sampling,
    stop: int | None,
    variables: Any,
    keys_B: Array,
    state: _State,
    steps: Array,
) -> tuple[_State, Array, Array]:
    """Up to `steps` tokens a sample; (state, tokens in a (_CALL_TOKENS, B) buffer, how many)."""

    def goes_on(loop: tuple[Array, _State, Array]) -> Array:
        made, state, _ = loop
        wanted = made < steps
        return wanted if stop is None else wanted & ~state.done_B.all()

    def step(loop: tuple[Array, _State, Array]) -> tuple[Array, _State, Array]:
        made, state, buffer_KB = loop
        logits_B1V, cache = model.apply(
            variables, state.token_B[:, None], state.cache, num_outputs=1
        )
        token_B = choose(logits_B1V[:, 0], keys_B, state.length, settings)
        done_B = state.done_B
        if stop is not None:
            token_B = jnp.where(done_B, stop, token_B)
            done_B = done_B | (token_B == stop)
        state = _State(cache, token_B, state.length + 1, done_B)
        return made + 1, state, buffer_KB.at[made].set(token_B)

    buffer_KB = jnp.zeros((_CALL_TOKENS, state.token_B.size), jnp.int32)
    made, state, buffer_KB = jax.lax.while_loop(goes_on, step, (jnp.int32(0), state, buffer_KB))
    return state, buffer_KB, made


def generate_uncached(
    model: CharModel,
    variables: Any,
    prompt_T: np.ndarray,
    *,
    num_samples: int,
    max_new_tokens: int,
    settings: Sampling,
    seed: int,
) -> np.ndarray:
    """The plain version that `stream` must equal: all of the window anew for each token.

    Returns:
      The new tokens (B, max_new_tokens) int32.
    """
    text_BT, end = np.tile(prompt_T, (num_samples, 1)), len(prompt_T) + max_new_tokens
    for length in range(len(prompt_T), end):
        window_BT = text_BT[:, window_start(length, model.capacity) :]
        # Padded at its end to one length, so compiled once; a causal model cannot see it.
        padding = (model.capacity or end) - window_BT.shape[1]
        logits_BTV = _all_logits(model, variables, np.pad(window_BT, ((0, 0), (0, padding))))
        logits_BV = logits_BTV[:, window_BT.shape[1] - 1]
        token_B = choose(logits_BV, sample_keys(seed, num_samples), jnp.int32(length), settings)
        text_BT = np.append(text_BT, np.asarray(token_B)[:, None], axis=1)
    return text_BT[:, len(prompt_T) :]


@functools.partial(jax.jit, static_argnames="model")
def _all_logits(model: CharModel, variables: Any, tokens_BT: Array) -> Array:
    return model.apply(variables, tokens_BT)[0]
