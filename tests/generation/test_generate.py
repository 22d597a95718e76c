"""The decode loop: cached equals uncached; texts depend on seed, sample and position only."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import hardware, models
from charjax.config import FAMILIES, parse_config
from charjax.data.splits import Split
from charjax.data.tokenizers import CharTokenizer
from charjax.errors import UserError
from charjax.generation import decoder
from charjax.generation import generate as generation
from charjax.generation.generate import (
    cut_at_stop,
    generate,
    generate_uncached,
    start_tokens,
    stream,
    whole_rows,
    window_start,
)
from charjax.generation.sampling import Sampling

VOCAB, CONTEXT, PLAIN = 11, 8, Sampling()
SECTIONS = {
    "ngram": {"order": 3},
    "bigram": {},
    "bow": {"d_embed": 8},
    "mlp": {"d_embed": 6, "hidden": [16], "context_length": 3},
    "wavenet": {"d_embed": 6, "d_hidden": 12, "context_length": 4},
    "rnn": {"d_embed": 6, "d_hidden": 12},
    "gru": {"d_embed": 6, "d_hidden": 12, "n_layer": 2},
    "lstm": {"d_embed": 6, "d_hidden": 12},
    "mingru": {"d_embed": 6, "d_hidden": 12},
    "minlstm": {"d_embed": 6, "d_hidden": 12},
    "transformer": {"n_layer": 1, "n_head": 2, "d_model": 12},
}
# Options that change the cache, or what is read of it.
OPTIONS = {
    "transformer-grouped": {
        "n_layer": 2,
        "n_head": 4,
        "d_model": 16,
        "n_kv_head": 2,
        "window": 3,
        "norm": "rmsnorm",
        "qk_norm": True,
        "activation": "geglu",
        "attn_softcap": 5.0,
        "final_softcap": 8.0,
    },
    "lstm-layernorm": {"d_embed": 6, "d_hidden": 12, "norm": "layernorm"},
}
PROMPTS = {
    "one": np.array([3], np.int32),
    "full": np.arange(CONTEXT, dtype=np.int32),
    "long": np.arange(2 * CONTEXT + 3, dtype=np.int32) * 5 % VOCAB,
}


@functools.cache
def family(kind):
    """Return a small model whose logits depend strongly on its inputs."""
    section = {"kind": kind.partition("-")[0], "context_length": CONTEXT}
    section |= (SECTIONS | OPTIONS)[kind]
    model = models.build(parse_config({"model": section}).model, VOCAB, jnp.dtype("float32"))
    if model.fitted:
        tokens = np.random.default_rng(0).integers(0, VOCAB, 300).astype(np.uint8)
        whole = Split(tokens, np.array([0]), np.array([len(tokens) - 1]))
        return model, model.fit(whole)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    return model, jax.tree.map(lambda leaf: 3 * leaf, variables)


def tokens_of(
    kind, prompt, *, samples=2, new=3 * CONTEXT, settings=PLAIN, seed=1, stop=None, past="jump"
):
    chunks = stream(
        *family(kind),
        prompt,
        num_samples=samples,
        max_new_tokens=new,
        settings=settings,
        seed=seed,
        stop=stop,
        past_context=past,
    )
    rows = whole_rows(list(chunks), samples)
    # A group that ends before the others is padded, as a sample is.
    longest = max(map(len, rows))
    return np.stack(
        [np.pad(row, (0, longest - len(row)), constant_values=stop or 0) for row in rows]
    )


@pytest.mark.parametrize(
    ("kind", "stop"),
    [("bow", 3), ("transformer", 3), ("gru", None), ("ngram", None)],
)
@pytest.mark.quick("bow-3")
def test_samples_decoded_in_groups_are_the_same(kind, stop, monkeypatch):
    """Groups of two, two and one; with a stop token some end before the others."""
    together = tokens_of(kind, PROMPTS["one"], samples=5, stop=stop)
    monkeypatch.setattr(decoder, "_MOST_LOGITS", 2 * VOCAB)
    grouped = tokens_of(kind, PROMPTS["one"], samples=5, stop=stop)
    length = min(together.shape[1], grouped.shape[1])
    np.testing.assert_array_equal(grouped[:, :length], together[:, :length])
    for rest in (grouped[:, length:], together[:, length:]):
        assert (rest == stop).all()


@pytest.mark.parametrize("samples", [1, 2, 7, 15, 16, 17, 64, 65, 128, 1000])
@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_groups_fit_the_budget_are_alike_and_compute_little_for_nothing(kind, samples, monkeypatch):
    model, variables = family(kind)
    cache = jax.eval_shape(lambda: model.short_cache(1, 4))
    each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
    cores = len(jax.local_devices())
    for most in (1, 3, 40, 64):
        monkeypatch.setattr(decoder, "_CACHES_PER_PARAMETERS", 0)
        monkeypatch.setattr(decoder, "_LEAST_CACHE", most * each + each // 2)
        size = decoder.group_size(model, variables, samples, 4)
        groups = -(-samples // size)
        assert min(samples, most) // 2 <= size < most + cores
        assert groups <= -(-samples // most)
        assert size - -(-samples // groups) < cores


@pytest.mark.parametrize(
    ("length", "capacity", "expected"),
    [(1, None, 32), (33, None, 64), (33, 40, 40), (64, 1024, 64), (65, 1024, 128), (9999, 64, 64)],
)
def test_a_cache_is_as_long_as_the_texts_rounded_up(length, capacity, expected):
    assert decoder.cache_length(length, capacity) == expected


@pytest.mark.slow
def test_a_cache_shorter_than_the_context_gives_the_same_texts(monkeypatch):
    """Caches of 4 and of 8 positions, for a context of 8."""
    asked = {"new": 3, "samples": 3}
    whole = tokens_of("transformer", PROMPTS["one"], **asked)
    model, _ = family("transformer")
    assert model.init_cache(2).layers[0].keys.shape[2] == CONTEXT
    assert model.short_cache(2, 4).layers[0].keys.shape[2] == 4
    assert model.short_cache(2, 99).layers[0].keys.shape[2] == CONTEXT
    monkeypatch.setattr(decoder, "_LEAST_POSITIONS", 1)
    np.testing.assert_array_equal(tokens_of("transformer", PROMPTS["one"], **asked), whole)


@pytest.mark.slow
def test_a_group_ends_when_it_is_told_and_the_next_begins(monkeypatch):
    monkeypatch.setattr(decoder, "_MOST_LOGITS", 2 * VOCAB)
    seen = []

    def ended(chunk):
        seen.append(chunk.rows)
        return chunk.rows.start == 2

    settings = Sampling(repetition_penalty=1.3)
    asked = {"max_new_tokens": 40, "settings": settings, "seed": 1, "num_samples": 5}
    rows = whole_rows(list(stream(*family("gru"), PROMPTS["one"], **asked, ended=ended)), 5)
    assert list(dict.fromkeys((each.start, each.stop) for each in seen)) == [(0, 2), (2, 4), (4, 5)]
    lengths = [len(row) for row in rows]
    assert lengths[:2] == [40, 40]
    assert lengths[2] == lengths[3] < 40
    assert lengths[4] == 40
    monkeypatch.undo()
    whole = whole_rows(list(stream(*family("gru"), PROMPTS["one"], **asked)), 5)
    for one, other in zip(rows, whole, strict=True):
        np.testing.assert_array_equal(one, other[: len(one)])


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [
        *((kind, "long") for kind in FAMILIES),
        ("transformer-grouped", "long"),
        ("lstm-layernorm", "long"),
        *((kind, "one") for kind in ("mlp", "bow", "gru", "transformer")),
        ("transformer", "full"),
    ],
)
@pytest.mark.quick("ngram-long", "gru-long", "transformer-grouped-long")
def test_cached_equals_uncached(kind, prompt):
    """Include texts past the context, and prompts longer than it."""
    plain = generate_uncached(
        *family(kind),
        PROMPTS[prompt],
        num_samples=2,
        max_new_tokens=3 * CONTEXT,
        settings=Sampling(),
        seed=1,
    )
    np.testing.assert_array_equal(tokens_of(kind, PROMPTS[prompt]), plain)


def test_greedy_takes_the_largest_logit():
    model, variables = family("transformer")
    text, new = PROMPTS["one"], CONTEXT
    logits_of = jax.jit(model.apply)
    greedy = Sampling(greedy=True)
    for token in tokens_of("transformer", text, samples=1, new=new, settings=greedy)[0]:
        logits, _ = logits_of(variables, np.pad(text, (0, CONTEXT - len(text)))[None])
        assert token == np.argmax(logits[0, len(text) - 1])
        text = np.append(text, token)
    likeliest = tokens_of("transformer", PROMPTS["one"], new=new, settings=Sampling(top_k=1))
    np.testing.assert_array_equal(likeliest, np.tile(text[1:], (2, 1)))


@pytest.mark.parametrize("kind", ["gru", "transformer"])
@pytest.mark.quick("gru")
def test_a_sample_is_the_same_whatever_their_number(kind):
    many = tokens_of(kind, PROMPTS["one"], samples=5)
    for number in (1, 2):
        np.testing.assert_array_equal(
            tokens_of(kind, PROMPTS["one"], samples=number), many[:number]
        )
    assert len({row.tobytes() for row in many}) == 5


@pytest.mark.parametrize("kind", ["mlp", "lstm", "transformer"])
def test_the_text_does_not_depend_on_the_calls(kind, monkeypatch):
    whole = tokens_of(kind, PROMPTS["long"], new=70)
    monkeypatch.setattr(generation, "_CALL_SECONDS", 0.0)
    np.testing.assert_array_equal(tokens_of(kind, PROMPTS["long"], new=70), whole)


@pytest.mark.parametrize("kind", ["mlp", "lstm", "transformer"])
@pytest.mark.quick("transformer")
def test_a_text_given_back_goes_on_as_it_would_have(kind):
    whole = tokens_of(kind, PROMPTS["one"], samples=1)[0]
    for cut in (3, CONTEXT + 2):
        prompt = np.append(PROMPTS["one"], whole[:cut])
        rest = tokens_of(kind, prompt, samples=1, new=len(whole) - cut)[0]
        np.testing.assert_array_equal(rest, whole[cut:])


def test_seeds_make_different_texts():
    first, again, other = (tokens_of("bigram", PROMPTS["one"], seed=s) for s in (0, 0, 2**32 - 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_sample_ends_at_the_stop_token_and_the_loop_when_all_have():
    free = tokens_of("bigram", PROMPTS["one"], samples=4, new=200)
    stopped = tokens_of("bigram", PROMPTS["one"], samples=4, new=200, stop=0)
    lengths = [int(np.argmax(row == 0)) for row in free]
    assert all((row == 0).any() for row in free)
    assert stopped.shape[1] == max(lengths) + 1
    for row, end, sample in zip(free, lengths, cut_at_stop(stopped, 0), strict=True):
        np.testing.assert_array_equal(sample, row[:end])


@pytest.mark.parametrize("prompt", ["one", "long"])
@pytest.mark.parametrize("kind", ["bow", "transformer"])
@pytest.mark.quick("bow-one", "transformer-long")
def test_a_sliding_window_equals_the_uncached_one(kind, prompt):
    """Expect another text than by jumping, from the first token past the context."""
    asked = {"num_samples": 3, "max_new_tokens": 3 * CONTEXT, "settings": PLAIN, "seed": 1}
    plain = generate_uncached(*family(kind), PROMPTS[prompt], **asked, past_context="slide")
    slid = tokens_of(kind, PROMPTS[prompt], samples=3, past="slide")
    np.testing.assert_array_equal(slid, plain)
    jumped, inside = tokens_of(kind, PROMPTS[prompt], samples=3), CONTEXT if prompt == "one" else 0
    np.testing.assert_array_equal(slid[:, :inside], jumped[:, :inside])
    assert (slid != jumped).any()


@pytest.mark.slow
def test_a_sliding_text_does_not_depend_on_samples_or_calls(monkeypatch):
    whole = tokens_of("transformer", PROMPTS["one"], samples=3, past="slide")
    monkeypatch.setattr(generation, "_CALL_SECONDS", 0.0)
    asked = {"new": 2 * CONTEXT - 3, "samples": 1, "past": "slide"}
    prompt = np.append(PROMPTS["one"], whole[0, : CONTEXT + 3])
    rest = tokens_of("transformer", prompt, **asked)
    np.testing.assert_array_equal(rest[0], whole[0, CONTEXT + 3 :])


@pytest.mark.parametrize("rows", [1, 2, 4, 5])
@pytest.mark.quick("2", "5")
def test_windows_read_in_pieces_equal_those_read_at_once(rows, monkeypatch):
    """Include a last piece that is not full."""
    model, variables = family("bow")
    tokens_BC = np.random.default_rng(0).integers(0, VOCAB, (5, CONTEXT)).astype(np.int32)
    monkeypatch.setattr(decoder, "_WINDOW_TOKENS", rows * CONTEXT)
    logits_BV = jax.jit(lambda tokens: decoder.read_window(model, variables, tokens))(tokens_BC)
    expected_BTV, _ = model.apply(variables, tokens_BC)
    np.testing.assert_allclose(logits_BV, expected_BTV[:, -1], atol=1e-5)


def test_a_sliding_window_is_compiled_once_and_stops():
    asked = {"samples": 4, "past": "slide"}
    free = tokens_of("bow", PROMPTS["one"], new=20 * CONTEXT, **asked)
    before = decoder._compiled.cache_info().misses
    short = tokens_of("bow", PROMPTS["one"], new=3 * CONTEXT, **asked)
    assert decoder._compiled.cache_info().misses == before
    np.testing.assert_array_equal(short, free[:, : 3 * CONTEXT])
    # The symbol that all samples write at last.
    ends_VB = np.array([[np.argmax(row == v) for row in free] for v in range(VOCAB)])
    everywhere_V = np.array([(free == v).any(axis=1).all() for v in range(VOCAB)])
    stop = int(np.argmax(np.where(everywhere_V, ends_VB.max(axis=1), -1)))
    stopped = tokens_of("bow", PROMPTS["one"], new=20 * CONTEXT, **asked, stop=stop)
    assert CONTEXT < stopped.shape[1] == ends_VB[stop].max() + 1 < free.shape[1]
    for row, end, sample in zip(free, ends_VB[stop], cut_at_stop(stopped, stop), strict=True):
        np.testing.assert_array_equal(sample, row[:end])


@pytest.mark.parametrize("kind", ["gru", "mlp"])
def test_a_model_without_a_window_has_nothing_to_slide(kind):
    with pytest.raises(UserError, match=r"--past-context: slide given; .*transformer and bow"):
        tokens_of(kind, PROMPTS["one"], past="slide")


@pytest.mark.parametrize("capacity", [1, 2, 7, 8])
def test_the_window_is_the_rule_of_the_full_cache(capacity):
    """When the cache is full, keep the last half of the text and read it again."""
    start = 0
    for length in range(1, 6 * capacity):
        if length - start > capacity:
            start = length - max(1, capacity // 2)
        assert window_start(length, capacity) == start
        assert window_start(length, None) == 0


def test_long_prompts_are_read_in_pieces():
    prompt = np.arange(2 * decoder.PIECE + 5, dtype=np.int32) % VOCAB
    asked = {"num_samples": 1, "max_new_tokens": 2, "settings": Sampling(), "seed": 0}
    plain = generate_uncached(*family("gru"), prompt, **asked)
    np.testing.assert_array_equal(tokens_of("gru", prompt, samples=1, new=2, seed=0), plain)


def test_another_seed_or_length_compiles_nothing():
    tokens_of("transformer", PROMPTS["one"], seed=1)
    before = decoder._compiled.cache_info().misses
    tokens_of("transformer", PROMPTS["one"], seed=2, new=100)
    assert decoder._compiled.cache_info().misses == before


@pytest.mark.parametrize(
    ("text", "boundary", "prompt", "tokens"),
    [
        ("ab\n", False, "ba", [2, 1]),
        ("ab\n", False, "", [0]),
        ("\tab\n", False, "", [1]),
        ("ab", False, "", [0]),
        ("ab\n", True, "", [0]),
        ("ab\n", True, "ba", [0, 2, 1]),
    ],
)
def test_what_a_text_begins_with(text, boundary, prompt, tokens):
    tokenizer = CharTokenizer("".join(sorted(set(text))), boundary)
    np.testing.assert_array_equal(start_tokens(tokenizer, prompt), tokens)


def test_texts_begin_with_the_prompt_and_end_before_the_boundary():
    tokenizer = CharTokenizer("\nabcdefghij", True)
    asked = {"num_samples": 5, "max_new_tokens": 40, "settings": Sampling(), "seed": 0}
    polls = []
    texts = generate(*family("bigram"), tokenizer, "fa", **asked, poll=lambda: polls.append(1))
    assert all(text.startswith("fa") and "\n" not in text for text in texts)
    assert polls


@pytest.mark.parametrize(
    "mistake", [{"samples": 0}, {"new": 0}, {"seed": -1}, {"seed": 2**32}, {"new": 2**31}]
)
def test_numbers_out_of_bounds_are_refused(mistake):
    with pytest.raises(UserError, match=r"^[^\n]+ given; [^\n]+$"):
        tokens_of("bigram", PROMPTS["one"], **mistake)


# Texts of two families by all cores, and by one device, and how many devices there were.
_SHARED = """
import json, sys, numpy as np, jax
sys.path.insert(0, {root!r})
from charjax import backend, hardware, parallel
from charjax.config import RuntimeConfig
backend.start_backend(RuntimeConfig(device="cpu"), core_devices=True)
from tests.generation.test_generate import PROMPTS, tokens_of
results = []
for kind, past in {cases}:
    asked = dict(samples=8 * hardware.cores(), new=100, past=past)
    shared = tokens_of(kind, PROMPTS["one"], **asked)
    used = parallel.core_mesh(asked["samples"], 8).size
    with_one = parallel.make_mesh(jax.local_devices()[:1], 1)
    core_mesh, parallel.core_mesh = parallel.core_mesh, lambda rows, least: with_one
    alone = tokens_of(kind, PROMPTS["one"], **asked)
    parallel.core_mesh = core_mesh
    results.append([bool((shared == alone).all()), used])
print(json.dumps(results))
"""


@pytest.mark.skipif(hardware.cores() < 2, reason="one core has nobody to share with")
@pytest.mark.parametrize(
    "cases",
    [
        [("bow", "jump")],
        [("transformer", "jump"), ("transformer", "slide"), ("gru", "jump")],
    ],
    ids=["one", "others"],
)
@pytest.mark.quick("one")
def test_cores_that_share_the_samples_write_the_same(cases: list[tuple[str, str]]) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _SHARED.format(root=str(root), cases=cases)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=root,
    )
    result = json.loads(done.stdout)
    assert result == [[True, hardware.cores()]] * len(cases)
