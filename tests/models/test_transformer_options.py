"""The options of today's transformers: equations, sizes, operations and memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from charjax.config import parse_config
from charjax.errors import UserError
from charjax.models.attention import mlp_width
from charjax.performance import activations, flops
from tests.models.test_transformer import evaluate, make

FORMS = {
    "gated": {
        "n_head": 4,
        "n_kv_head": 2,
        "norm": "rmsnorm",
        "qk_norm": True,
        "activation": "swiglu",
        "window": 3,
        "attn_softcap": 1.5,
        "final_softcap": 2.0,
        "bias": True,
    },
    "geglu": {"n_head": 2, "activation": "geglu", "tie_embeddings": False},
    "relu2": {"n_head": 2, "activation": "relu2", "qk_norm": True, "bias": True, "window": 20},
    "llama": {
        "n_head": 2,
        "norm": "rmsnorm",
        "activation": "swiglu",
        "positions": "rotary",
        "rotary_base": 50.0,
        "d_ff": 20,
        "norm_epsilon": 1e-2,
    },
    "narrow": {
        "n_head": 2,
        "norm_epsilon": 1e-2,
        "qk_norm": True,
        "d_ff": 5,
        "residual": "deepnorm",
    },
    "inverse": {"n_head": 4, "n_kv_head": 2, "attention_scale": "inverse"},
    "one-kv-head": {"n_head": 4, "n_kv_head": 1, "norm": "rmsnorm", "residual": "deepnorm"},
}
D, T, V, LAYERS = 16, 6, 11, 2


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in ("gated", "inverse", "llama") else [pytest.mark.slow])
        for n in FORMS
    ],
)
def test_equations(name):
    options = FORMS[name]
    model, shapes = make(vocab_size=V, n_layer=LAYERS, d_model=D, **options)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes)
    tokens = rng.integers(0, V, T)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    expected = plain(p, tokens, **options)
    logits, _ = jax.jit(model.apply)(variables, tokens[None])
    np.testing.assert_allclose(logits[0], expected, rtol=1e-5, atol=2e-5)
    cache, outputs = model.init_cache(1), []
    for token in tokens:
        last, cache = evaluate(model, variables, token.reshape(1, 1), cache)
        outputs.append(last[0, 0])
    np.testing.assert_allclose(np.stack(outputs), expected, rtol=1e-5, atol=5e-5)


def plain(
    p,
    tokens,
    *,
    n_head,
    n_kv_head=None,
    norm="layernorm",
    qk_norm=False,
    activation="gelu",
    window=None,
    attn_softcap=0.0,
    final_softcap=0.0,
    bias=False,
    tie_embeddings=True,
    residual="pre_norm",
    positions="learned",
    rotary_base=10000.0,
    d_ff=None,
    norm_epsilon=1e-5,
    attention_scale="inverse_sqrt",
):
    """Compute the logits (T, V), one head after the other."""
    J, K = n_kv_head or n_head, D // n_head

    def normed(x, p):
        x = x - x.mean(-1, keepdims=True) if norm == "layernorm" else x
        x = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + norm_epsilon)
        return x * p["scale"] + p.get("bias", 0.0)

    def linear(x, p):
        return x @ p["kernel"] + p.get("bias", 0.0)

    def turned(x):
        """Multiply the pairs, as complex numbers, by exp(i position base^(-2 pair / K))."""
        pairs = x[:, : K // 2] + 1j * x[:, K // 2 :]
        rates = rotary_base ** (-2 * np.arange(K // 2) / K)
        pairs = pairs * np.exp(1j * np.arange(len(x))[:, None] * rates)
        return np.concatenate([pairs.real, pairs.imag], axis=-1)

    def attention(x, p):
        if n_kv_head:
            q, (k, v) = linear(x, p["query"]), np.split(linear(x, p["key_value"]), 2, axis=-1)
        else:
            q, k, v = np.split(linear(x, p["qkv"]), 3, axis=-1)
        heads = []
        for h in range(n_head):
            j = h // (n_head // J)
            q_h, k_h, v_h = (y[:, i * K : (i + 1) * K] for y, i in ((q, h), (k, j), (v, j)))
            if qk_norm:
                q_h, k_h = normed(q_h, p["query_norm"]), normed(k_h, p["key_norm"])
            if positions == "rotary":
                q_h, k_h = turned(q_h), turned(k_h)
            scores = q_h @ k_h.T / (K if attention_scale == "inverse" else math.sqrt(K))
            if attn_softcap:
                scores = attn_softcap * np.tanh(scores / attn_softcap)
            is_seen = np.tri(len(x)) - np.tri(len(x), k=-(window or len(x)))
            weights = np.exp(scores) * is_seen
            heads.append(weights / weights.sum(-1, keepdims=True) @ v_h)
        return linear(np.concatenate(heads, axis=-1), p["out"])

    def gelu(x):
        return x * (1 + erf(x / np.sqrt(2))) / 2

    def mlp(x, p):
        h = linear(x, p["up"])
        assert d_ff in (None, h.shape[-1])
        if activation == "swiglu":
            gate = linear(x, p["gate"])
            h = gate / (1 + np.exp(-gate)) * h
        elif activation == "geglu":
            h = gelu(linear(x, p["gate"])) * h
        else:
            h = gelu(h) if activation == "gelu" else np.maximum(h, 0) ** 2
        return linear(h, p["down"])

    x = p["token_embedding"]["embedding"][tokens]
    if positions == "learned":
        x = x + p["position_embedding"]["embedding"][: len(tokens)]
    for i in range(LAYERS):
        block = p[f"block_{i}"]
        for j, (sublayer, part) in enumerate(((attention, "attention"), (mlp, "mlp")), start=1):
            if residual == "deepnorm":
                alpha = (2 * LAYERS) ** 0.25
                x = normed(alpha * x + sublayer(x, block[part]), block[f"norm_{j}"])
            else:
                x = x + sublayer(normed(x, block[f"norm_{j}"]), block[part])
    if residual != "deepnorm":
        x = normed(x, p["final_norm"])
    logits = x @ p["token_embedding"]["embedding"].T if tie_embeddings else linear(x, p["readout"])
    return final_softcap * np.tanh(logits / final_softcap) if final_softcap else logits


def test_a_window_sees_as_far_as_its_blocks_reach():
    """Through L blocks a position depends on the L (window - 1) before it, and on no other."""
    model, shapes = make(context_length=12, n_layer=2, n_head=2, d_model=8, window=3)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    tokens = rng.integers(0, 65, (1, 12))
    run = jax.jit(model.apply)
    logits, _ = run(variables, tokens)
    for changed, differs in ((6, False), (7, True)):
        other = tokens.copy()
        other[:, changed] = (other[:, changed] + 1) % 65
        again, _ = run(variables, other)
        assert np.array_equal(again[:, 11], logits[:, 11]) != differs


def test_no_logit_leaves_the_cap():
    model, shapes = make(n_layer=1, n_head=2, d_model=8, final_softcap=3.0, context_length=4)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.normal(0, 9, s.shape).astype(np.float32), shapes)
    logits, _ = jax.jit(model.apply)(variables, np.zeros((1, 4), np.int32))
    assert np.abs(logits).max() <= 3.0
    assert np.abs(logits).max() > 2.9


def test_a_gated_mlp_has_as_many_weights():
    """Three kernels of F = 8 D / 3 to the nearest whole number, for two of 4 D."""
    for width in (1, 2, 3, 7, 8, 64, 100, 128, 384, 768, 1600):
        F = mlp_width(width, "swiglu")
        assert abs(F - 8 * width / 3) <= 1 / 3 + 1e-9
        assert abs(3 * width * F - 8 * width**2) <= width
    sizes = {}
    for activation in ("gelu", "relu2", "swiglu", "geglu"):
        _, shapes = make(n_layer=2, n_head=4, d_model=128, activation=activation)
        sizes[activation] = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert sizes["relu2"] == sizes["gelu"]
    assert sizes["swiglu"] == sizes["geglu"] == pytest.approx(sizes["gelu"], rel=1e-3)


def test_shared_heads_have_smaller_kernels_and_caches():
    model, shapes = make(context_length=8, n_layer=2, n_head=4, d_model=16, n_kv_head=2)
    attention = shapes["params"]["block_0"]["attention"]
    assert attention["query"]["kernel"].shape == (16, 16)
    assert attention["key_value"]["kernel"].shape == (16, 16)
    assert model.init_cache(3).layers[0].keys.shape == (3, 2, 8, 4)
    same, whole = make(n_head=4, d_model=16, n_kv_head=4)
    assert "qkv" in whole["params"]["block_0"]["attention"]
    assert same.is_plain


def test_rms_norm_has_no_bias():
    _, shapes = make(n_layer=1, n_head=2, d_model=8, norm="rmsnorm", qk_norm=True, bias=True)
    block = shapes["params"]["block_0"]
    assert set(block["norm_1"]) == {"scale"}
    assert set(shapes["params"]["final_norm"]) == {"scale"}
    assert {k: s.shape for k, s in block["attention"]["query_norm"].items()} == {"scale": (4,)}
    assert set(block["mlp"]["up"]) == {"kernel", "bias"}


def section(**options):
    tree = {"kind": "transformer", "context_length": 32, "n_layer": 3, "n_head": 4, "d_model": 24}
    return parse_config({"model": tree | options}).model


@pytest.mark.parametrize(
    ("options", "block", "attention"),
    [
        ({}, 12 * 24**2, 32),
        ({"norm": "rmsnorm", "qk_norm": True, "activation": "relu2"}, 12 * 24**2, 32),
        ({"attn_softcap": 5.0, "final_softcap": 5.0}, 12 * 24**2, 32),
        ({"activation": "swiglu"}, 4 * 24**2 + 3 * 24 * 64, 32),
        ({"d_ff": 40}, 4 * 24**2 + 2 * 24 * 40, 32),
        ({"activation": "geglu", "d_ff": 40, "norm_epsilon": 1e-6}, 4 * 24**2 + 3 * 24 * 40, 32),
        ({"n_kv_head": 2}, 8 * 24**2 + 2 * 24**2 + 24 * 2 * 12, 32),
        ({"n_kv_head": 1, "window": 8}, 8 * 24**2 + 2 * 24**2 + 24 * 2 * 6, 8),
        ({"window": 100}, 12 * 24**2, 32),
    ],
)
def test_operations(options, block, attention):
    """Count products alone, and attention over the keys that a window has."""
    expected = 2 * (3 * block + 24 * 11) + 4 * 3 * attention * 24
    assert flops.forward_flops(section(**options), 11) == expected


def test_operations_are_those_of_the_kernels():
    for name, options in FORMS.items():
        model, shapes = make(vocab_size=V, n_layer=LAYERS, d_model=D, **options)
        leaves = jax.tree_util.tree_flatten_with_path(shapes["params"])[0]
        kernels = sum(
            leaf.size
            for path, leaf in leaves
            if path[-1].key == "kernel" and path[0].key != "readout"
        )
        assert model.matrix_weights == kernels, name


@pytest.mark.parametrize(
    "option", ["norm", "qk_norm", "n_kv_head", "window", "attn_softcap", "d_ff", "attention_scale"]
)
def test_fitted_formulas_of_memory_are_for_plain_models(option):
    values = {"norm": "rmsnorm", "qk_norm": True, "n_kv_head": 2, "window": 8, "attn_softcap": 5.0}
    values |= {"d_ff": 65, "attention_scale": "inverse"}
    model, _ = make(n_layer=2, n_head=4, d_model=16, **{option: values[option]})
    plain_model, _ = make(n_layer=2, n_head=4, d_model=16)
    assert not model.is_plain
    assert plain_model.is_plain
    assert activations.formula("transformer", "cuda", "float32") is not None
    assert model.saved_values(8) >= plain_model.saved_values(8)


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, 24 * 16),
        ({"norm": "rmsnorm", "n_kv_head": 1, "window": 3}, 24 * 16),
        ({"qk_norm": True}, 30 * 16),
        ({"d_ff": 20}, 16 * 16 + 2 * 20),
        ({"activation": "swiglu"}, 16 * 16 + 4 * 43),
        ({"attn_softcap": 5.0}, 24 * 16 + 2 * 4 * 8),
        ({"remat": "attention"}, 24 * 16),
        ({"remat": "attention", "attn_softcap": 5.0}, 24 * 16 + 4 * 8),
        ({"remat": "block"}, 5 * 16 + 1.05 * 24 * 16 / 2),
        ({"scan_layers": "true"}, 10 * 16 + 1.45 * 24 * 16 / 2),
        ({"scan_layers": "true", "remat": "block"}, 16 + 1.5 * 24 * 16 / 2),
    ],
)
def test_numbers_saved_per_position(options, numbers):
    model, _ = make(n_layer=2, **({"n_head": 4, "d_model": 16} | options))
    assert model.saved_values(8) == int(2 * 8 * numbers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_kv_head": 3}, r"^model.n_kv_head: 3 given; model.n_head \(4\) must be a multiple"),
        ({"n_kv_head": 0}, "^model.n_kv_head: 0 given"),
        ({"window": 0}, "^model.window: 0 given"),
        ({"attn_softcap": -1.0}, "^model.attn_softcap: -1.0 given"),
        ({"final_softcap": math.inf}, "^model.final_softcap: "),
        ({"d_ff": 0}, "^model.d_ff: 0 given"),
        ({"positions": "rotary", "rotary_base": 0.5}, "^model.rotary_base: 0.5 given"),
        ({"norm_epsilon": 0.0}, "^model.norm_epsilon: 0.0 given"),
        ({"norm": "rms"}, '^model.norm: "rms" given; must be one of layernorm, rmsnorm'),
        ({"attention_scale": "none"}, '^model.attention_scale: "none" given; must be one of inv'),
        (
            {"residual": "fixup", "activation": "swiglu"},
            "^model.activation: swiglu given with model.residual=fixup, which has no form",
        ),
        ({"activation": "silu"}, '^model.activation: "silu" given; must be one of gelu'),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message) as error:
        section(**options)
    assert "\n" not in str(error.value)


def test_another_size_keeps_the_groups_of_heads():
    config = section(n_kv_head=2)
    assert config.resized(3, 48) == {"n_layer": 3, "d_model": 48, "n_head": 8, "n_kv_head": 4}
    assert config.resized(1, 18) == {"n_layer": 1, "d_model": 18, "n_head": 3, "n_kv_head": 1}
    assert "n_kv_head" not in section().resized(1, 48)
    assert section(d_ff=30).resized(1, 48)["d_ff"] == 60


@functools.cache
def losses(scanned):
    """Return the loss and gradients of blocks in a loop or unrolled, with all options."""
    model, shapes = make(vocab_size=V, n_layer=LAYERS, d_model=D, **FORMS["gated"])
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes)
    tokens = rng.integers(0, V, (2, T))

    def loss(params):
        logits, _ = model.apply({"params": params}, tokens, train=True)
        return jnp.sum(jnp.square(logits))

    return jax.jit(jax.value_and_grad(loss))(variables["params"])


@pytest.mark.slow
def test_blocks_in_a_loop_are_those_one_by_one(monkeypatch):
    from charjax.models import transformer

    expected = losses(scanned=False)
    monkeypatch.setattr(transformer, "compiles_layers_once", lambda n_layer: True)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        losses(scanned=True),
        expected,
    )
