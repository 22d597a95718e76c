"""Sampling's processors leave what those of transformers leave, on random logits.

They add up in float32, and charjax in float64: rows whose decision is nearer than float32's
rounding are left out, and ties are looked at apart.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.generation.sampling import Sampling, penalised, process

torch = pytest.importorskip("torch", reason="the extra torch is not installed: make parity has it")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

ROWS, V = 400, 65
# Rows that differ because their decision is within float32's rounding, of 400.
AT_THE_EDGE = 2


def rows(seed: int, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (ROWS, V)).astype(np.float32)


def ours(logits: np.ndarray, settings: Sampling) -> np.ndarray:
    return np.isfinite(jax.jit(process, static_argnums=1)(jnp.asarray(logits), settings))


def theirs(logits: np.ndarray, *processors) -> np.ndarray:
    scores = torch.tensor(logits)
    for each in processors:
        scores = each(None, scores)
    return np.isfinite(scores.numpy())


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found != expected).any(axis=1).sum() <= AT_THE_EDGE
    assert 1 <= expected.sum(axis=1).mean() < V


@pytest.mark.parametrize("p", [0.01, 0.05, 0.2, 0.5, 0.9, 1.0])
def test_min_p(p):
    for seed in range(3):
        logits = rows(seed)
        same(ours(logits, Sampling(min_p=p)), theirs(logits, transformers.MinPLogitsWarper(p)))


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.8, 0.95])
def test_typical_p(p):
    for seed in range(3):
        logits = rows(seed)
        same(
            ours(logits, Sampling(typical_p=p)), theirs(logits, transformers.TypicalLogitsWarper(p))
        )


@pytest.mark.parametrize("penalty", [0.5, 1.3, 5.0])
def test_repetition_penalty(penalty):
    logits = rows(7)
    text = np.random.default_rng(0).integers(0, V, (ROWS, 30))
    seen = np.zeros((ROWS, V), bool)
    np.put_along_axis(seen, text, True, axis=1)
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor(text), torch.tensor(logits)).numpy()
    np.testing.assert_allclose(penalised(logits, seen, penalty), expected, rtol=1e-6)


def test_the_order_is_that_of_generate():
    """Penalty, temperature, top-k, top-p, min-p, typical-p, as transformers puts them together."""
    config = transformers.GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_k=30,
        top_p=0.95,
        min_p=0.02,
        typical_p=0.8,
        repetition_penalty=1.7,
    )
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 4, "vocab_size": V, "n_positions": 8}
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    )
    processors = model._get_logits_processor(config, input_ids_seq_length=5)
    logits = rows(3)
    text = np.random.default_rng(0).integers(0, V, (ROWS, 30))
    seen = np.zeros((ROWS, V), bool)
    np.put_along_axis(seen, text, True, axis=1)
    expected = processors(torch.tensor(text), torch.tensor(logits)).numpy()
    settings = Sampling(0.7, 30, 0.95, False, 0.02, 0.8, 1.7)
    found = np.asarray(process(jnp.asarray(penalised(logits, seen, 1.7)), settings))
    same(np.isfinite(found), np.isfinite(expected))
    equal = (np.isfinite(found) == np.isfinite(expected)).all(axis=1)
    np.testing.assert_allclose(
        jax.nn.softmax(found[equal]), jax.nn.softmax(expected[equal]), rtol=1e-4, atol=1e-7
    )


def test_ties():
    """Symbols at one distance stay together, and the likeliest equal ones all are likely enough."""
    flat = np.zeros((1, 10), np.float32)
    assert theirs(flat, transformers.TypicalLogitsWarper(0.55)).sum() == 10
    assert ours(flat, Sampling(typical_p=0.55)).sum() == 10
    two = np.array([[2.0, 2.0, 0.0, -1.0]], np.float32)
    np.testing.assert_array_equal(
        ours(two, Sampling(min_p=1.0)), theirs(two, transformers.MinPLogitsWarper(1.0))
    )
