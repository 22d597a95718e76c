"""The tree of pairs: published sizes, its equations, and the inputs of its batch norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.config import load_config, parse_config
from charjax.errors import UserError
from charjax.models import build


def make(**settings):
    section = {"kind": "wavenet", "context_length": 8} | settings
    config = parse_config({"model": section, "data": {"layout": "pairs"}})
    model = build(config.model, 27, jnp.float32)
    tokens = jnp.zeros((1, model.lookback + 1), jnp.int32)
    return model, jax.jit(model.init)(jax.random.key(0), tokens)


@pytest.mark.parametrize(("d_embed", "d_hidden", "count"), [(10, 68, 22_397), (24, 128, 76_579)])
def test_parameters_of_the_lecture(d_embed, d_hidden, count):
    _, variables = make(d_embed=d_embed, d_hidden=d_hidden, norm="batch")
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


def test_equations():
    """Fuse two by two, as FlattenConsecutive(2) does, separately for each position of the text."""
    model, variables = make(d_embed=4, d_hidden=6)
    p = jax.tree.map(np.asarray, variables["params"])
    tokens = np.random.default_rng(0).integers(0, 27, 11)
    logits, _ = jax.jit(model.apply)(variables, tokens[None])
    padded = np.concatenate([np.zeros(7, int), tokens])
    for t in range(11):
        h = p["token_embedding"]["embedding"][padded[t : t + 8]]
        for level in range(3):
            layer = p[f"level_{level}"]
            h = np.tanh(h.reshape(len(h) // 2, -1) @ layer["kernel"] + layer["bias"])
        expected = h[0] @ p["readout"]["kernel"] + p["readout"]["bias"]
        np.testing.assert_allclose(logits[0, t], expected, atol=1e-5)


def test_batch_norm_sees_the_tree_of_the_one_output_alone():
    model, variables = make(d_embed=4, d_hidden=6, context_length=4, norm="batch")
    tokens = np.random.default_rng(1).integers(0, 27, (64, 4))
    _, updated = model.apply(variables, tokens, num_outputs=1, train=True, mutable=["batch_stats"])
    p = variables["params"]
    pairs = np.asarray(p["token_embedding"]["embedding"])[tokens].reshape(128, 8)
    x = pairs @ np.asarray(p["level_0"]["kernel"])
    stats = updated["batch_stats"]["norm_0"]
    np.testing.assert_allclose(stats["mean"], 0.01 * x.mean(0), atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.99 + 0.01 * x.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("length", [1, 6])
def test_the_context_is_a_power_of_two(length):
    with pytest.raises(UserError, match=r"model\.context_length: .* power of two"):
        load_config(None, ["model.kind=wavenet", f"model.context_length={length}"])
