"""The transformer: published sizes, its equations, rotary positions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from charjax.config import parse_config
from charjax.models import build
from charjax.ops.rotary import rotary_angles, rotate


def make(vocab_size=65, context_length=8, **settings):
    section = {"kind": "transformer", "context_length": context_length} | settings
    model = build(parse_config({"model": section}).model, vocab_size, jnp.float32)
    return model, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


def test_parameters_of_nanogpts_character_model():
    """Expect nanoGPT's printed 10.65M: no biases, tied, positions not counted."""
    _, variables = make(context_length=256, n_layer=6, n_head=6, d_model=384)
    shapes = variables["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    positions = shapes["position_embedding"]["embedding"].size
    assert (count - positions) == 65 * 384 + 6 * (12 * 384**2 + 2 * 384) + 384
    assert round((count - positions) / 1e6, 2) == 10.65
    assert {path[-1].key for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]} == {
        "embedding",
        "kernel",
        "scale",
    }


@functools.partial(jax.jit, static_argnames="model")
def evaluate(model, variables, tokens, cache):
    return model.apply(variables, tokens, cache)


@pytest.mark.parametrize(
    ("residual", "shape"), [("rezero", ()), ("layerscale", (8,)), ("fixup", ())]
)
def test_residual_gains_are_scalars_but_vectors_of_layerscale(residual, shape):
    _, variables = make(n_layer=1, n_head=2, d_model=8, residual=residual)
    block = variables["params"]["block_0"]
    assert [block[f"residual_gain_{i}"].shape for i in (1, 2)] == [shape, shape]


@pytest.mark.parametrize(
    ("residual", "bias", "tied", "activation"),
    [
        ("pre_norm", False, True, "gelu"),
        ("deepnorm", True, False, "gelu_tanh"),
        ("layerscale", True, True, "gelu"),
        ("rezero", False, True, "gelu"),
        ("fixup", False, True, "gelu"),
        *(
            pytest.param(*form, marks=pytest.mark.slow)
            for form in (
                ("pre_norm", True, False, "gelu_tanh"),
                ("plain", False, False, "gelu_tanh"),
            )
        ),
    ],
)
def test_equations(residual, bias, tied, activation):
    H, D, T = 2, 8, 6
    model, shapes = make(
        vocab_size=11,
        n_layer=2,
        n_head=H,
        d_model=D,
        bias=bias,
        tie_embeddings=tied,
        residual=residual,
        activation=activation,
    )
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes)
    tokens = rng.integers(0, 11, T)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])

    def norm(x, p):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p["scale"] + p.get("bias", 0.0)

    def linear(x, p):
        return x @ p["kernel"] + p.get("bias", 0.0)

    def attention(x, p):
        q, k, v = np.split(linear(x, p["qkv"]), 3, axis=-1)
        heads = []
        for h in range(H):
            s = slice(h * D // H, (h + 1) * D // H)
            scores = q[:, s] @ k[:, s].T / np.sqrt(D / H)
            weights = np.exp(scores) * np.tri(T)
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, s])
        return linear(np.concatenate(heads, axis=-1), p["out"])

    def shift(p, name):
        return p.get(name, {"bias": 0.0})["bias"]

    def mlp(x, p):
        h = linear(x, p["up"]) + shift(p, "shift_up")
        if activation == "gelu":
            part = (1 + erf(h / np.sqrt(2))) / 2
        else:
            part = (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))) / 2
        return linear(h * part + shift(p, "shift_down"), p["down"])

    x = p["token_embedding"]["embedding"][tokens] + p["position_embedding"]["embedding"][:T]
    sublayers = ((attention, "attention"), (mlp, "mlp"))
    for block in (p["block_0"], p["block_1"]):
        for i, (sublayer, name) in enumerate(sublayers, start=1):
            if residual == "deepnorm":
                x = norm(4**0.25 * x + sublayer(x, block[name]), block[f"norm_{i}"])
            elif residual in ("pre_norm", "layerscale"):
                y = sublayer(norm(x, block[f"norm_{i}"]), block[name])
                x = x + block.get(f"residual_gain_{i}", 1.0) * y
            else:
                y = sublayer(x + shift(block, f"shift_{i}"), block[name])
                x = x + block.get(f"residual_gain_{i}", 1.0) * y
    x = x + shift(p, "final_shift")
    if residual in ("pre_norm", "layerscale"):
        x = norm(x, p["final_norm"])
    expected = x @ p["token_embedding"]["embedding"].T if tied else linear(x, p["readout"])
    logits, _ = jax.jit(model.apply)(variables, tokens[None])
    np.testing.assert_allclose(logits[0], expected, rtol=1e-5, atol=2e-5)
    cache, outputs = model.init_cache(1), []
    for token in tokens:
        last, cache = evaluate(model, variables, token.reshape(1, 1), cache)
        outputs.append(last[0, 0])
    np.testing.assert_allclose(np.stack(outputs), expected, rtol=1e-5, atol=5e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=8), jnp.float32) for _ in range(2))

    def score(at_q, at_k):
        turned = [
            rotate(x.reshape(1, 1, 1, 8), rotary_angles(jnp.array([at]), 8))
            for x, at in ((q, at_q), (k, at_k))
        ]
        return float(jnp.sum(turned[0] * turned[1]))

    assert score(3, 1) == pytest.approx(score(103, 101), abs=1e-4)
    assert score(0, 0) == pytest.approx(float(q @ k), abs=1e-5)
    assert abs(score(3, 1) - score(4, 1)) > 1e-2


def test_rotary_has_no_table_of_positions():
    _, variables = make(positions="rotary", d_model=16)
    assert "position_embedding" not in variables["params"]


def test_the_cache_is_as_long_as_the_context():
    model, _ = make(context_length=8, n_layer=3, n_head=4, d_model=16)
    cache = model.init_cache(2)
    assert len(cache.layers) == 3
    assert cache.layers[0].keys.shape == (2, 4, 8, 4)
    assert int(cache.length) == 0
