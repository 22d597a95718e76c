"""Blocks in a loop, as a TPU trains them, are those one after the other: losses and gradients."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from charjax import parallel
from charjax.config import parse_config
from charjax.models import build, transformer
from charjax.models.contract import CharModel
from charjax.ops import choice

V, B, T, LAYERS = 11, 2, 8, 2
SMALL = {"kind": "transformer", "n_layer": LAYERS, "n_head": 2, "d_model": 8, "context_length": T}
CASES: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.3},
    "biases, no dropout": {"bias": True},
    "deepnorm, rotary": {"residual": "deepnorm", "positions": "rotary", "dropout": 0.3},
    "layerscale": {"residual": "layerscale", "dropout": 0.3},
}
TOKENS = np.random.default_rng(0).integers(0, V, (B, T))


def model_of(settings: dict[str, Any], dtype: Any = jnp.float32) -> CharModel:
    return build(parse_config({"model": SMALL | settings}).model, V, dtype)


def variables_of(model: CharModel) -> Any:
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape)), shapes)


def loss_and_gradients(model: CharModel, variables: Any, *, scanned: bool, **settings: Any) -> Any:
    def loss(variables: Any) -> Any:
        rngs = {"dropout": jax.random.key(3)}
        logits, _ = model.apply(variables, TOKENS, train=True, rngs=rngs, **settings)
        return jnp.mean(jnp.square(logits))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "compiles_layers_once", lambda n_layer: scanned)
        traced = jax.jit(jax.value_and_grad(loss)).trace(variables)
    text = str(traced.jaxpr)
    assert ("scan[" in text) == scanned
    return traced.lower().compile()(variables)


QUICK = "deepnorm, rotary"


@pytest.mark.parametrize(
    "name",
    [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
@pytest.mark.slow
def test_loss_and_gradients_are_those_of_unrolled_blocks(name: str) -> None:
    """Agree to rounding, so each block has the dropout masks that it had."""
    model = model_of(CASES[name])
    variables = variables_of(model)
    one, other = (loss_and_gradients(model, variables, scanned=how) for how in (False, True))
    np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (one[1], other[1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * float(jnp.max(jnp.abs(a))))


@pytest.mark.slow
def test_in_bfloat16() -> None:
    model = model_of({"dropout": 0.3}, jnp.bfloat16)
    variables = variables_of(model)
    one, other = (loss_and_gradients(model, variables, scanned=how) for how in (False, True))
    np.testing.assert_allclose(one[0], other[0], rtol=1e-2)


def test_only_training_of_every_position_is_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches belong to a block each, and the last block may compute fewer positions."""
    monkeypatch.setattr(transformer, "compiles_layers_once", lambda n_layer: True)
    model = model_of({})
    variables = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    assert {f"block_{i}" for i in range(LAYERS)} < set(variables["params"])

    def text(*cache: Any, **settings: Any) -> str:
        apply = lambda v, *cache: model.apply(v, TOKENS, *cache, **settings)  # noqa: E731
        return str(jax.make_jaxpr(apply)(variables, *cache))

    cache = jax.eval_shape(lambda: model.init_cache(B))
    assert "scan[" in text(train=True)
    assert "scan[" in text(train=True, num_outputs=T)
    for others in (text(train=True, num_outputs=1), text(train=False), text(cache, train=False)):
        assert "scan[" not in others


@pytest.mark.parametrize(
    ("platform", "layers", "expected"),
    [("tpu", 2, True), ("tpu", 1, False), ("cuda", 2, False), ("cpu", 2, False)],
)
def test_a_tpu_has_the_loop(platform: str, layers: int, expected: bool) -> None:
    device = AbstractDevice(f"a {platform}", None, platform)
    mesh: Any = AbstractMesh((1,), ("data",), (AxisType.Auto,), abstract_device=device)
    assert not choice.compiles_layers_once(layers)
    with parallel.target(mesh) if platform != "cpu" else contextlib.nullcontext():
        assert choice.compiles_layers_once(layers) == expected
