"""The exact loss equals one plain pass over the text, for any windows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import backend, models, parallel
from charjax.config import RuntimeConfig, parse_config
from charjax.data.splits import Split
from charjax.errors import UserError
from charjax.training.evaluation import exact_loss, exact_losses
from charjax.training.state import create_state

VOCAB, LENGTH = 13, 8


def text(*lengths: int) -> Split:
    """Build consecutive documents of these numbers of targets."""
    rng = np.random.default_rng(len(lengths))
    sizes = np.asarray(lengths)
    tokens = rng.integers(1, VOCAB, sizes.sum() + len(sizes)).astype(np.uint8)
    starts = np.cumsum(sizes + 1) - sizes - 1
    return Split(tokens, starts.astype(np.int32), sizes.astype(np.int32), "val")


@functools.cache
def setup(kind: str):
    sizes = {"transformer": {"n_layer": 1, "n_head": 2, "d_model": 8}, "bigram": {}}
    small = sizes.get(kind, {"d_embed": 4})
    config = parse_config({"model": {"kind": kind, "context_length": LENGTH, **small}})
    model = models.build(config.model, VOCAB, jnp.float32)
    state = create_state(model, config, jax.random.key(1))
    return model, {"params": jax.tree.map(_shaken, state.params)}


def _shaken(parameter):
    """Move parameters away from their initial zeros and ones."""
    waves = np.cos(np.arange(parameter.size, dtype=np.float32)).reshape(parameter.shape)
    return parameter + 0.1 * waves


def mesh():
    return parallel.make_mesh(backend.start_backend(RuntimeConfig()), 1)


def score(model, variables, split, **options):
    options = {"context_length": LENGTH, "batch_size": 3, **options}
    return exact_loss(model, variables, split, mesh(), **options)


def plain(model, variables, split, pieces) -> float:
    """Compute the mean loss of (start, first scored, end) pieces, each read in one pass."""
    return float(np.mean(np.concatenate(plain_losses(model, variables, split, pieces))))


def plain_losses(model, variables, split, pieces) -> list[np.ndarray]:
    losses = []
    for start, first, end in pieces:
        length = end - start
        # What comes after a token is not read with it; so few lengths are compiled.
        tokens = np.zeros((1, LENGTH if length <= LENGTH else length), np.int32)
        tokens[0, :length] = split.tokens[start:end]
        logs = np.asarray(log_probabilities(model, variables, tokens))[0, :length]
        targets = split.tokens[start + 1 : end + 1]
        losses.append(-logs[np.arange(length), targets][first - start :])
    return losses


@functools.partial(jax.jit, static_argnums=0)
def log_probabilities(model, variables, tokens):
    logits, _ = model.apply(variables, tokens)
    return jax.nn.log_softmax(logits)


@pytest.mark.parametrize(
    "kind",
    ["mlp", "gru", *(pytest.param(n, marks=pytest.mark.slow) for n in ("bigram", "rnn", "lstm"))],
)
def test_finite_and_carried_memory_read_the_text_as_one_stream(kind):
    model, variables = setup(kind)
    split = text(1500)
    got = score(model, variables, split)
    assert got.targets == 1500
    assert got.loss == pytest.approx(plain(model, variables, split, [(0, 0, 1500)]), rel=1e-5)


@pytest.mark.parametrize("kind", ["bow", pytest.param("transformer", marks=pytest.mark.slow)])
def test_windowed_families_read_windows_that_do_not_overlap(kind):
    model, variables = setup(kind)
    split = text(29)
    pieces = [(s, s, min(s + LENGTH, 29)) for s in range(0, 29, LENGTH)]
    got = score(model, variables, split)
    assert got.targets == 29
    assert got.loss == pytest.approx(plain(model, variables, split, pieces), rel=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "gru", "transformer"])
@pytest.mark.quick("gru", "transformer")
def test_documents_are_read_each_from_its_start(kind):
    model, variables = setup(kind)
    split = text(3, 8, 1, 7, 5)
    pieces = [(s, s, s + n) for s, n in zip(split.doc_starts, split.doc_lengths, strict=True)]
    got = score(model, variables, split)
    assert got.targets == 24
    assert got.loss == pytest.approx(plain(model, variables, split, pieces), rel=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "gru", "transformer"])
@pytest.mark.parametrize(("context", "stride"), [(6, 6), (6, 2), (5, 1)])
@pytest.mark.quick("5-1-mlp", "6-2-gru", "6-2-transformer")
def test_context_and_stride(kind, context, stride):
    model, variables = setup(kind)
    n = 31
    pieces = [(0, 0, context)]
    while pieces[-1][2] < n:
        start = pieces[-1][0] + stride
        pieces.append((start, pieces[-1][2], min(start + context, n)))
    split = text(n)
    got = score(model, variables, split, context=context, stride=stride)
    assert got.targets == n
    assert got.loss == pytest.approx(plain(model, variables, split, pieces), rel=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "gru", "transformer"])
@pytest.mark.quick("gru", "transformer")
def test_losses_of_each_token(kind):
    """They stand at the tokens they are of; before a document's first nothing stands."""
    model, variables = setup(kind)
    split = text(3, 8, 1, 7, 5)
    pieces = [(s, s, s + n) for s, n in zip(split.doc_starts, split.doc_lengths, strict=True)]
    options = {"context_length": LENGTH, "batch_size": 3}
    got = exact_losses(model, variables, split, mesh(), **options)
    assert np.flatnonzero(np.isnan(got)).tolist() == split.doc_starts.tolist()
    expected = np.concatenate(plain_losses(model, variables, split, pieces))
    np.testing.assert_allclose(got[~np.isnan(got)], expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
@pytest.mark.quick("transformer")
def test_losses_of_each_token_in_windows_that_overlap(kind):
    model, variables = setup(kind)
    pieces = [(0, 0, 6)]
    while pieces[-1][2] < 31:
        start = pieces[-1][0] + 2
        pieces.append((start, pieces[-1][2], min(start + 6, 31)))
    options = {"context_length": LENGTH, "batch_size": 3, "context": 6, "stride": 2}
    got = exact_losses(model, variables, text(31), mesh(), **options)
    expected = np.concatenate(plain_losses(model, variables, text(31), pieces))
    np.testing.assert_allclose(got[1:], expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "gru", "transformer"])
@pytest.mark.quick("mlp", "gru")
def test_the_batch_size_does_not_matter(kind):
    model, variables = setup(kind)
    losses = [score(model, variables, text(40, 50), batch_size=b).loss for b in (1, 2, 64)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": LENGTH + 1}, "--context: 9 given; it must be from 1 to 8"),
        ({"context": 0}, "--context: 0 given"),
        ({"context": 4, "stride": 5}, "--stride: 5 given; it must be from 1 to 4"),
        ({"stride": 0}, "--stride: 0 given"),
    ],
)
def test_windows_out_of_bounds(options, message):
    model, variables = setup("transformer")
    with pytest.raises(UserError, match=message):
        score(model, variables, text(40), **options)
