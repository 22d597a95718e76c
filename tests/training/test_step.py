"""One step: accumulation equals the large batch, a skipped step changes nothing, the penalty."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from charjax import models
from charjax.config import Config, parse_config
from charjax.data.batches import Batch
from charjax.training.optimizer import from_optax
from charjax.training.optimizers.stages import is_matrix
from charjax.training.state import TrainState, create_state
from charjax.training.step import cross_entropy, l2_penalty, make_train_step

VOCAB = 11


def setup(kind: str, **sections) -> tuple[Config, object, TrainState]:
    tree = {"model": {"kind": kind, "context_length": 6}, "train": {"batch_size": 4}}
    for name, section in sections.items():
        tree[name] = tree.get(name, {}) | section
    config = parse_config(tree)
    model = models.build(config.model, VOCAB, jnp.float32)
    return config, model, create_state(model, config, jax.random.key(0))


def make_batch(model, rows: int, seed: int = 0, window: int = 6) -> Batch:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, (rows, model.lookback + window + 1))
    return Batch(
        inputs=jnp.asarray(tokens[:, :-1], jnp.int32),
        targets=jnp.asarray(tokens[:, -window:], jnp.int32),
        weights=jnp.asarray(rng.integers(0, 2, (rows, window)), jnp.float32),
        restart=jnp.asarray(True),
    )


@functools.cache
def program(config, model):
    return jax.jit(make_train_step(model, config))


def step(config, model, state, batch, seed=0):
    return program(config, model)(state, batch, jax.random.key(seed))


@pytest.mark.parametrize(
    "kind",
    [
        "mlp",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("bigram", "gru", "transformer")),
    ],
)
def test_accumulation_equals_the_large_batch(kind):
    small = {"n_layer": 1, "n_head": 2, "d_model": 8} if kind == "transformer" else {}
    config, model, state = setup(kind, model=small)
    batch = make_batch(model, 8)
    large, metrics = step(config, model, state, batch)
    config, *_ = setup(kind, model=small, optim={"accumulate_steps": 4})
    pieces, told_pieces = step(config, model, state, batch)
    for a, b in zip(jax.tree.leaves(large), jax.tree.leaves(pieces), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics.loss, told_pieces.loss, rtol=1e-6)
    np.testing.assert_allclose(metrics.grad_norm, told_pieces.grad_norm, rtol=1e-5)


def test_a_step_that_is_not_finite_changes_the_counters_alone():
    config, model, state = setup("mlp", model={"norm": "batch"}, data={"layout": "pairs"})
    batch = make_batch(model, 4)
    state, _ = step(config, model, state, batch)
    broken = state._replace(params=jax.tree.map(lambda p: p.at[0].set(jnp.nan), state.params))
    after, metrics = step(config, model, broken, batch)
    for name in ("params", "opt_state", "model_state", "carry"):
        pairs = zip(
            jax.tree.leaves(getattr(broken, name)),
            jax.tree.leaves(getattr(after, name)),
            strict=True,
        )
        assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
    assert metrics.skipped == 1
    assert [int(c) for c in after.counters] == [2, 1, 1]
    healed, metrics = step(config, model, after._replace(params=state.params), batch)
    assert metrics.skipped == 0
    assert [int(c) for c in healed.counters] == [3, 1, 0]


OPTAX = {
    "lion": optax.lion(1.0, weight_decay=0.1, mask=is_matrix),
    "adamw": optax.adamw(1.0, b2=0.99, weight_decay=0.1, mask=is_matrix),
    "sgd": optax.sgd(1.0, momentum=0.9),
}
CLIPPED = {"learning_rate": 0.02, "warmup_steps": 2, "weight_decay": 0.1, "beta2": 0.99}
CLIPPED |= {"grad_clip": 0.3}


@pytest.mark.parametrize(
    "name", ["lion", *(pytest.param(n, marks=pytest.mark.slow) for n in ("adamw", "sgd"))]
)
@pytest.mark.slow
def test_any_optimizer_of_optax_can_stand_in_the_step(name, monkeypatch):
    """Compare five steps, one of them not finite, with a loop over optax."""
    for module in ("step", "state"):
        monkeypatch.setattr(
            f"charjax.training.{module}.make_optimizer",
            lambda config, roles: from_optax(OPTAX[name]),
        )
    config, model, state = setup("mlp", optim=CLIPPED)
    params, plain = state.params, optax.chain(optax.clip_by_global_norm(0.3), OPTAX[name])
    plain_state, train_step = plain.init(params), jax.jit(make_train_step(model, config))
    for number in range(5):
        batch = make_batch(model, 4, seed=number)
        if number == 2:
            batch = batch._replace(weights=jnp.full_like(batch.weights, jnp.inf))
        state, _ = train_step(state, batch, jax.random.key(0))
        if number != 2:
            grads = jax.grad(mean_loss)(params, model, batch)
            with jax.numpy_dtype_promotion("standard"):
                updates, plain_state = plain.update(grads, plain_state, params)
            learning_rate = 0.02 * min(1, (number + 1) / 3)
            params = jax.tree.map(lambda p, u, r=learning_rate: p + r * u, params, updates)
    assert int(state.counters.skipped) == 1
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def mean_loss(params, model, batch):
    logits, _ = model.apply({"params": params}, batch.inputs, num_outputs=batch.targets.shape[1])
    losses = cross_entropy(logits, batch.targets)
    return jnp.sum(losses * batch.weights) / jnp.sum(batch.weights)


def test_the_fused_adamw_is_optaxs_in_the_step(monkeypatch):
    config, model, state = setup("mlp", optim=CLIPPED)
    fused, plain = state, state._replace(opt_state=OPTAX["adamw"].init(state.params))
    fused_step = jax.jit(make_train_step(model, config))
    monkeypatch.setattr(
        "charjax.training.step.make_optimizer", lambda config, roles: from_optax(OPTAX["adamw"])
    )
    plain_step = jax.jit(make_train_step(model, config))
    for number in range(5):
        batch = make_batch(model, 4, seed=number)
        fused, _ = fused_step(fused, batch, jax.random.key(0))
        plain, _ = plain_step(plain, batch, jax.random.key(0))
    for ours, theirs in zip(
        jax.tree.leaves(fused.params), jax.tree.leaves(plain.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_weighted_mean_over_targets():
    config, model, state = setup("bigram")
    batch = make_batch(model, 4)
    _, metrics = step(config, model, state, batch)
    logits, _ = model.apply({"params": state.params}, batch.inputs)
    losses = -jax.nn.log_softmax(logits)[
        np.arange(4)[:, None], np.arange(6)[None, :], batch.targets
    ]
    expected = float((losses * batch.weights).sum() / batch.weights.sum())
    assert float(metrics.loss) == pytest.approx(expected, rel=1e-5)
    assert float(metrics.targets) == float(batch.weights.sum())


def test_cross_entropy_of_a_uniform_guess_is_log_v():
    losses = cross_entropy(jnp.zeros((2, 3, 27)), jnp.zeros((2, 3), jnp.int32))
    np.testing.assert_allclose(losses, np.log(27), rtol=1e-6)


def test_l2_is_the_mean_square_of_each_matrix():
    params = {"w": jnp.full((2, 2), 3.0), "b": jnp.full(2, 100.0), "v": jnp.ones((4, 1))}
    assert float(l2_penalty(params, 0.5)) == pytest.approx(5.0)


def test_the_penalty_is_added_to_the_mean_of_the_gradients_and_not_to_the_loss():
    plain = {"kind": "sgd", "learning_rate": 1.0, "grad_clip": 0.0}
    config, model, state = setup("bigram", optim=plain)
    batch = make_batch(model, 4)
    # Away from the zeros that a bigram begins with.
    params = jax.tree.map(lambda p: p + jnp.cos(jnp.arange(p.size)).reshape(p.shape), state.params)
    state = state._replace(params=params)
    without, metrics = step(config, model, state, batch)
    config, *_ = setup("bigram", optim={**plain, "l2": 0.5})
    penalised, told_penalised = step(config, model, state, batch)
    (table,) = jax.tree.leaves(params)
    (moved,), (moved_penalised,) = map(jax.tree.leaves, (without.params, penalised.params))
    np.testing.assert_allclose(moved - moved_penalised, 0.5 * 2 * table / table.size, atol=1e-6)
    assert metrics.loss == told_penalised.loss
    assert metrics.penalty == 0
    assert float(told_penalised.penalty) == pytest.approx(0.5 * float(jnp.mean(table**2)), rel=1e-5)


@pytest.mark.slow
def test_running_statistics_are_those_of_every_micro_batch_in_turn():
    sections = {"model": {"norm": "batch"}, "data": {"layout": "pairs"}}
    config, model, state = setup("mlp", **sections)
    batch = make_batch(model, 8, window=1)._replace(weights=jnp.ones((8, 1)))
    config, *_ = setup("mlp", **sections, optim={"accumulate_steps": 2})
    both, _ = step(config, model, state, batch)
    expected = state.model_state
    for rows in (slice(0, 4), slice(4, 8)):
        _, expected = model.apply(
            {"params": state.params, **expected},
            batch.inputs[rows],
            num_outputs=1,
            train=True,
            mutable=["batch_stats"],
        )
    pairs = zip(jax.tree.leaves(both.model_state), jax.tree.leaves(expected), strict=True)
    for found, wanted in pairs:
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_clipping_is_of_the_mean_gradient():
    plain = {"kind": "sgd", "learning_rate": 1.0}
    moves = []
    for bound in (0.0, 0.1, 1e6):
        config, model, state = setup("bigram", optim={**plain, "grad_clip": bound})
        after, metrics = step(config, model, state, make_batch(model, 4))
        difference = jax.tree.map(jnp.subtract, state.params, after.params)
        moves.append(float(optax.tree.norm(difference)))
    norm = float(metrics.grad_norm)
    assert norm > 0.1
    # Unclipped, a step at the rate 1 is as long as the gradient.
    assert moves == pytest.approx([norm, 0.1, norm], rel=1e-5)


def test_dropout_follows_the_key():
    small = {"n_layer": 1, "n_head": 2, "d_model": 8, "dropout": 0.5}
    config, model, state = setup("transformer", model=small)
    batch = make_batch(model, 4)
    losses = [float(step(config, model, state, batch, seed)[1].loss) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
