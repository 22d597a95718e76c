"""Smoothed labels, the z-loss, and clipping by element."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.config import TrainConfig
from charjax.training.step import cross_entropy, make_objective
from tests.training.test_step import make_batch, setup, step

LOGITS = np.random.default_rng(0).normal(0, 3, (2, 5, 7)).astype(np.float32)
TARGETS = np.random.default_rng(1).integers(0, 7, (2, 5))


def plain(logits, targets, smoothing, z_loss):
    """Compute the mean of both terms over a loop of positions, in float64."""
    losses = []
    for row, target in zip(logits.reshape(-1, 7).astype(np.float64), targets.ravel(), strict=True):
        log_z = np.log(np.exp(row).sum())
        q = np.full(7, smoothing / 7)
        q[target] += 1 - smoothing
        losses.append(q @ (log_z - row) + z_loss * log_z**2)
    return np.array(losses).reshape(targets.shape)


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.1, 0.0), (0.0, 1e-2), (0.3, 1e-3)])
def test_smoothed_labels_and_the_z_loss(smoothing, z_loss):
    objective = make_objective(TrainConfig(label_smoothing=smoothing, z_loss=z_loss))
    expected = plain(LOGITS, TARGETS, smoothing, z_loss)
    np.testing.assert_allclose(objective(LOGITS, TARGETS), expected, rtol=2e-6)
    slope = jax.grad(lambda x: jnp.sum(objective(x, TARGETS)))(jnp.asarray(LOGITS))
    p = jax.nn.softmax(LOGITS, axis=-1)
    q = (1 - smoothing) * np.eye(7)[TARGETS] + smoothing / 7
    log_z = np.log(np.exp(LOGITS.astype(np.float64)).sum(-1, keepdims=True))
    np.testing.assert_allclose(slope, p - q + 2 * z_loss * log_z * p, atol=2e-6)


def test_without_either_nothing_is_added():
    assert make_objective(TrainConfig()) is None


@pytest.mark.parametrize("terms", [{"label_smoothing": 0.2}, {"z_loss": 0.1}])
def test_the_reported_loss_stays_the_cross_entropy(terms):
    """The gradient, and so the step, is another one; and so it is from micro-batches."""
    config, model, state = setup("bigram")
    other, *_ = setup("bigram", train=terms)
    both, *_ = setup("bigram", train=terms, optim={"accumulate_steps": 2})
    batch = make_batch(model, 4)
    batch = batch._replace(weights=jnp.ones_like(batch.weights))
    after, metrics = step(config, model, state, batch)
    changed, trained = step(other, model, state, batch)
    in_two, accumulated = step(both, model, state, batch)
    assert trained.loss == metrics.loss
    assert abs(trained.grad_norm / metrics.grad_norm - 1) > 1e-2
    np.testing.assert_allclose(accumulated, trained, rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (changed, in_two)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(changed.params["logits"], after.params["logits"])


def test_elements_are_clipped_before_the_norm():
    """Each element of the mean gradient first, then all of them by their new norm."""
    descent = {"kind": "sgd", "learning_rate": 1.0}
    config, model, state = setup("bigram", optim={**descent, "grad_clip": 0.0})
    batch = make_batch(model, 4)
    after, plain_metrics = step(config, model, state, batch)
    gradient = np.asarray(state.params["logits"]) - np.asarray(after.params["logits"])
    bound = float(np.abs(gradient).max()) / 3
    clipped = np.clip(gradient, -bound, bound)
    assert (clipped != gradient).any()
    norm = float(np.linalg.norm(clipped))
    for grad_clip, expected in ((0.0, clipped), (norm / 2, clipped / 2), (1e6, clipped)):
        config, _, state = setup(
            "bigram", optim={**descent, "clip_value": bound, "grad_clip": grad_clip}
        )
        after, metrics = step(config, model, state, batch)
        found = np.asarray(state.params["logits"]) - np.asarray(after.params["logits"])
        np.testing.assert_allclose(found, expected, atol=1e-6)
        # Reported is the norm before any clipping.
        np.testing.assert_allclose(metrics.grad_norm, plain_metrics.grad_norm, rtol=1e-6)


def test_an_infinite_gradient_is_skipped_and_not_clipped():
    config, model, state = setup("bigram", optim={"clip_value": 0.1})
    broken = state._replace(params=jax.tree.map(lambda p: p * jnp.inf, state.params))
    _, metrics = step(config, model, broken, make_batch(model, 4))
    assert metrics.skipped == 1


def test_cross_entropy_is_what_evaluation_reads():
    objective = make_objective(TrainConfig(label_smoothing=0.1))
    assert not np.allclose(objective(LOGITS, TARGETS), cross_entropy(LOGITS, TARGETS))
