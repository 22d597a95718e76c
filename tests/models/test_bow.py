"""The bag of characters is the causal mean of embeddings, and order does not matter."""

import jax
import jax.numpy as jnp
import numpy as np

from charjax.config import parse_config
from charjax.models import build


def test_causal_mean():
    section = {"kind": "bow", "d_embed": 5, "context_length": 9}
    model = build(parse_config({"model": section}).model, 11, jnp.float32)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    params = jax.tree.map(np.asarray, variables["params"])
    tokens = np.random.default_rng(0).integers(0, 11, 9)
    logits, _ = jax.jit(model.apply)(variables, tokens[None])
    for t in range(9):
        mean = params["token_embedding"]["embedding"][tokens[: t + 1]].mean(0)
        expected = mean @ params["readout"]["kernel"] + params["readout"]["bias"]
        np.testing.assert_allclose(logits[0, t], expected, atol=1e-6)
    reversed_logits, _ = jax.jit(model.apply)(variables, tokens[None, ::-1])
    np.testing.assert_allclose(reversed_logits[0, -1], logits[0, -1], atol=1e-6)
