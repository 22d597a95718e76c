"""The feed-forward network: published sizes, its window, and batch normalisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.config import parse_config
from charjax.models import build


def make(vocab_size=27, **settings):
    section = {"kind": "mlp", "context_length": 3} | settings
    model = build(
        parse_config({"model": section, "data": {"layout": "pairs"}}).model, vocab_size, jnp.float32
    )
    variables = jax.jit(model.init)(
        jax.random.key(0), jnp.zeros((1, model.lookback + 1), jnp.int32)
    )
    return model, variables


@pytest.mark.parametrize(("norm", "count"), [("none", 11_897), ("batch", 12_097)])
def test_parameters_of_the_lectures(norm, count):
    _, variables = make(norm=norm)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


def test_equations():
    model, variables = make(d_embed=4, hidden=(6, 5))
    p = jax.tree.map(np.asarray, variables["params"])
    tokens = np.array([[3, 1, 4, 1, 5]])
    logits, _ = jax.jit(model.apply)(variables, tokens)
    padded = np.concatenate([[0, 0], tokens[0]])
    for t in range(5):
        h = p["token_embedding"]["embedding"][padded[t : t + 3]].reshape(-1)
        for name in ("hidden_0", "hidden_1"):
            h = np.tanh(h @ p[name]["kernel"] + p[name]["bias"])
        expected = h @ p["readout"]["kernel"] + p["readout"]["bias"]
        np.testing.assert_allclose(logits[0, t], expected, atol=1e-5)


def test_batch_norm_learns_the_statistics_it_evaluates_with():
    model, variables = make(norm="batch", hidden=(16,))
    tokens = np.random.default_rng(0).integers(0, 27, (256, 3))

    def output(state, train):
        return jax.jit(
            lambda state: model.apply(
                {"params": variables["params"], "batch_stats": state},
                tokens,
                num_outputs=1,
                train=train,
                mutable=["batch_stats"] if train else False,
            )
        )(state)

    state = variables["batch_stats"]
    fresh, _ = output(state, False)
    (trained, _), updated = output(state, True)
    assert not np.allclose(fresh, trained, atol=1e-2)
    params = variables["params"]
    x = (
        params["token_embedding"]["embedding"][tokens].reshape(256, -1)
        @ params["hidden_0"]["kernel"]
    )
    np.testing.assert_allclose(
        updated["batch_stats"]["norm_0"]["mean"], 0.01 * x.mean(0), atol=1e-6
    )
    np.testing.assert_allclose(
        updated["batch_stats"]["norm_0"]["var"], 0.99 + 0.01 * x.var(0), atol=1e-5
    )
    exact = {"norm_0": {"mean": x.mean(0), "var": x.var(0)}}
    np.testing.assert_allclose(output(exact, False)[0], trained, atol=1e-4)


def test_batch_norm_is_over_batch_and_positions():
    model, variables = make(norm="batch", hidden=(16,))
    tokens = np.random.default_rng(1).integers(0, 27, (4, 10))
    pairs = np.stack([tokens[b, t : t + 3] for b in range(4) for t in range(8)])

    @functools.partial(jax.jit, static_argnames="count")
    def run(tokens, count):
        return model.apply(
            variables, tokens, num_outputs=count, train=True, mutable=["batch_stats"]
        )

    (windows, _), after_windows = run(tokens, 8)
    (single, _), after_pairs = run(pairs, 1)
    np.testing.assert_allclose(windows.reshape(32, -1), single[:, 0], atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after_windows, after_pairs
    )


def test_only_the_context_asked_for_is_embedded():
    """Compute no position without a target with num_outputs=1."""
    model, variables = make()
    tokens = jnp.zeros((32, 3), jnp.int32)
    jaxpr = str(jax.make_jaxpr(lambda x: model.apply(variables, x, num_outputs=1))(tokens))
    assert "f32[32,1,200]" in jaxpr
    assert "f32[32,3,200]" not in jaxpr
