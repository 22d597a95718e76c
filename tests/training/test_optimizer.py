"""Schedules and optimizers against their formulas."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from charjax.config import OptimConfig, parse_config
from charjax.training.optimizer import (
    clip_factor,
    keep_unless,
    make_optimizer,
    make_schedule,
)
from charjax.training.optimizers.stages import is_matrix


def rate(step: int, **config) -> float:
    return float(make_schedule(OptimConfig(learning_rate=0.1, **config))(jnp.int32(step)))


def test_constant():
    assert rate(0) == rate(10_000) == pytest.approx(0.1)


def test_warm_up_is_nanogpts():
    # lr * (it + 1) / (warmup_iters + 1)
    for step in range(4):
        assert rate(step, warmup_steps=4) == pytest.approx(0.1 * (step + 1) / 5)
    assert rate(4, warmup_steps=4) == pytest.approx(0.1)


@pytest.mark.parametrize("step", [10, 11, 55, 99, 100, 1000])
def test_cosine_is_nanogpts(step):
    ratio = min(1.0, (step - 10) / 90)
    expected = 0.01 + 0.5 * (1 + math.cos(math.pi * ratio)) * 0.09
    got = rate(step, schedule="cosine", warmup_steps=10, decay_steps=100, min_learning_rate=0.01)
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("tail", "half"), [("linear", 0.5), ("1-sqrt", 1 - math.sqrt(0.5)), ("cosine", 0.5)]
)
def test_wsd_is_stable_and_then_falls(tail: str, half: float):
    wsd = {"schedule": "wsd", "decay_steps": 100, "decay_fraction": 0.2, "tail": tail}
    wsd |= {"min_learning_rate": 0.02, "warmup_steps": 4}
    assert rate(0, **wsd) == pytest.approx(0.02)
    assert rate(4, **wsd) == rate(80, **wsd) == pytest.approx(0.1)
    assert rate(90, **wsd) == pytest.approx(0.02 + half * 0.08)
    assert rate(100, **wsd) == rate(1000, **wsd) == pytest.approx(0.02)


def test_step_drops_at_its_boundaries():
    config = {"schedule": "step", "boundaries": (5, 10), "factor": 0.5}
    assert [rate(s, **config) for s in (4, 5, 9, 10)] == pytest.approx([0.1, 0.05, 0.05, 0.025])


def test_exponential_begins_at_its_boundary():
    config = {"schedule": "exponential", "boundaries": (10,), "factor": 0.5, "decay_steps": 4}
    assert rate(10, **config) == pytest.approx(0.1)
    assert rate(12, **config) == pytest.approx(0.1 * 0.5**0.5)
    assert rate(12, staircase=True, **config) == pytest.approx(0.1)
    assert rate(14, staircase=True, **config) == pytest.approx(0.05)


def test_decay_and_penalty_are_for_matrices_only():
    params = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3), "table": jnp.zeros((2, 3, 4))}
    assert is_matrix(params) == {"kernel": True, "bias": False, "table": True}
    config = OptimConfig(kind="sgd", weight_decay=0.5, grad_clip=0.0)
    ones = jax.tree.map(jnp.ones_like, params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = make_optimizer(config)
    moved, _ = apply(optimizer, ones, zeros, optimizer.init(ones), learning_rate=1.0)
    assert float(moved["kernel"][0, 0]) == 0.5
    assert float(moved["bias"][0]) == 1.0


def apply(
    optimizer: optax.GradientTransformationExtraArgs,
    params: Any,
    grads: Any,
    state: Any,
    learning_rate: float = 0.01,
    scale: float = 1.0,
    finite: bool = True,
    **factors: Any,
) -> tuple[Any, Any]:
    """Return parameters and state after a step, as the train step applies the update."""
    updates, state = optimizer.update(
        grads,
        state,
        params,
        learning_rate=jnp.float32(learning_rate),
        scale=jnp.float32(scale),
        finite=jnp.bool_(finite),
        **factors,
    )
    return keep_unless(jnp.bool_(finite), optax.apply_updates(params, updates), params), state


def test_adamw_step_by_step():
    """Compare with the algorithm written out (Loshchilov and Hutter 2019)."""
    # So large an epsilon shows where it is added.
    config = OptimConfig(beta1=0.8, beta2=0.9, eps=0.05, weight_decay=0.1, grad_clip=1.0)
    optimizer = make_optimizer(config)
    rng = np.random.default_rng(0)
    param = rng.normal(size=(3, 4)).astype(np.float32)
    ours, state = jnp.asarray(param), optimizer.init(jnp.asarray(param))
    mean, square = np.zeros_like(param), np.zeros_like(param)
    for step in range(1, 6):
        grad = 3 * rng.normal(size=(3, 4)).astype(np.float32)
        clip = clip_factor(config, jnp.linalg.norm(jnp.asarray(grad)))
        ours, state = apply(optimizer, ours, jnp.asarray(grad), state, scale=float(clip))
        grad = grad / max(1.0, float(np.linalg.norm(grad)))
        mean = 0.8 * mean + 0.2 * grad
        square = 0.9 * square + 0.1 * grad**2
        direction = (mean / (1 - 0.8**step)) / (np.sqrt(square / (1 - 0.9**step)) + 0.05)
        param = param - 0.01 * (direction + 0.1 * param)
        np.testing.assert_allclose(ours, param, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("factored", [False, True])
def test_adamw_is_optaxs(decay: float, factored: bool):
    """Include clipping, decay on matrices only, and rate factors; ten steps, one skipped."""
    config = OptimConfig(beta2=0.99, weight_decay=decay, grad_clip=0.7)
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 5), "bias": (5,), "gain": ()}
    draw = lambda: {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}  # noqa: E731
    ours = params = draw()
    factors = {"kernel": jnp.float32(0.3), "bias": jnp.float32(2.0), "gain": jnp.float32(1.0)}
    scaled = optax.stateless(lambda u, _: jax.tree.map(jnp.multiply, u, factors))
    plain = optax.chain(
        optax.clip_by_global_norm(0.7),
        optax.scale_by_adam(0.9, 0.99, config.eps),
        scaled if factored else optax.identity(),
        optax.add_decayed_weights(decay, mask=is_matrix),
        optax.scale(-0.01),
    )
    state, optimizer = plain.init(params), make_optimizer(config)
    mine = optimizer.init(ours)
    for step in range(10):
        grads, finite = draw(), step != 4
        clip = clip_factor(config, optax.tree.norm(grads))
        chosen = {"rate_factors": factors} if factored else {}
        ours, mine = apply(optimizer, ours, grads, mine, scale=float(clip), finite=finite, **chosen)
        if finite:
            with jax.numpy_dtype_promotion("standard"):
                updates, state = plain.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        for name in shapes:
            np.testing.assert_allclose(ours[name], params[name], rtol=2e-5, atol=1e-6)


def test_rmsprop_and_sgd_step_by_step():
    """Compare with Tieleman and Hinton 2012 and Polyak's momentum; both with decoupled decay."""
    common = {"momentum": 0.9, "weight_decay": 0.1}
    rmsprop = OptimConfig(kind="rmsprop", rms_decay=0.8, eps=0.05, **common)
    sgd = OptimConfig(kind="sgd", **common)
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(5, 3, 4)).astype(np.float32)
    for config in (rmsprop, sgd):
        param = np.ones((3, 4), np.float32)
        optimizer = make_optimizer(config)
        ours, state = jnp.asarray(param), optimizer.init(jnp.asarray(param))
        square, speed = np.zeros_like(param), np.zeros_like(param)
        for grad in gradients:
            ours, state = apply(optimizer, ours, jnp.asarray(grad), state, scale=0.5)
            half = 0.5 * grad
            square = 0.8 * square + 0.2 * half**2
            direction = half / (np.sqrt(square) + 0.05) if config.kind == "rmsprop" else half
            speed = 0.9 * speed + direction
            param = param - 0.01 * (speed + 0.1 * param)
            np.testing.assert_allclose(ours, param, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("norm", "factor"), [(0.5, 1.0), (0.7, 1.0), (1.4, 0.5), (70.0, 0.01)])
def test_gradients_are_made_shorter_and_never_longer(norm: float, factor: float):
    clip = clip_factor(OptimConfig(grad_clip=0.7), jnp.float32(norm))
    assert float(clip) == pytest.approx(factor)
    assert float(clip_factor(OptimConfig(grad_clip=0.0), jnp.float32(norm))) == 1.0


@pytest.mark.parametrize("kind", ["adamw", "rmsprop", "sgd"])
def test_a_step_that_is_not_taken_changes_no_bit(kind: str):
    config = OptimConfig(kind=kind, momentum=0.0 if kind == "adamw" else 0.9, weight_decay=0.1)
    optimizer, params = make_optimizer(config), {"w": jnp.full((2, 3), 0.7)}
    state = optimizer.init(params)
    for gradient, finite in ((0.3, True), (math.nan, False), (math.inf, False)):
        before = jax.tree.map(np.asarray, (params, state))
        grads = {"w": jnp.full((2, 3), gradient)}
        params, state = apply(optimizer, params, grads, state, finite=finite)
        same = jax.tree.map(np.array_equal, before, jax.tree.map(np.asarray, (params, state)))
        assert all(jax.tree.leaves(same)) is not finite


@pytest.mark.parametrize("kind", ["adamw", "sgd", "lion"])
def test_cautious_decay_leaves_what_the_step_makes_larger(kind: str):
    """Compare with the step and the decay by themselves (Chen et al. 2025)."""
    tree = {"kind": kind, "weight_decay": 0.5, "grad_clip": 0.0}
    params = {"w": jnp.asarray([[0.4, -0.4, 0.0, 2.0]]), "b": jnp.asarray([1.0])}
    grads = {"w": jnp.asarray([[1.0, 1.0, 1.0, 0.0]]), "b": jnp.asarray([1.0])}

    def moved(**settings: Any) -> dict[str, np.ndarray]:
        config = parse_config({"optim": tree | settings}).optim
        optimizer = make_optimizer(config)
        after, _ = apply(optimizer, params, grads, optimizer.init(params), learning_rate=0.1)
        return jax.tree.map(lambda a, p: np.asarray(a - p), after, params)

    plain, decayed, cautious = moved(weight_decay=0.0), moved(), moved(cautious_decay=True)
    np.testing.assert_allclose(decayed["w"] - plain["w"], [[-0.02, 0.02, 0.0, -0.1]], atol=1e-7)
    # The step makes 0.4 smaller, -0.4 larger, and leaves 2 where it is.
    np.testing.assert_allclose(cautious["w"] - plain["w"], [[-0.02, 0.0, 0.0, -0.1]], atol=1e-7)
    np.testing.assert_array_equal(cautious["b"], plain["b"])
