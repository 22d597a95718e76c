"""One text by the compiled kernel: XLA's logits and texts, whatever the sizes, calls and threads.

Letters: K tokens, C context, V symbols.
"""

import gc
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from charjax import hardware, models
from charjax.config import parse_config
from charjax.generation import generate as generation
from charjax.generation import kernel_decoder
from charjax.generation.decoder import CALL_LIMIT
from charjax.generation.generate import generate_uncached, sample_keys, stream, window_start
from charjax.generation.kernel_decoder import generate_tokens, is_covered
from charjax.generation.sampling import Sampling
from charjax.ops import kernels

ROOT = Path(__file__).resolve().parents[2]
PLAIN = Sampling()
SIZES = {
    "default": {},
    "biased": {"bias": True, "tie_embeddings": False, "activation": "gelu_tanh", "n_layer": 1},
    # No whole vectors, and heads that do not divide into equal halves.
    "narrow": {"d_model": 15, "n_head": 3, "n_layer": 2, "context_length": 9},
    "one-head": {"d_model": 20, "n_head": 1, "n_layer": 1, "bias": True, "context_length": 17},
    "one-token": {"d_model": 16, "n_head": 2, "n_layer": 2, "context_length": 1},
    "two-tokens": {"d_model": 16, "n_head": 4, "n_layer": 2, "context_length": 2},
    "long": {"d_model": 32, "n_head": 2, "n_layer": 2, "context_length": 100},
}


def needs_kernels():
    if kernels.find_kernels() is None:
        pytest.skip("charjax-kernels is not installed (pip install ./kernels): not compared")


def build(section, vocabulary=65):
    """Return a model with no parameter 0 or 1; its logits differ by several units."""
    section = {"kind": "transformer", "context_length": 64} | section
    model = models.build(parse_config({"model": section}).model, vocabulary, jnp.dtype("float32"))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)
    noisy = [leaf + rng.normal(0, 0.03, leaf.shape).astype(np.float32) for leaf in leaves]
    return model, tree.unflatten(map(jnp.asarray, noisy))


def prompt_of(length, vocabulary):
    return np.random.default_rng(length).integers(0, vocabulary, length).astype(np.int32)


def text_of(model, variables, prompt, new, settings=PLAIN, seed=0, **options):
    asked = {"num_samples": 1, "max_new_tokens": new, "settings": settings, "seed": seed}
    chunks = list(stream(model, variables, prompt, **asked, **options))
    return np.concatenate([chunk.tokens_BK for chunk in chunks], axis=1)[0]


def by_xla(*arguments):
    return text_of(*arguments, uses_kernels=False)


def logits_of(model, variables, prompt, steps, threads=2):
    """Return the tokens (K,) of one call, and the logits (K, V) from which they were drawn."""
    form = model.kernel_form
    decoder = kernel_decoder.KernelDecoder(form, PLAIN, None, variables)
    state = decoder.prefill(prompt[None], len(prompt), np.zeros(1, bool))
    counts = state.counts + np.array([0, 0, 0, 0, steps], np.int32)
    weights_N = jnp.asarray(form.pack(variables["params"]))
    text = state.caches, state.window_C, counts, np.int32(len(prompt))
    results = generate_tokens(form, PLAIN, None, threads, weights_N, sample_keys(0, 1), *text)
    return np.asarray(results[3])[:steps], np.asarray(results[4])[:steps]


def expected_logits(model, variables, prompt, tokens_K):
    """Return the logits (K, V) by forward passes over whole windows."""
    text, C = np.append(prompt, tokens_K), model.capacity
    ends = range(len(prompt), len(text))
    windows = [text[window_start(end, C) : end] for end in ends]
    padded_KC = np.stack([np.pad(each, (0, C - len(each))) for each in windows])
    logits_KCV = jax.jit(lambda tokens: model.apply(variables, tokens)[0])(padded_KC)
    last_K = np.array([len(each) - 1 for each in windows])
    return np.asarray(logits_KCV)[np.arange(len(windows)), last_K]


@pytest.mark.parametrize("size", SIZES)
def test_the_logits_are_those_of_the_model(size):
    needs_kernels()
    model, variables = build(SIZES[size])
    for length in {1, min(10, model.capacity), model.capacity}:
        prompt = prompt_of(length, 65)
        tokens_K, logits_KV = logits_of(model, variables, prompt, CALL_LIMIT)
        expected_KV = expected_logits(model, variables, prompt, tokens_K)
        np.testing.assert_allclose(logits_KV, expected_KV, rtol=1e-5, atol=1e-5)


@settings(max_examples=6, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(
    n_layer=st.integers(1, 3),
    n_head=st.integers(1, 5),
    width=st.integers(1, 20),
    context=st.integers(1, 40),
    vocabulary=st.integers(2, 200),
    bias=st.booleans(),
    tied=st.booleans(),
)
def test_the_logits_at_any_size(n_layer, n_head, width, context, vocabulary, bias, tied):
    needs_kernels()
    section = {"n_layer": n_layer, "n_head": n_head, "d_model": n_head * width, "bias": bias}
    section |= {"context_length": context, "tie_embeddings": tied}
    model, variables = build(section, vocabulary)
    prompt = prompt_of(min(context, 7), vocabulary)
    tokens_K, logits_KV = logits_of(model, variables, prompt, min(CALL_LIMIT, 2 * context + 3))
    expected_KV = expected_logits(model, variables, prompt, tokens_K)
    # Norms of few units divide by nearly nothing, which makes any rounding larger.
    np.testing.assert_allclose(logits_KV, expected_KV, rtol=1e-4, atol=1e-4)


def test_the_texts_of_the_default_model_are_those_of_xla():
    needs_kernels()
    model, variables = build({})
    for seed in range(3):
        drawn = model, variables, prompt_of(5, 65), 1200, PLAIN, seed
        np.testing.assert_array_equal(text_of(*drawn), by_xla(*drawn))


@pytest.mark.parametrize("length", [1, 16, 39])
def test_a_text_five_contexts_long_is_the_uncached_one(length):
    needs_kernels()
    model, variables = build({"n_layer": 2, "d_model": 32, "context_length": 16})
    prompt = prompt_of(length, 65)
    asked = {"num_samples": 1, "max_new_tokens": 80, "settings": PLAIN, "seed": 3}
    expected = generate_uncached(model, variables, prompt, **asked)[0]
    np.testing.assert_array_equal(text_of(model, variables, prompt, 80, seed=3), expected)


@pytest.mark.parametrize(
    "drawing",
    [
        Sampling(greedy=True),
        Sampling(temperature=0.5),
        Sampling(temperature=1e-30),
        Sampling(top_k=1),
        Sampling(top_k=9, top_p=0.7),
        Sampling(top_k=1000, top_p=1e-9),
        Sampling(temperature=1.5, top_p=0.9),
        Sampling(min_p=0.05),
        Sampling(temperature=0.8, top_k=20, top_p=0.95, min_p=0.02),
    ],
    ids=str,
)
def test_every_processor_of_the_kernel_leaves_what_xla_leaves(drawing):
    needs_kernels()
    model, variables = build({"n_layer": 1, "d_model": 32, "context_length": 16})
    assert is_covered(model, drawing, 1, "jump")
    drawn = model, variables, prompt_of(3, 65), 150, drawing, 1
    np.testing.assert_array_equal(text_of(*drawn), by_xla(*drawn))


def test_the_text_does_not_depend_on_the_calls(monkeypatch):
    needs_kernels()
    model, variables = build({"n_layer": 2, "d_model": 32, "context_length": 16})
    whole = text_of(model, variables, prompt_of(20, 65), 200)
    monkeypatch.setattr(generation, "_CALL_SECONDS", 0.0)
    np.testing.assert_array_equal(text_of(model, variables, prompt_of(20, 65), 200), whole)


def test_the_same_bits_with_one_thread_and_with_two_and_however_tokens_are_read():
    needs_kernels()
    model, variables = build({"n_head": 3, "d_model": 48, "context_length": 32})
    prompt = prompt_of(9, 65)
    one, two = (logits_of(model, variables, prompt, 50, threads) for threads in (1, 2))
    np.testing.assert_array_equal(one[1], two[1])
    # Read at once what was read one token a step.
    again = logits_of(model, variables, np.append(prompt, one[0][:20]), 3)
    np.testing.assert_array_equal(again[1][0], one[1][20])


def test_a_text_ends_with_its_stop_token():
    needs_kernels()
    model, variables = build({"n_layer": 1, "d_model": 32, "context_length": 16}, 9)
    free = text_of(model, variables, prompt_of(3, 9), 200)
    stop = int(free[30])
    ended = text_of(model, variables, prompt_of(3, 9), 200, stop=stop)
    np.testing.assert_array_equal(ended, free[: int(np.argmax(free == stop)) + 1])


def test_the_stream_can_be_interrupted_between_short_calls():
    needs_kernels()
    model, variables = build({})
    asked = {"num_samples": 1, "max_new_tokens": 10**6, "settings": PLAIN, "seed": 0}
    chunks = stream(model, variables, prompt_of(70, 65), **asked)
    lengths = [next(chunks).tokens_BK.shape[1] for _ in range(8)]
    assert lengths[0] == 8
    assert max(lengths) <= CALL_LIMIT
    chunks.close()


def test_other_weights_at_the_same_place_are_packed_anew():
    needs_kernels()
    model, first = build({"n_layer": 1, "d_model": 16, "context_length": 8})
    texts = []
    for factor in (1.0, 1.3, 1.6):
        variables = jax.tree.map(lambda leaf, factor=factor: leaf * factor, first)
        texts.append(text_of(model, variables, prompt_of(3, 65), 40).tobytes())
        del variables
        gc.collect()
        assert not kernel_decoder._last_packed
    assert len(set(texts)) == 3


def test_no_thread_works_after_a_call():
    needs_kernels()
    model, variables = build({})
    text_of(model, variables, prompt_of(3, 65), 300)
    time.sleep(0.1)
    began = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - began < 0.1


# Two threads on one processor have to give way to each other.
ONE_PROCESSOR = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
from charjax import backend
from charjax.config import RuntimeConfig
backend.make_device_of_every_core()
from tests.generation.test_kernel_decoder import build, logits_of, prompt_of
model, variables = build({})
one, two = (logits_of(model, variables, prompt_of(9, 65), 90, threads)[1] for threads in (1, 2))
np.testing.assert_array_equal(one, two)
print("equal")
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only on Linux")
def test_two_threads_on_one_processor_come_to_the_end():
    needs_kernels()
    done = subprocess.run(
        [sys.executable, "-c", ONE_PROCESSOR],
        capture_output=True, text=True, cwd=ROOT, timeout=200,
    )  # fmt: skip
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.parametrize(
    ("section", "covered"),
    [
        ({}, True),
        ({"bias": True, "tie_embeddings": False, "activation": "gelu_tanh"}, True),
        ({"dropout": 0.1}, True),
        ({"n_kv_head": 4}, True),
        ({"n_kv_head": 2}, False),
        ({"norm": "rmsnorm"}, False),
        ({"activation": "swiglu"}, False),
        ({"activation": "relu2"}, False),
        ({"positions": "rotary"}, False),
        ({"residual": "rezero"}, False),
        ({"scale_embeddings": True}, False),
        ({"qk_norm": True}, False),
        ({"window": 8}, False),
        ({"attn_softcap": 5.0}, False),
        ({"final_softcap": 5.0}, False),
        ({"attention_scale": "inverse"}, False),
        ({"d_ff": 100}, False),
        ({"kind": "gru"}, False),
    ],
)
def test_all_other_models_are_decoded_by_xla(section, covered, monkeypatch):
    section = {"kind": "transformer", "context_length": 16} | section
    config = parse_config({"model": section}).model
    model = models.build(config, 65, jnp.dtype("float32"))
    assert is_covered(model, PLAIN, 1, "jump") == covered
    monkeypatch.setattr(kernel_decoder, "_MOST_WEIGHTS", 100)
    assert not is_covered(model, PLAIN, 1, "jump")
    monkeypatch.undo()
    half = models.build(config, 65, jnp.dtype("bfloat16"))
    assert not is_covered(half, PLAIN, 1, "jump")


@pytest.mark.parametrize(
    ("drawing", "texts", "past"),
    [
        (PLAIN, 2, "jump"),
        (PLAIN, 1, "slide"),
        (Sampling(typical_p=0.9), 1, "jump"),
        (Sampling(repetition_penalty=1.2), 1, "jump"),
        (Sampling(repetition_penalty=1.2, greedy=True), 1, "jump"),
    ],
)
def test_all_other_draws_are_made_by_xla(drawing, texts, past):
    model, _ = build({"n_layer": 1, "d_model": 16})
    assert is_covered(model, PLAIN, 1, "jump")
    assert not is_covered(model, drawing, texts, past)


@pytest.mark.parametrize("found", [None, types.SimpleNamespace(TRAIN_MLP="of before")])
def test_without_the_kernel_xla_decodes(monkeypatch, found):
    model, variables = build({"n_layer": 1, "d_model": 16})
    monkeypatch.setattr(kernel_decoder, "find_kernels", lambda: found)
    assert kernel_decoder.make_kernel_decoder(model, PLAIN, None, variables) is None
    assert kernel_decoder.kernels_of(model, PLAIN, 1, "jump") is None
    assert len(text_of(model, variables, prompt_of(3, 65), 5)) == 5


def test_operands_that_do_not_fit_are_refused():
    needs_kernels()
    model, variables = build({"n_layer": 1, "d_model": 16, "context_length": 8})
    form, key = model.kernel_form, sample_keys(0, 1)
    weights_N = jnp.asarray(form.pack(variables["params"]))
    window_C = np.zeros(8, np.int32)

    def call(weights_N, window_C, *counts):
        caches = jnp.zeros(2 * form.cache_size)
        counts = np.array(counts, np.int32)
        generate_tokens(
            form, PLAIN, None, 1, weights_N, key, caches, window_C, counts, np.int32(1)
        )[0].block_until_ready()

    call(weights_N, window_C, 1, 0, 0, 0, 1)
    for weights, window, counts, message in (
        (weights_N[1:], window_C, (1, 0, 0, 0, 1), "sizes do not fit"),
        (weights_N, window_C[1:], (1, 0, 0, 0, 1), "sizes do not fit"),
        (weights_N, window_C, (0, 0, 0, 0, 1), "out of its bounds"),
        (weights_N, window_C, (9, 0, 0, 0, 1), "out of its bounds"),
        (weights_N, window_C, (1, 1, 0, 0, 1), "out of its bounds"),
        (weights_N, window_C, (1, 0, 9, 0, 1), "out of its bounds"),
        (weights_N, window_C, (1, 0, 0, 0, CALL_LIMIT + 1), "out of its bounds"),
        (weights_N, window_C + 65, (1, 0, 0, 0, 1), "not a symbol"),
        (weights_N, window_C - 1, (1, 0, 0, 0, 1), "not a symbol"),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match=message):
            call(weights, window, *counts)


def test_as_many_threads_as_there_are_processors(monkeypatch):
    for cores, threads in ((1, 1), (2, 2), (8, 2)):
        monkeypatch.setattr(hardware, "cores", lambda cores=cores: cores)
        assert kernel_decoder._threads() == threads
