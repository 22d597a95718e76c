"""The compiled programs of generation: prefill a cache, and decode from it.

Shapes: B samples, T tokens, K tokens of one call, V symbols; for a sliding window, C its length,
read in P pieces of R samples.
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from charjax import backend, hardware, parallel
from charjax.generation.sampling import Sampling, choose
from charjax.models.contract import CharModel
from charjax.programs.command import open_store

# The most tokens that one call can generate, of each sample.
CALL_LIMIT = 96
# Long prompts are read in pieces of this many tokens, so that memory stays bounded.
PIECE = 1024
# Tokens of a sliding window that are read at once: more samples are read in pieces, so that memory
# stays bounded.
_WINDOW_TOKENS = 8192
# The fewest samples per core for which cores share the samples: with fewer, matrix products are
# too small (measured: benchmarks/NOTES.md).
_ROWS_PER_CORE = 8
# The most logits of one step, of all samples that are decoded together: 4 MB in float32, of which
# top-p's sort makes several copies.
_MOST_LOGITS = 1 << 20
# Bytes of the caches of a group on a CPU: at least these, or so many times the parameters.
_LEAST_CACHE, _CACHES_PER_PARAMETERS = 20 << 20, 2
# Part of an accelerator's memory for the caches of a group.
_PART_OF_MEMORY = 0.25
# The fewest positions of a cache.
_LEAST_POSITIONS = 32


class State(NamedTuple):
    """The carry of the decode loop.

    Attributes:
      cache: the model's cache of the tokens before `token_B`; for a sliding window, those tokens
        themselves (B, C - 1), where C is the model's capacity.
      token_B: int32, the newest tokens, not in the cache yet.
      length: int32, length of the text so far, `token_B` included.
      done_B: bool, the samples that have ended.
      seen_BV: bool, the symbols that stand in each text, where the draws depend on them; else ().
    """

    cache: Any
    token_B: Array
    length: Array
    done_B: Array
    seen_BV: Any = ()


def group_size(model: CharModel, variables: Any, samples: int, positions: int) -> int:
    """Return the number of texts that are decoded together; the groups follow one another.

    A step reads the parameters once for all texts of a group, and the cache of each: a cache much
    larger than the parameters gains nothing, and on a CPU it is slower than one that the
    processor's caches hold (measured: benchmarks/NOTES.md).

    Args:
      model: any family.
      variables: its parameters and other collections.
      samples: texts in all.
      positions: tokens of the cache.
    """
    devices = jax.local_devices()
    each = _bytes(jax.eval_shape(lambda: model.short_cache(1, positions)))
    if devices[0].platform == "cpu":
        usable = max(_LEAST_CACHE, _CACHES_PER_PARAMETERS * _bytes(variables))
    else:
        usable = round(_PART_OF_MEMORY * hardware.total_memory(devices[:1]))
    most = max(1, min(usable // max(1, each), _MOST_LOGITS // model.vocab_size))
    size = -(-samples // -(-samples // most))
    # Cores divide the texts of a large group among them: an even number on two, and no more than
    # that, as each text above `samples` is computed for nothing.
    cores = len(devices) if devices[0].platform == "cpu" else 1
    return size if size < cores * _ROWS_PER_CORE else -(-size // cores) * cores


def cache_length(length: int, capacity: int | None) -> int:
    """Return the tokens of a cache for texts of `length`: few numbers, to share programs."""
    rounded = max(_LEAST_POSITIONS, 1 << (length - 1).bit_length())
    return rounded if capacity is None else min(capacity, rounded)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Decoder:
    """The compiled programs of one stream, with their constant arguments.

    Groups of texts of one size use the same programs, one group after another.

    Attributes:
      compile_seconds: time spent on compilation so far, and in each new program's first run.
      refills: a call reads the context anew wherever that is full; else it must end there.
    """

    refills = False

    def __init__(
        self,
        model: CharModel,
        settings: Sampling,
        stop: int | None,
        variables: Any,
        size: int,
        positions: int,
    ):
        """Place the variables; no program is compiled yet.

        Args:
          model: any family.
          settings: the logits processors.
          stop: the token that ends a sample.
          variables: the model's parameters and other collections.
          size: B, the texts of a group.
          positions: tokens of the cache.
        """
        self.compile_seconds = 0.0
        self._model, self._settings, self._stop = model, settings, stop
        self._positions = positions
        # With a stop token a call ends when all samples have: cores would have to synchronize.
        least = _ROWS_PER_CORE if stop is None else size
        self._mesh = parallel.core_mesh(size, least)
        self._variables = parallel.place(variables, parallel.replicated(self._mesh))
        self._keys_B: Any = None
        # By the number of tokens. Looking up a program by all its arguments takes as long as
        # reading a short text.
        self._readers: dict[int, Any] = {}
        # By `sliding`.
        self._programs: dict[bool, Any] = {}

    def begin(self, keys_B: Array) -> None:
        """Begin a group of texts, with their keys."""
        self._keys_B = parallel.place_rows(keys_B, self._mesh)

    def prefill(self, tokens_BT: np.ndarray, length: int, done_B: np.ndarray) -> State:
        """Return the state with all tokens but the last in a new cache."""
        context_BT, token_B = tokens_BT[:, :-1], tokens_BT[:, -1]
        T = context_BT.shape[1]
        if T not in self._readers:
            placed = parallel.place_rows(context_BT, self._mesh)
            static = (self._model, self._mesh, self._positions)
            self._readers[T], _ = self._compile(_prefill, static, self._variables, placed)
        # The programs place NumPy arrays themselves, faster than device_put does.
        cache = self._readers[T](self._variables, context_BT)
        return State(cache, token_B, np.int32(length), done_B)  # type: ignore[arg-type]

    def begin_sliding(self, tokens_BC: np.ndarray, length: int, done_B: np.ndarray) -> State:
        """Return the state of a sliding window, with the C newest tokens."""
        window: Any = tokens_BC[:, :-1], tokens_BC[:, -1], np.int32(length), done_B
        return State(*parallel.place_rows(window, self._mesh))

    def decode(self, state: State, steps: int, sliding: bool = False) -> tuple[State, np.ndarray]:
        """Decode up to `steps` more tokens (B, K), fewer if every sample ends, and wait for them.

        Args:
          state: of `prefill`, or of `begin_sliding` for a sliding window; donated.
          steps: at most CALL_LIMIT.
          sliding: whether each token is drawn from a forward pass over the C newest ones.
        """
        if sliding not in self._programs:
            none: Any = np.int32(0)
            cache, *rest = state
            state = State(cache, *parallel.place_rows(rest, self._mesh))
            static = (self._model, self._mesh, self._settings, self._stop, sliding)
            placed = parallel.place_rows(none, self._mesh)
            self._programs[sliding], first = self._compile(
                decode_tokens, static, self._variables, self._keys_B, state, placed
            )
            # The state was donated to the first run.
            state = first[0] if first else state
        state, buffer_BK, made = self._programs[sliding](
            self._variables, self._keys_B, state, np.int32(steps)
        )
        return state, np.asarray(buffer_BK)[:, : int(made)]

    def _compile(self, function: Any, static: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        """Return a program, and if it is new the result of its first run, which is slower."""
        leaves, tree = jax.tree.flatten(arguments)
        shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for x in leaves)
        began, known = time.perf_counter(), _compiled.cache_info().misses
        program = _compiled(function, static, self._mesh, tree, shapes)
        is_new = _compiled.cache_info().misses > known
        first = jax.block_until_ready(program(*arguments)) if is_new else None
        self.compile_seconds += time.perf_counter() - began
        return program, first


@functools.lru_cache(maxsize=32)
def _compiled(
    function: Any, static: tuple[Any, ...], mesh: Mesh, tree: Any, shapes: tuple[Any, ...]
) -> Any:
    """Compile a program ahead of time, so that compilation is timed separately."""
    arguments = jax.tree.unflatten(tree, shapes)

    def lower() -> jax.stages.Lowered:
        with parallel.target(mesh):
            lowered: jax.stages.Lowered = function.lower(*static, *arguments)
        return lowered

    def compile_lowered(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        return backend.compiled(lowered, mesh, onednn=False)

    if (store := open_store()) is None or mesh.is_multi_process:
        return compile_lowered(lower())
    names = function.__name__, *map(repr, static)
    return store.get(names, arguments, mesh, lower, compile_lowered)


@functools.partial(jax.jit, static_argnames=("model", "mesh", "positions"))
def _prefill(model: CharModel, mesh: Mesh, positions: int, variables: Any, tokens_BT: Array) -> Any:
    """Return a new cache with the tokens in it."""
    function = functools.partial(_read, model, positions)
    read = parallel.shard_rows(function, mesh, parallel.WHOLE, parallel.ROWS)
    return read(variables, tokens_BT)


def _read(model: CharModel, positions: int, variables: Any, tokens_BT: Array) -> Any:
    """Return a new cache with the tokens of one device in it."""

    def read(cache: Any, tokens_BT: Array) -> tuple[Any, None]:
        _, cache = model.apply(variables, tokens_BT, cache, num_outputs=1)
        return cache, None

    B, T = tokens_BT.shape
    cache, first = model.short_cache(B, positions), T % PIECE
    if first:
        cache, _ = read(cache, tokens_BT[:, :first])
    pieces = tokens_BT[:, first:].reshape(B, -1, PIECE).swapaxes(0, 1)
    if len(pieces):
        cache, _ = jax.lax.scan(read, cache, pieces)
    return cache


@functools.partial(
    jax.jit,
    static_argnames=("model", "mesh", "settings", "stop", "sliding"),
    donate_argnames="state",
)
def decode_tokens(
    model: CharModel,
    mesh: Mesh,
    settings: Sampling,
    stop: int | None,
    sliding: bool,
    variables: Any,
    keys_B: Array,
    state: State,
    steps: Array,
) -> tuple[State, Array, Array]:
    """Decode up to `steps` tokens of each sample.

    Returns:
      The state, the tokens in a (B, CALL_LIMIT) buffer, and their number.
    """

    def write(
        variables: Any, keys_B: Array, state: State, steps: Array
    ) -> tuple[State, Array, Array]:
        """Decode the samples of one device."""

        def goes_on(loop: tuple[Array, State, Array]) -> Array:
            made, state, _ = loop
            wanted = made < steps
            return wanted if stop is None else wanted & ~state.done_B.all()

        def step(loop: tuple[Array, State, Array]) -> tuple[Array, State, Array]:
            made, state, buffer_KB = loop
            if sliding:
                window_BC = jnp.concatenate([state.cache, state.token_B[:, None]], axis=1)
                logits_BV, cache = read_window(model, variables, window_BC), window_BC[:, 1:]
            else:
                logits_B1V, cache = model.apply(
                    variables, state.token_B[:, None], state.cache, num_outputs=1
                )
                logits_BV = logits_B1V[:, 0]
            seen_BV = state.seen_BV if settings.reads_text else None
            token_B = choose(logits_BV, keys_B, state.length, settings, seen_BV)
            done_B = state.done_B
            if stop is not None:
                token_B = jnp.where(done_B, stop, token_B)
                done_B = done_B | (token_B == stop)
            if seen_BV is not None:
                seen_BV = seen_BV.at[jnp.arange(token_B.size), token_B].set(True)
            seen = () if seen_BV is None else seen_BV
            state = State(cache, token_B, state.length + 1, done_B, seen)
            return made + 1, state, buffer_KB.at[made].set(token_B)

        buffer_KB = jnp.zeros((CALL_LIMIT, state.token_B.size), jnp.int32)
        made, state, buffer_KB = jax.lax.while_loop(goes_on, step, (jnp.int32(0), state, buffer_KB))
        return state, buffer_KB.T, made

    layouts = (parallel.WHOLE, parallel.ROWS, parallel.ROWS, parallel.WHOLE)
    return parallel.shard_rows(write, mesh, *layouts)(variables, keys_B, state, steps)


def read_window(model: CharModel, variables: Any, tokens_BC: Array) -> Array:
    """Return the logits after each row's tokens, read from position 0: (B, V) float32."""

    def read(tokens_RC: Array) -> Array:
        logits_R1V, _ = model.apply(variables, tokens_RC, num_outputs=1)
        return logits_R1V[:, 0]

    B, C = tokens_BC.shape
    pieces = -(-B // max(1, _WINDOW_TOKENS // C))
    if pieces == 1:
        return read(tokens_BC)
    rows = -(-B // pieces)
    padded = jnp.pad(tokens_BC, ((0, pieces * rows - B), (0, 0)))
    logits_PRV = jax.lax.map(read, padded.reshape(pieces, rows, C))
    logits_BV: Array = logits_PRV.reshape(pieces * rows, -1)[:B]
    return logits_BV
