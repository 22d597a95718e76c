"""u-muP against a forward pass with the unit-scaled operations of its authors' code.

Letters: T time, D width, H heads, K width of a head.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from charjax import models
from charjax.config import parse_config
from charjax.training.state import create_state, variables_of

V, T = 17, 16


@functools.cache
def made(n_layer=3, n_head=2, d_model=32, **settings):
    section = {"kind": "transformer", "context_length": T, "tie_embeddings": False, "bias": True}
    section |= {"n_layer": n_layer, "n_head": n_head, "d_model": d_model, **settings}
    config = parse_config({"model": section, "init": {"scheme": "umup"}})
    model = models.build(config.model, V, jnp.float32)
    return model, create_state(model, config, jax.random.key(0))


def between(share, lower, upper):
    """Interpolate in the logarithm."""
    return math.exp(share * math.log(upper) + (1 - share) * math.log(lower))


def unit_scaled(p, tokens, *, n_layer, n_head, activation, seen=None):
    """Compute the logits (T, V) of unscaled weights, each operation followed by its scale."""
    D = p["token_embedding"]["embedding"].shape[1]
    K = D // n_head

    def linear(x, p, power=0.5):
        return (x @ p["kernel"] + p.get("bias", 0.0)) / len(p["kernel"]) ** power

    def norm(x, p):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-9) * p["scale"] + p["bias"]

    def attention(x, p):
        heads = []
        q, k, v = np.split(linear(x, p["qkv"]), 3, axis=-1)
        for h in range(n_head):
            s = slice(h * K, (h + 1) * K)
            weights = np.exp(q[:, s] @ k[:, s].T / K) * np.tri(T)
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, s])
        scale = 1 / between(1 / (1 + 4 * K), math.sqrt(math.log(T) / T), 1.0)
        return linear(np.concatenate(heads, axis=-1) * scale, p["out"])

    def mlp(x, p):
        h = linear(x, p["up"])
        if activation == "gelu":
            scale = between(0.8, 2.0, math.sqrt(2 / (1 - 1 / math.pi)))
            return linear(h * (1 + erf(h / math.sqrt(2))) / 2 * scale, p["down"])
        gate = linear(x, p["gate"])
        return linear(gate / (1 + np.exp(-gate)) * h * between(0.5, 2.0, math.sqrt(2)), p["down"])

    def join(x, y, index):
        """Add a branch: tau is to give all the same part of the stream at the end."""
        tau = 1 / math.sqrt(n_layer + index)
        return (tau * y + x) / math.sqrt(1 + tau**2)

    x = p["token_embedding"]["embedding"][tokens] + p["position_embedding"]["embedding"]
    x /= math.sqrt(2)
    sizes = [x]
    for i in range(n_layer):
        block = p[f"block_{i}"]
        for j, (sublayer, name) in enumerate(((attention, "attention"), (mlp, "mlp"))):
            y = sublayer(norm(x, block[f"norm_{j + 1}"]), block[name])
            x = join(x, y, 2 * i + j)
            sizes += [y, x]
    if seen is not None:
        seen += [float(np.sqrt(np.mean(np.square(each)))) for each in sizes]
    return linear(norm(x, p["final_norm"]), p["readout"], power=1.0)


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.quick("gelu")
@pytest.mark.slow
def test_the_function_is_that_of_unit_scaled_operations(activation):
    model, state = made(activation=activation, norm_epsilon=1e-9)
    rng = np.random.default_rng(0)
    # Also where biases are not 0 and gains not 1.
    moved = {
        path: leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32) * (leaf.ndim == 1)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    }
    params = jax.tree.unflatten(jax.tree.structure(state.params), moved.values())
    tokens = rng.integers(0, V, T)
    logits, _ = model.apply(variables_of(state._replace(params=params)), tokens[None])
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected = unit_scaled(p, tokens, n_layer=3, n_head=2, activation=activation)
    np.testing.assert_allclose(logits[0], expected, rtol=1e-3, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("width", [32, 256])
def test_activations_have_size_one_at_every_width_and_depth(width):
    seen: list[float] = []
    for n_layer in (1, 8):
        _, state = made(n_layer=n_layer, n_head=width // 16, d_model=width)
        p = jax.tree.map(np.asarray, state.params)
        tokens = np.random.default_rng(1).integers(0, V, T)
        settings = {"n_layer": n_layer, "n_head": width // 16, "activation": "gelu"}
        unit_scaled(p, tokens, **settings, seen=seen)
    assert len(seen) == 2 + 4 + 32
    assert min(seen) > 0.5
    assert max(seen) < 2.5


def test_learning_rates():
    """n^(-1/2), L^(-1/2) in blocks; a table's by its width; the readout's and last norm's 1."""
    _, state = made(n_layer=4, n_head=2, d_model=16)
    rates = state.scales.learning_rates
    block = rates["block_3"]
    assert block["attention"]["qkv"]["kernel"] == 1 / 8
    assert block["attention"]["out"]["kernel"] == block["mlp"]["up"]["kernel"] == 1 / 8
    assert block["mlp"]["down"]["kernel"] == 1 / 16
    assert block["mlp"]["down"]["bias"] == block["norm_1"]["scale"] == 1 / 2
    assert rates["token_embedding"]["embedding"] == rates["position_embedding"]["embedding"] == 0.25
    assert rates["readout"]["kernel"] == rates["final_norm"]["scale"] == 1


def test_multipliers_of_tables_depend_on_their_number():
    for positions, expected in (("learned", 2**-0.5), ("rotary", 1.0)):
        _, state = made(positions=positions)
        found = state.scales.multipliers["token_embedding"]["embedding"]
        assert found == np.float32(expected)
        assert state.scales.multipliers["readout"]["kernel"] == 1 / 32
