"""N-grams against the equations of Chen and Goodman, written over dictionaries.

"An Empirical Study of Smoothing Techniques for Language Modeling" (TR-10-98, Harvard, 1998): the
interpolated form of Kneser-Ney smoothing, and its modification with three discounts, which kenlm's
lm/builder/adjust_counts.cc states as equation 26.
"""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.config import parse_config
from charjax.data.splits import Split
from charjax.models import build

V = 40
SMOOTHINGS = ["additive", "kneser_ney", "modified_kneser_ney"]
ALPHA = 0.3


def text(layout: str) -> Split:
    """Return a text with n-grams seen once, twice, three and four times at every length tested."""
    rng = np.random.default_rng(4)
    weights = 1 / np.arange(1, V + 1) ** 1.6
    words = [rng.choice(V, rng.integers(2, 6), p=weights / weights.sum()) for _ in range(250)]
    places = rng.choice(250, 800, p=(w := 1 / np.arange(1, 251)) / w.sum())
    tokens = np.concatenate([words[i] for i in places]).astype(np.uint8)
    if layout == "stream":
        return Split(tokens, np.array([0]), np.array([len(tokens) - 1]))
    tokens[0] = tokens[-1] = 0
    bounds = np.flatnonzero(tokens == 0)
    return Split(tokens, bounds[:-1], np.diff(bounds))


class Equations:
    """p(w | h) by the equations; a context is a tuple, the oldest character first.

    Targets whose places, in their order, are `left_out` are not counted.
    """

    def __init__(self, split: Split, order: int, smoothing: str, left_out: range = range(0)):
        self.order, self.smoothing, self.left_out = order, smoothing, left_out
        # c(h w) of the longest contexts. Before a document stand boundaries.
        occurrences: collections.Counter[tuple[int, ...]] = collections.Counter()
        place = 0
        for start, length in zip(split.doc_starts, split.doc_lengths, strict=True):
            document = [0] * order + [int(t) for t in split.tokens[start : start + length + 1]]
            for end in range(order + 2, len(document) + 1):
                occurrences[tuple(document[end - order : end])] += place not in left_out
                place += 1
        occurrences = +occurrences
        self.counts = {order: occurrences}
        # Below them N1+(. h w): how many different characters stand before h w.
        for n in range(order - 1, 0, -1):
            longer = self._reached(n + 1)
            self.counts[n] = collections.Counter(gram[1:] for gram in longer)
        self.discounts = {n: self._discounts(counts) for n, counts in self.counts.items()}
        self.after: dict[tuple[int, ...], dict[int, int]] = collections.defaultdict(dict)
        for counts in self.counts.values():
            for (*h, w), count in counts.items():
                self.after[tuple(h)][w] = count

    def _reached(self, n: int) -> set[tuple[int, ...]]:
        """Return every n-gram that ends in a target."""
        return {gram[-n:] for gram in self.counts[self.order]}

    def _discounts(self, counts: collections.Counter) -> tuple[float, float, float]:
        n1, n2, n3, n4 = (sum(c == i for c in counts.values()) for i in (1, 2, 3, 4))
        assert min(n1, n2, n3, n4) > 0, "the equations say nothing of such a text"
        Y = n1 / (n1 + 2 * n2)
        if self.smoothing == "kneser_ney":
            return Y, Y, Y
        D1, D2, D3 = 1 - 2 * Y * n2 / n1, 2 - 3 * Y * n3 / n2, 3 - 4 * Y * n4 / n3
        # charjax discounts no count by less than a count of one.
        is_plain = self.smoothing == "additive" or self.left_out or min(D2, D3) >= D1
        assert is_plain, "charjax takes other discounts"
        return D1, max(D1, D2), max(D1, D3)

    def p(self, w: int, h: tuple[int, ...]) -> float:
        """Return the smoothed probability of w after h."""
        after = self.after[h]
        if self.smoothing == "additive":
            return (after.get(w, 0) + ALPHA) / (sum(after.values()) + ALPHA * V)
        lower = self.p(w, h[1:]) if h else 1 / V
        if not after:
            return lower
        D1, D2, D3 = self.discounts[len(h) + 1]
        total, c = sum(after.values()), after.get(w, 0)
        N1, N2 = (sum(count == i for count in after.values()) for i in (1, 2))
        N3 = len(after) - N1 - N2
        gamma = (D1 * N1 + D2 * N2 + D3 * N3) / total
        D = 0.0 if c == 0 else (D1, D2, D3)[min(c, 3) - 1]
        return max(c - D, 0.0) / total + gamma * lower


@functools.partial(jax.jit, static_argnames="model")
def both(model, variables, contexts):
    """Return every symbol's probability after each context (M, n - 1), by logits and by lookup."""
    logits, _ = model.apply(variables, contexts, num_outputs=1)
    every = jnp.tile(jnp.arange(V), (len(contexts), 1)).reshape(-1, 1)
    logs = model.apply(variables, jnp.repeat(contexts, V, axis=0), every, method="target_log_probs")
    return jnp.exp(logits[:, 0]), jnp.exp(logs).reshape(-1, V)


@pytest.mark.parametrize(
    ("layout", "order"),
    [
        ("stream", 5),
        ("lines", 3),
        pytest.param("stream", 2, marks=pytest.mark.slow),
        pytest.param("stream", 4, marks=pytest.mark.slow),
        pytest.param("lines", 1, marks=pytest.mark.slow),
        pytest.param("lines", 6, marks=pytest.mark.slow),
    ],
)
def test_equals_chen_and_goodman(layout, order):
    split = text(layout)
    rng = np.random.default_rng(0)
    ends = rng.integers(order, len(split.tokens), 25)
    seen = np.array([split.tokens[end - max(order - 1, 1) : end] for end in ends])
    # Contexts seen but for their oldest characters, and contexts of which nothing was seen.
    partly = np.where(np.arange(seen.shape[1]) < seen.shape[1] // 2, V - 1 - seen, seen)
    contexts = np.concatenate([seen, partly, rng.integers(0, V, (15, seen.shape[1]))])
    contexts = contexts.astype(np.int32)
    # The smoothing is in the tables alone, so one program does for all three.
    applied = make(order, SMOOTHINGS[0])
    for smoothing in SMOOTHINGS:
        variables = make(order, smoothing).fit(split)
        dense, looked_up = both(applied, variables, contexts)
        equations = Equations(split, order, smoothing)
        expected = np.array(
            [[equations.p(w, tuple(h[len(h) - order + 1 :])) for w in range(V)] for h in contexts]
        )
        np.testing.assert_allclose(expected.sum(-1), 1.0, atol=1e-12)
        np.testing.assert_allclose(dense, expected, atol=1e-6)
        np.testing.assert_allclose(looked_up, expected, atol=1e-6)
        np.testing.assert_allclose(looked_up.sum(-1), 1.0, atol=1e-5)


def make(order: int, smoothing: str):
    section = {"kind": "ngram", "order": order, "smoothing": smoothing, "alpha": ALPHA}
    return build(parse_config({"model": section}).model, V, jnp.float32)
