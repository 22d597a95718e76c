"""Dropout at nanoGPT's places and rate, with the rest scaled up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from charjax.config import parse_config
from charjax.models import attention as attention_module
from charjax.models import build, transformer
from charjax.models.layers import Dropout
from charjax.ops.attention import causal_attention, causal_attention_reference

RATE, V, T, LAYERS = 0.2, 11, 16, 2


def drops(x, y) -> None:
    """Check that a fifth is zero (within five standard deviations), the rest scaled by 1 / 0.8."""
    x, y = np.asarray(x), np.asarray(y)
    zero = y[x != 0.0] == 0.0
    assert abs(zero.mean() - RATE) < 5 * np.sqrt(RATE * (1 - RATE) / zero.size)
    np.testing.assert_allclose(y[y != 0.0], x[y != 0.0] / (1 - RATE), rtol=1e-5)


def dropouts(section: dict[str, object]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the inputs and outputs of every Dropout of a model in training mode."""
    model = build(parse_config({"model": section}).model, V, jnp.float32)
    tokens_BT = np.random.default_rng(0).integers(0, V, (16, T))
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)
    rng = np.random.default_rng(1)
    draw = lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), leaf.dtype)  # noqa: E731
    variables = jax.tree.map(draw, shapes)

    @jax.jit
    def apply():
        places = []

        def look(next_method, args, kwargs, context):
            out = next_method(*args, **kwargs)
            if isinstance(context.module, Dropout):
                places.append((args[0], out))
            return out

        with nn.intercept_methods(look):
            model.apply(variables, tokens_BT, train=True, rngs={"dropout": jax.random.key(1)})
        return places

    return [(np.asarray(x), np.asarray(y)) for x, y in apply()]


def test_in_the_transformer(monkeypatch):
    """nanoGPT: on the embeddings, and in each block on attention's weights and both outputs."""
    section = {"kind": "transformer", "n_layer": LAYERS, "n_head": 2, "d_model": 16}
    rates = []

    def attention(*args, dropout_rate, **others):
        rates.append(dropout_rate)
        return causal_attention(*args, dropout_rate=dropout_rate, **others)

    monkeypatch.setattr(attention_module, "causal_attention", attention)
    # What is traced for all blocks at once cannot be looked at block by block.
    monkeypatch.setattr(transformer, "_JittedBlock", transformer.Block)
    places = dropouts(section | {"dropout": RATE, "context_length": T})
    assert len(places) == 1 + 2 * LAYERS
    for x, y in places:
        drops(x, y)
    masks = [y == 0.0 for _, y in places]
    assert all((a != b).any() for i, a in enumerate(masks) for b in masks[:i])
    # Once for the shapes of the parameters, without dropout, and once in training.
    assert rates == [0.0] * LAYERS + [RATE] * LAYERS


def test_blocks_that_are_traced_once_drop_each_their_own():
    """Let every block add 1 at undropped units, and nothing else reach the logits."""
    section = {"kind": "transformer", "n_layer": LAYERS, "n_head": 1, "d_model": V, "bias": True}
    section |= {"residual": "plain", "tie_embeddings": False, "dropout": RATE, "context_length": T}
    model = build(parse_config({"model": section}).model, V, jnp.float32)
    tokens_BT = np.random.default_rng(0).integers(0, V, (16, T))
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    params["readout"]["kernel"] = jnp.eye(V)
    for i in range(LAYERS):
        params[f"block_{i}"]["mlp"]["down"]["bias"] = jnp.ones(V)
    rngs = {"dropout": jax.random.key(1)}
    logits_BTV, _ = jax.jit(lambda p: model.apply({"params": p}, tokens_BT, train=True, rngs=rngs))(
        params
    )
    passed = np.round(np.asarray(logits_BTV) * (1 - RATE)).astype(int)
    frequencies = np.bincount(passed.ravel(), minlength=LAYERS + 1) / passed.size
    np.testing.assert_allclose(frequencies, [0.04, 0.32, 0.64], atol=0.05)


@pytest.mark.parametrize("attend", [causal_attention, causal_attention_reference])
def test_on_attentions_weights(attend):
    """Use unit vectors as values, so that attention returns its weights."""
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(32, T, 2, T)), jnp.float32) for _ in range(2))
    v = jnp.broadcast_to(jnp.eye(T)[None, :, None], q.shape)
    attend = jax.jit(attend, static_argnames="dropout_rate")
    drops(attend(q, k, v), attend(q, k, v, dropout_rate=RATE, dropout_key=jax.random.key(2)))


def test_on_the_output_of_each_recurrent_layer():
    """Include the last layer's output; torch.nn.GRU has dropout between layers only."""
    section = {"kind": "gru", "n_layer": LAYERS, "d_embed": 8, "d_hidden": 64, "dropout": RATE}
    places = dropouts(section)
    assert len(places) == LAYERS
    for x, y in places:
        drops(x, y)
