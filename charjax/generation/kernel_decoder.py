"""One text by the compiled kernel of `charjax-kernels`: whole steps, and the context read anew.

The draws are those of `decoder.Decoder`, as the noise is. The logits are equal to about 1e-6, so a
token differs only where two symbols are as near as that; the texts part there.

Shapes: K tokens of one call, V symbols, C positions of the cache, N weights.
"""

import functools
import time
import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax import backend, hardware, parallel
from charjax.generation.decoder import CALL_LIMIT
from charjax.generation.sampling import Sampling
from charjax.models.contract import CharModel
from charjax.models.transformer_packing import KernelForm
from charjax.ops.choice import on_cpu
from charjax.ops.kernels import find_kernels, kernels_in_words

# Weights are copied into another order; above so many (0.5 GB) they are left where they are.
_MOST_WEIGHTS = 1 << 27
# Threads that share the products of a step; more halves would be too small.
_MOST_THREADS = 2


class KernelState(NamedTuple):
    """The text between two calls.

    Attributes:
      caches: of this window and of the next one (kernels/src/charjax_kernels/decode_step.h).
      window_C: int32, the tokens from which the next one is drawn.
      counts: int32 (5,), see `Counter` in kernels/src/charjax_kernels/decode.cc.
      length: of the text so far.
      done_B: bool (1,), the text has ended.
    """

    caches: Any
    window_C: Any
    counts: np.ndarray
    length: int
    done_B: np.ndarray


def is_covered(model: CharModel, settings: Sampling, num_samples: int, past_context: str) -> bool:
    """Return true if the kernel generates such texts; the others are decoded by XLA.

    Args:
      model: the network.
      settings: the logits processors.
      num_samples: texts.
      past_context: see `generate.window_start`.
    """
    form = model.kernel_form
    if num_samples != 1 or past_context != "jump" or form is None or not on_cpu():
        return False
    if form.size > _MOST_WEIGHTS:
        return False
    return not settings.reads_text and settings.typical_p in (None, 1)


class KernelDecoder:
    """The compiled program of one stream; it has the interface of `decoder.Decoder`.

    Attributes:
      compile_seconds: time spent on compilation so far.
      refills: a call reads the context anew wherever that is full.
    """

    refills = True

    def __init__(
        self,
        form: KernelForm,
        settings: Sampling,
        stop: int | None,
        variables: Any,
    ):
        """Pack the weights; no program is compiled yet.

        Args:
          form: of the model.
          settings: the logits processors.
          stop: the token that ends the text.
          variables: the model's parameters.
        """
        self.compile_seconds = 0.0
        self._form, self._settings, self._stop = form, settings, stop
        self._weights_N = _packed(form, variables["params"])
        self._keys_B: Any = None

    def begin(self, keys_B: Array) -> None:
        """Begin the text, with its key (1,)."""
        self._keys_B = keys_B

    def prefill(self, tokens_BT: np.ndarray, length: int, done_B: np.ndarray) -> KernelState:
        """Return the state with all tokens (1, T) in the window; the next call reads them."""
        T = tokens_BT.shape[1]
        window_C = np.zeros(self._form.context, np.int32)
        window_C[:T] = tokens_BT[0]
        caches = jnp.zeros(2 * self._form.cache_size, jnp.float32)
        return KernelState(caches, window_C, np.array([T, 0, 0, 0, 0], np.int32), length, done_B)

    def decode(
        self, state: KernelState, steps: int, sliding: bool = False
    ) -> tuple[KernelState, np.ndarray]:
        """Decode up to `steps` more tokens (1, K), fewer if the text ends, and wait for them.

        Args:
          state: donated.
          steps: at most CALL_LIMIT.
          sliding: must be false.
        """
        assert not sliding
        began, known = time.perf_counter(), _compiled.cache_info().misses
        program = _compiled(self._form, self._settings, self._stop, _threads())
        if _compiled.cache_info().misses > known:
            self.compile_seconds += time.perf_counter() - began
        counts = state.counts.copy()
        counts[-1] = steps
        caches, window_C, counts, tokens_K, _ = program(
            self._weights_N,
            self._keys_B,
            state.caches,
            state.window_C,
            counts,
            np.int32(state.length),
        )
        counts = np.asarray(counts)
        new_BK = np.asarray(tokens_K)[None, : counts[-1]]
        done_B = state.done_B | (new_BK == self._stop).any(axis=1)
        length = state.length + new_BK.shape[1]
        return KernelState(caches, window_C, counts, length, done_B), new_BK


def kernels_of(
    model: CharModel, settings: Sampling, num_samples: int, past_context: str
) -> str | None:
    """Return the compiled kernels that generate such texts, in words; None if none does."""
    if not _has_kernel() or not is_covered(model, settings, num_samples, past_context):
        return None
    return kernels_in_words()


def make_kernel_decoder(
    model: CharModel, settings: Sampling, stop: int | None, variables: Any
) -> KernelDecoder | None:
    """Return the decoder; None without the package, arguments as of `decoder.Decoder`."""
    form = model.kernel_form
    if form is None or not _has_kernel():
        return None
    return KernelDecoder(form, settings, stop, variables)


def _has_kernel() -> bool:
    """Return true if the package is there, and not one from before this kernel."""
    return hasattr(find_kernels(), "DECODE")


def _threads() -> int:
    return min(_MOST_THREADS, hardware.cores())


# The weights that were packed last, by the arrays that they are made from; removed with them.
_last_packed: dict[tuple[int, ...], Array] = {}


def _packed(form: KernelForm, params: Any) -> Array:
    """Return the weights as packed, which takes as long as tens of characters.

    Arrays of JAX never change, and no two that live have one id.
    """
    leaves = jax.tree.leaves(params)
    names = (hash(form), *map(id, leaves))
    if (found := _last_packed.get(names)) is not None:
        return found
    _last_packed.clear()
    packed_N = jnp.asarray(form.pack(params))
    if all(isinstance(leaf, Array) for leaf in leaves):
        _last_packed[names] = packed_N
        for leaf in leaves:
            weakref.finalize(leaf, _last_packed.pop, names, None)
    return packed_N


@functools.lru_cache(maxsize=32)
def _compiled(
    form: KernelForm, settings: Sampling, stop: int | None, threads: int
) -> jax.stages.Compiled:
    """Compile the program of a call, ahead of time, so that this is timed separately."""
    mesh = parallel.core_mesh(1, 1)
    place = parallel.replicated(mesh)
    shapes = (
        jax.ShapeDtypeStruct((form.size,), jnp.float32, sharding=place),
        jax.ShapeDtypeStruct((1,), jax.random.key(0).dtype, sharding=place),
        jax.ShapeDtypeStruct((2 * form.cache_size,), jnp.float32, sharding=place),
        jax.ShapeDtypeStruct((form.context,), jnp.int32, sharding=place),
        jax.ShapeDtypeStruct((5,), jnp.int32, sharding=place),
        jax.ShapeDtypeStruct((), jnp.int32, sharding=place),
    )
    lowered = generate_tokens.lower(form, settings, stop, threads, *shapes)
    return backend.compiled(lowered, mesh, onednn=False)


@functools.partial(
    jax.jit,
    static_argnames=("form", "settings", "stop", "threads"),
    donate_argnames="caches",
)
def generate_tokens(
    form: KernelForm,
    settings: Sampling,
    stop: int | None,
    threads: int,
    weights_N: Array,
    keys_B: Array,
    caches: Array,
    window_C: Array,
    counts: Array,
    length: Array,
) -> list[Array]:
    """Call the kernel.

    Args:
      form: of the model.
      settings: the logits processors.
      stop: the token that ends the text.
      threads: that share a step, 1 or 2.
      weights_N: as packed.
      keys_B: (1,), of the text.
      caches: see KernelState.
      window_C: likewise.
      counts: likewise.
      length: of the text so far.

    Returns:
      caches, window and counts; the tokens in a (CALL_LIMIT,) buffer, and the logits of each,
      (CALL_LIMIT, V).
    """
    V = form.vocabulary

    def noise_of(index: Array) -> Array:
        # Of `jax.random.categorical`.
        return jax.random.gumbel(jax.random.fold_in(keys_B[0], index), (V,), jnp.float32)

    if settings.greedy:
        noise_KV = jnp.zeros((0, V), jnp.float32)
    else:
        noise_KV = jax.vmap(noise_of)(length + jnp.arange(CALL_LIMIT, dtype=jnp.int32))
    results = (
        jax.ShapeDtypeStruct(caches.shape, jnp.float32),
        jax.ShapeDtypeStruct(window_C.shape, jnp.int32),
        jax.ShapeDtypeStruct((5,), jnp.int32),
        jax.ShapeDtypeStruct((CALL_LIMIT,), jnp.int32),
        jax.ShapeDtypeStruct((CALL_LIMIT, V), jnp.float32),
    )
    package = find_kernels()
    assert package is not None
    kernel = jax.ffi.ffi_call(package.DECODE, results, input_output_aliases={1: 0})
    bounds, tiny = np.finfo(np.float32), float(np.finfo(np.float64).tiny)
    temperature = min(max(settings.temperature, float(bounds.tiny)), float(bounds.max))
    attributes = {
        "vocabulary": np.int64(V),
        "width": np.int64(form.width),
        "heads": np.int64(form.heads),
        "layers": np.int64(form.layers),
        "hidden": np.int64(form.hidden),
        "tanh": np.bool_(form.tanh),
        "epsilon": np.float32(form.epsilon),
        "temperature": np.float32(temperature),
        "top_k": np.int64(V if settings.top_k is None else min(settings.top_k, V)),
        "top_p": np.float64(1.0 if settings.top_p is None else max(settings.top_p, tiny)),
        "min_p": np.float64(settings.min_p or 0.0),
        "greedy": np.bool_(settings.greedy),
        "stop": np.int64(-1 if stop is None else stop),
        "threads": np.int64(threads),
    }
    return list(kernel(weights_N, caches, window_C, counts, noise_KV, **attributes))
