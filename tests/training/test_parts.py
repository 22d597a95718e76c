"""Evaluation in parallel streams and of some targets equals plain passes over those parts."""

import itertools

import numpy as np
import pytest

from charjax.data.tokenizers import CharTokenizer
from charjax.training import evaluation
from charjax.training.evaluation import exact_losses, scored_size
from tests.training.test_evaluation import LENGTH, mesh, plain, score, setup, text

# Of one to four bytes.
SYMBOLS = CharTokenizer("abcdé\u00e8\u00e7漢字仮名😀😁")


def assert_sized(model, split, pieces, **sizes):
    """Compare the size of what is scored with a count of the characters of these pieces."""
    sizes = {"context_length": LENGTH, "batch_size": 3, **sizes}
    found = scored_size(model, split, mesh(), SYMBOLS, **sizes)
    targets = np.concatenate([split.tokens[first + 1 : end + 1] for _, first, end in pieces])
    written = SYMBOLS.decode(targets)
    assert found == (len(targets), len(written), len(written.encode()))


CARRIED = ["gru", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rnn", "lstm"))]


@pytest.mark.parametrize("kind", CARRIED)
@pytest.mark.parametrize("warmup", [0, 20])
def test_streams_begin_with_a_state_of_zeros(kind, warmup):
    model, variables = setup(kind)
    split = text(403)
    bounds = [0, 100, 201, 302, 403]
    pieces = [(max(0, begin - warmup), begin, end) for begin, end in itertools.pairwise(bounds)]
    got = score(model, variables, split, streams=4, warmup=warmup)
    assert (got.targets, got.of) == (403, None)
    assert got.loss == pytest.approx(plain(model, variables, split, pieces), rel=1e-5)
    losses = exact_losses(
        model, variables, split, mesh(), context_length=8, batch_size=3, streams=4, warmup=warmup
    )
    assert np.isnan(losses).tolist() == [True] + [False] * 403
    assert losses[1:].mean() == pytest.approx(got.loss, rel=1e-5)


def test_documents_as_many_as_streams_are_read_as_they_are():
    model, variables = setup("gru")
    split = text(3, 8, 1, 7, 5)
    got = score(model, variables, split, streams=5, warmup=4)
    assert got.targets == 24
    assert got.loss == pytest.approx(score(model, variables, split).loss, rel=1e-6)


def test_some_targets_of_a_carried_family(monkeypatch):
    monkeypatch.setattr(evaluation, "CARRIED_CHUNK", 16)
    model, variables = setup("gru")
    split = text(160)
    # Of ten windows, the middles of three thirds.
    pieces = [(max(0, start - 9), start, start + 16) for start in (16, 80, 128)]
    got = score(model, variables, split, max_targets=50, warmup=9)
    assert (got.targets, got.of) == (48, 160)
    assert got.coverage() == {"targets": 48, "of": 160}
    assert_sized(model, split, pieces, max_targets=50, warmup=9)
    assert got.loss == pytest.approx(plain(model, variables, split, pieces), rel=1e-5)
    whole = score(model, variables, split, max_targets=160, warmup=9)
    assert whole.loss == pytest.approx(score(model, variables, split).loss, rel=1e-6)
    assert (whole.targets, whole.coverage()) == (160, {})


@pytest.mark.parametrize("kind", ["bow", pytest.param("transformer", marks=pytest.mark.slow)])
def test_some_windows_of_a_windowed_family(kind):
    model, variables = setup(kind)
    split = text(10 * LENGTH)
    pieces = [(s, s, s + LENGTH) for s in (LENGTH, 5 * LENGTH, 8 * LENGTH)]
    got = score(model, variables, split, max_targets=3 * LENGTH + 1)
    assert (got.targets, got.of) == (3 * LENGTH, 10 * LENGTH)
    assert_sized(model, split, pieces, max_targets=3 * LENGTH + 1)
    assert got.loss == pytest.approx(plain(model, variables, split, pieces), rel=1e-5)


def test_some_targets_of_a_finite_family_have_their_whole_context():
    model, variables = setup("mlp")
    split = text(2000)
    got = score(model, variables, split, max_targets=600)
    assert (got.targets, got.of) == (512, 2000)
    # Of windows of 256 the third and the seventh.
    pieces = [(start - LENGTH, start, start + 256) for start in (512, 1536)]
    assert_sized(model, split, pieces, max_targets=600)
    assert got.loss == pytest.approx(plain(model, variables, split, pieces), rel=1e-5)
