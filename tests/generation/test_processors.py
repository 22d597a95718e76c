"""Min-p, typical-p and the repetition penalty, against loops in NumPy and in generated texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.errors import UserError
from charjax.generation.generate import generate_uncached, stream
from charjax.generation.sampling import Sampling, choose, penalised, process
from tests.models.families import V, make_model, make_variables

VOCAB = 40


def probabilities(row):
    powers = np.exp(row.astype(np.float64) - row.max())
    return powers / powers.sum()


def by_min_p(row, p):
    masses = probabilities(row)
    return {symbol for symbol in range(len(row)) if masses[symbol] >= p * masses.max()}


def by_typical_p(row, p):
    """Add symbols by their distance from the entropy until they have p; and equally near ones."""
    masses = probabilities(row)
    left = [symbol for symbol in range(len(row)) if masses[symbol] > 0]
    entropy = -sum(masses[s] * np.log(masses[s]) for s in left)
    distance = {s: abs(-np.log(masses[s]) - entropy) for s in left}
    total, farthest = 0.0, 0.0
    for symbol in sorted(left, key=distance.get):
        farthest = distance[symbol]
        total += masses[symbol]
        if total >= p:
            break
    return {symbol for symbol in left if distance[symbol] <= farthest}


def left_by(logits, settings):
    out = np.asarray(jax.jit(process, static_argnums=1)(jnp.asarray(logits), settings))
    np.testing.assert_array_equal(out[np.isfinite(out)], logits[np.isfinite(out)])
    return [set(np.flatnonzero(row)) for row in np.isfinite(out)]


@pytest.mark.parametrize(("name", "expected"), [("min_p", by_min_p), ("typical_p", by_typical_p)])
def test_what_is_left(name, expected):
    for p in (0.05, 0.2, 0.7, 0.97):
        logits = np.random.default_rng(round(100 * p)).normal(0, 2, (300, VOCAB))
        logits = logits.astype(np.float32)
        found = left_by(logits, Sampling(**{name: p}))
        assert found == [expected(row, p) for row in logits]
        assert 1 <= np.mean([len(symbols) for symbols in found]) < VOCAB


@pytest.mark.parametrize("name", ["min_p", "typical_p"])
@pytest.mark.quick("typical_p")
def test_each_reads_what_top_k_and_top_p_leave(name):
    logits = np.random.default_rng(0).normal(0, 2, (50, VOCAB)).astype(np.float32)
    first = np.asarray(process(jnp.asarray(logits), Sampling(top_k=9, top_p=0.9)))
    alone = left_by(logits, Sampling(top_k=9, top_p=0.9, **{name: 0.4}))
    expected = by_min_p if name == "min_p" else by_typical_p
    assert alone == [expected(row, 0.4) for row in first]


def test_typical_p_leaves_out_a_symbol_that_is_too_likely():
    masses = np.array([[0.55, 0.15, 0.15, 0.15]])
    # The entropy is 1.18: the three others, each of surprise 1.90, and 0.55 of 0.60.
    assert left_by(np.log(masses).astype(np.float32), Sampling(typical_p=0.3)) == [{0}]
    masses = np.array([[0.4] + [0.06] * 10])
    # Of surprise 0.92 and 2.81 the entropy, 2.05, is nearer to the second.
    assert left_by(np.log(masses).astype(np.float32), Sampling(typical_p=0.3)) == [
        set(range(1, 11))
    ]


def test_typical_p_keeps_ties_together():
    """All ten are as near: the sixth alone would do, and transformers keeps all, too."""
    logits = np.zeros((1, 10), np.float32)
    assert left_by(logits, Sampling(typical_p=0.55)) == [set(range(10))]


def test_what_leaves_all_is_not_computed():
    nothing = Sampling(min_p=0.0, typical_p=1.0)
    assert not jax.make_jaxpr(lambda x: process(x, nothing))(jnp.zeros((1, VOCAB))).eqns


def test_the_penalty_is_of_symbols_in_the_text_alone():
    logits = jnp.array([[2.0, -2.0, 2.0, -2.0, 0.0]])
    seen = jnp.array([[True, True, False, False, True]])
    np.testing.assert_allclose(penalised(logits, seen, 4.0), [[0.5, -8.0, 2.0, -2.0, 0.0]])
    np.testing.assert_allclose(penalised(logits, seen, 0.5), [[4.0, -1.0, 2.0, -2.0, 0.0]])


@pytest.mark.parametrize("penalty", [1e-300, 1e300])
def test_a_penalty_beyond_float32_leaves_something_to_draw(penalty):
    logits = jnp.array([[2.0, -2.0, 0.0]])
    keys = jax.random.split(jax.random.key(0), 1)
    token = choose(
        logits, keys, jnp.int32(0), Sampling(repetition_penalty=penalty), jnp.ones((1, 3), bool)
    )
    assert int(token[0]) == (2 if penalty > 1 else 0) or penalty > 1
    assert np.isfinite(penalised(logits, jnp.ones((1, 3), bool), penalty)).all()


@pytest.mark.parametrize(
    ("kind", "past_context"),
    [
        ("bow", "jump"),
        pytest.param("bow", "slide", marks=pytest.mark.slow),
        pytest.param("lstm", "jump", marks=pytest.mark.slow),
    ],
)
def test_the_penalty_counts_the_whole_text(kind, past_context):
    """Past the context too, in every call of the loop, as one token at a time without a cache."""
    model = make_model(kind)
    variables = make_variables(model)
    prompt = np.array([3, 1, 4, 1, 5], np.int32)
    settings = Sampling(repetition_penalty=3.0, min_p=0.01)
    arguments = {"num_samples": 3, "max_new_tokens": 40, "settings": settings, "seed": 5}
    chunks = list(stream(model, variables, prompt, past_context=past_context, **arguments))
    found = np.concatenate([chunk.tokens_BK for chunk in chunks], axis=1)
    expected = generate_uncached(model, variables, prompt, past_context=past_context, **arguments)
    np.testing.assert_array_equal(found, expected)


def test_greedy_with_a_large_penalty_repeats_nothing_before_it_must():
    model = make_model("bow")
    variables = make_variables(model)
    settings = Sampling(greedy=True, repetition_penalty=1e6)
    (chunk, *later) = stream(
        model,
        variables,
        np.array([7], np.int32),
        num_samples=1,
        max_new_tokens=8,
        settings=settings,
        seed=0,
    )
    text = np.concatenate([part.tokens_BK[0] for part in (chunk, *later)])
    assert len({7, *text.tolist()}) == 9
    assert V > 9


@pytest.mark.parametrize(
    "mistake",
    [
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"min_p": float("nan")},
        {"typical_p": 0.0},
        {"typical_p": 1.5},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -1.0},
        {"repetition_penalty": float("inf")},
        {"repetition_penalty": float("nan")},
    ],
)
def test_numbers_out_of_bounds_are_refused(mistake):
    with pytest.raises(UserError, match=r"^[^\n]+ given; it must be [^\n]+$"):
        Sampling(**mistake)
