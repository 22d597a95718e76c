"""Counts of n-grams: the published losses, the definition, and the edges."""

import collections
import os
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax.config import parse_config
from charjax.data.splits import Split
from charjax.models import build, ngram
from tests.models.families import random_split

SMOOTHINGS = ["additive", "kneser_ney", "modified_kneser_ney"]


def make(vocab_size, order, smoothing="kneser_ney", alpha=1.0, prune=()):
    section = {"kind": "ngram", "order": order, "smoothing": smoothing, "alpha": alpha}
    section["prune"] = prune
    return build(parse_config({"model": section}).model, vocab_size, jnp.float32)


def documents(texts: list[str], symbols: str) -> Split:
    """Build lines with the boundary 0 between them."""
    tokens = [0]
    for text in texts:
        tokens += [1 + symbols.index(char) for char in text] + [0]
    lengths = np.array([len(text) + 1 for text in texts])
    return Split(np.array(tokens, np.uint8), np.cumsum(lengths) - lengths, lengths)


def loss(model, variables, split, window=256, rows=32) -> float:
    """Compute the mean loss in nats per target, in windows with the preceding context."""
    starts, ends = [], []
    for s, n in zip(split.doc_starts, split.doc_lengths, strict=True):
        starts += [(s, s + o) for o in range(0, n, window)]
        ends += [s + n] * len(range(0, n, window))
    (first, at), end = np.array(starts).T, np.array(ends)
    index = at[:, None] + np.arange(-model.lookback, window + 1)
    inside = (index >= first[:, None]) & (index <= end[:, None])
    text = np.where(inside, split.tokens[np.clip(index, 0, len(split.tokens) - 1)], 0)
    scored = inside[:, model.lookback + 1 :]

    @jax.jit
    def score(variables, inputs, targets, weights):
        logits, _ = model.apply(variables, inputs, num_outputs=window)
        return -(jnp.take_along_axis(logits, targets[..., None], 2)[..., 0] * weights).sum()

    padding = -len(text) % rows
    text, scored = (np.pad(x, ((0, padding), (0, 0))) for x in (text, scored))
    variables, text = jax.device_put((variables, text.astype(np.int32)))
    total = 0.0
    for begin in range(0, len(text), rows):
        part = text[begin : begin + rows]
        weights = scored[begin : begin + rows].astype(np.float32)
        total += float(score(variables, part[:, :-1], part[:, model.lookback + 1 :], weights))
    return total / split.num_targets


def read(name: str) -> str:
    path = Path(os.environ.get("CHARJAX_DATA", "")) / name
    if not os.environ.get("CHARJAX_DATA") or not path.is_file():
        pytest.skip(f"{name} is not in $CHARJAX_DATA")
    return path.read_text()


@pytest.fixture(scope="module")
def names() -> dict[str, Split]:
    words = read("names.txt").splitlines()
    symbols = "".join(sorted(set("".join(words))))
    everything = documents(words, symbols)
    random.Random(42).shuffle(words)
    a, b = int(0.8 * len(words)), int(0.9 * len(words))
    parts = {"train": words[:a], "dev": words[a:b], "test": words[b:]}
    splits = {name: documents(part, symbols) for name, part in parts.items()}
    return splits | {"all": everything}


@pytest.mark.parametrize(
    ("order", "smoothing", "alpha", "fit", "split", "published"),
    [
        (2, "additive", 1e-6, "all", "all", 2.4540),
        (2, "additive", 1.0, "all", "all", 2.4546),
        (3, "additive", 1e-6, "all", "all", 2.1857),
        (2, "additive", 1.0, "train", "dev", 2.4533),
        (6, "kneser_ney", 1.0, "train", "dev", 1.997),
        (6, "kneser_ney", 1.0, "train", "test", 2.0002),
        (6, "modified_kneser_ney", 1.0, "train", "dev", 1.974),
    ],
)
def test_published_losses_on_names(names, order, smoothing, alpha, fit, split, published):
    model = make(27, order, smoothing, alpha)
    digits = len(str(published).partition(".")[2])
    value = loss(model, model.fit(names[fit]), names[split], window=16, rows=2048)
    assert round(value, max(digits, 3)) == published


@pytest.mark.parametrize(
    ("order", "smoothing", "published"),
    [(6, "kneser_ney", 1.558), (6, "modified_kneser_ney", 1.5226)],
)
def test_published_losses_on_shakespeare(order, smoothing, published):
    text = read("shakespeare.txt")
    symbols = np.array(sorted(set(text)))
    tokens = np.searchsorted(symbols, np.array(list(text))).astype(np.uint8)
    cut = int(0.9 * len(tokens))
    train, val = (
        Split(part, np.array([0]), np.array([len(part) - 1]))
        for part in (tokens[:cut], tokens[cut:])
    )
    model = make(65, order, smoothing)
    assert round(loss(model, model.fit(train), val), 4) == pytest.approx(published, abs=5e-4)


def definition(
    split: Split, vocab_size: int, order: int, smoothing: str, alpha: float, context, prune=(0,)
):
    """Return the distribution after a context, by the papers' formulas over dictionaries."""
    grams = collections.Counter()
    for s, n in zip(split.doc_starts, split.doc_lengths, strict=True):
        text = [0] * order + [int(token) for token in split.tokens[s : s + n + 1]]
        for t in range(order + 1, len(text)):
            grams[tuple(text[t - order : t + 1])] += 1
    p = np.full(vocab_size, 1 / vocab_size)
    for length in range(order):
        counts = collections.Counter()
        for gram, count in grams.items():
            counts[gram[-length - 1 :]] += count
        seen = counts
        if length < order - 1:
            longer = {gram[-length - 2 :] for gram in grams}
            counts = collections.Counter(gram[1:] for gram in longer)
        h = tuple(context[len(context) - length :])
        after = np.array([counts[(*h, w)] for w in range(vocab_size)], float)
        if smoothing == "additive":
            if length == order - 1:
                p = (after + alpha) / (after.sum() + alpha * vocab_size)
            continue
        n1, n2, n3, n4 = (max(1, list(counts.values()).count(i)) for i in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        d = [0, y, y, y]
        if smoothing == "modified_kneser_ney":
            d = [0, y, max(y, 2 - 3 * y * n3 / n2), max(y, 3 - 4 * y * n4 / n3)]
        discount = np.array([d[min(3, int(count))] for count in after])
        most = prune[min(length, len(prune) - 1)]
        pruned = np.array([seen[(*h, w)] <= most for w in range(vocab_size)])
        discount = np.where(pruned, after, discount)
        if after.sum():
            p = (after - discount + discount.sum() * p) / after.sum()
    return p


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 5])
@pytest.mark.quick("1-*", "5-additive", "5-modified_kneser_ney")
def test_equals_the_definition(order, smoothing):
    lines = ["abab", "ba", "abcabc", "c", "abab", "cabbac", "bcabca"]
    split = documents(lines, "abcd")
    model = make(5, order, smoothing, alpha=0.3)
    variables = model.fit(split)
    rng = np.random.default_rng(order)
    texts = [line for line in lines if len(line) > 3] + ["ddda"]
    tokens = np.array([[0, *(1 + "abcd".index(c) for c in text[:4])] for text in texts])
    tokens = np.concatenate([tokens, rng.integers(0, 5, (20, 5))])
    logits, _ = jax.jit(model.apply)(variables, tokens)
    for row, output in zip(tokens, np.exp(logits), strict=True):
        for t in range(5):
            context = [0] * order + [int(token) for token in row[: t + 1]]
            expected = definition(split, 5, order, smoothing, 0.3, context)
            np.testing.assert_allclose(output[t], expected, atol=1e-6)


@pytest.mark.parametrize("smoothing", SMOOTHINGS[1:])
@pytest.mark.parametrize("prune", [(0, 1), (0, 0, 1), (0, 1, 2, 2, 3), (0, 0, 0, 9), (0,)])
@pytest.mark.quick("prune1-modified*", "prune2-modified*")
def test_pruned_equals_the_definition(prune, smoothing):
    lines = ["abab", "ba", "abcabc", "c", "abab", "cabbac", "bcabca", "abcabd"]
    split = documents(lines, "abcd")
    model = make(5, 5, smoothing, prune=prune)
    variables, whole = model.fit(split), make(5, 5, smoothing).fit(split)
    sizes = [len(tables["params"]["value"]) for tables in (variables, whole)]
    assert sizes[0] < sizes[1] or prune == (0,)
    tokens = np.random.default_rng(3).integers(0, 5, (12, 5))
    # After the last one, "d" was seen once: longer contexts stand on the text behind it.
    tokens[:4] = [[0, 1, 2, 3, 1], [1, 2, 1, 2, 0], [0, 3, 1, 2, 2], [2, 3, 1, 2, 4]]
    logits, _ = jax.jit(model.apply)(variables, tokens)
    for row, output in zip(tokens, np.exp(logits), strict=True):
        for t in range(5):
            context = [0] * 5 + [int(token) for token in row[: t + 1]]
            expected = definition(split, 5, 5, smoothing, 1.0, context, prune)
            np.testing.assert_allclose(output[t], expected, atol=1e-6)
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1.0, atol=1e-5)


@pytest.fixture(scope="module", params=SMOOTHINGS[1:])
def bytes_model(request):
    model = make(256, 7, request.param, alpha=0.01)
    variables = jax.device_put(model.fit(random_split(256, 3000, seed=0)))
    return jax.jit(lambda tokens: model.apply(variables, tokens)[0])


@settings(max_examples=20, deadline=None)
@given(tokens=st.lists(st.integers(0, 255), min_size=12, max_size=12))
def test_probabilities_are_positive_and_sum_to_one(bytes_model, tokens):
    logits = np.asarray(bytes_model(np.array([tokens])))
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1.0, atol=1e-5)


@pytest.mark.parametrize("smoothing", SMOOTHINGS[1:])
@pytest.mark.parametrize("text", ["a", "abababab", "abacadabracadabra" * 9])
@pytest.mark.quick("a-*", "aba*-modified_kneser_ney")
def test_no_character_is_ever_impossible(smoothing, text):
    model = make(27, 6, smoothing)
    variables = model.fit(documents([text], "abcdefghijklmnopqrstuvwxyz"))
    logits, _ = jax.jit(model.apply)(variables, np.array([[0, 1, 2, 1, 2, 1, 26, 1]]))
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1.0, atol=1e-5)


def test_a_long_context_seen_once_is_remembered():
    """Use order 32: the tree ends where a context is unique, and the text continues it."""
    split = random_split(90, 2000, seed=5)
    model = make(90, 32)
    variables = model.fit(split)
    assert variables["params"]["symbol"].size < 3 * 2000
    seen = split.tokens[100:140].astype(np.int32)
    contexts = np.stack([seen[:-1]] * 3)
    contexts[1, -10] = contexts[2, -20] = 89 - seen[-10]
    logits, _ = jax.jit(model.apply)(variables, contexts)
    shortest, middle, longest = np.sort(logits[:, -1, seen[-1]])
    assert shortest < middle < longest
    assert [shortest, middle, longest] == list(logits[[1, 2, 0], -1, seen[-1]])


def test_an_unseen_context_backs_off():
    model = make(8, 5)
    variables = model.fit(documents(["abcabcabd", "abcab"], "abcdefg"))
    logits, _ = jax.jit(model.apply)(variables, np.array([[7, 7, 1, 2], [6, 6, 1, 2]]))
    np.testing.assert_array_equal(logits[0, -1], logits[1, -1])
    assert int(jnp.argmax(logits[0, -1])) == 3


def test_nodes_of_more_entries_than_are_added_at_once(monkeypatch):
    """Sum entries block by block for an alphabet wider than a block."""
    split = random_split(90, 3000, seed=4)
    model = make(90, 3)
    variables, tokens = model.fit(split), split.tokens[None, :40].astype(np.int32)
    whole = jax.jit(lambda tokens: model.apply(variables, tokens)[0])(tokens)
    monkeypatch.setattr(ngram, "_ENTRIES", 7)
    blocks = jax.jit(lambda tokens: model.apply(variables, tokens)[0])(tokens)
    np.testing.assert_allclose(blocks, whole, rtol=1e-6)


def test_memory_is_a_few_times_the_logits():
    model = make(98, 6)
    variables = model.fit(random_split(98, 5000, seed=3))
    tokens = jax.ShapeDtypeStruct((64, 256 + model.lookback), jnp.int32)
    program = jax.jit(lambda v, x: model.apply(v, x, num_outputs=256)[0])
    memory = program.lower(variables, tokens).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 5 * 64 * 256 * 98 * 4
