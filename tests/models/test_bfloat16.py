"""Gradients in bfloat16: only products are; what is summed over batch and time is in float32.

bfloat16 has 8 bits: 256 + 1 is 256. A sum of many of its numbers has to be in a wider dtype.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from charjax.config import Config, parse_config
from charjax.models import CharModel, build, layers
from charjax.ops import choice
from charjax.ops.linear import matmul, matmul_reference
from charjax.training.state import apply_multipliers, create_state
from charjax.training.step import cross_entropy
from tests.models.rounding import equations, with_rounded_products

V, T, TARGETS = 65, 64, 16_384

_GPT = {"kind": "transformer", "bias": True}
_MLP = {"kind": "mlp", "context_length": 8}
_WAVENET = {"kind": "wavenet", "context_length": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "bigram": {"kind": "bigram"},
    "bow": {"kind": "bow"},
    "mlp": _MLP,
    "mlp, blank": _MLP | {"blank": True},
    "mlp, batch norm": _MLP | {"norm": "batch"},
    "wavenet": _WAVENET,
    "wavenet, batch norm": _WAVENET | {"norm": "batch"},
    "rnn": {"kind": "rnn"},
    "rnn, relu": {"kind": "rnn", "activation": "relu"},
    "gru": {"kind": "gru", "n_layer": 2},
    "lstm": {"kind": "lstm"},
    "transformer": _GPT,
    "transformer, untied": _GPT | {"tie_embeddings": False},
    "transformer, rotary": _GPT | {"positions": "rotary"},
    **{
        f"transformer, {residual}": _GPT | {"residual": residual}
        for residual in ("deepnorm", "rezero", "layerscale", "plain", "fixup")
    },
}
SMALL = {
    "mlp": {"d_embed": 4, "hidden": (16,)},
    "transformer": {"n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 16},
}


def make_config(name: str, **settings: Any) -> Config:
    model = {"context_length": T} | FAMILIES[name] | settings
    return parse_config({"model": model, "data": {"layout": "pairs", "split": "shuffled_lines"}})


def draw_tokens(rows: int, length: int, seed: int) -> np.ndarray:
    """Draw symbols with frequencies about as unequal as a text's."""
    weights = 1 / (2 + np.arange(V))
    rng = np.random.default_rng(seed)
    return rng.choice(V, (rows, length), p=weights / weights.sum()).astype(np.int32)


def sum_of_losses(model: CharModel, variables: Any, tokens: Array, outputs: int) -> Array:
    others = [name for name in variables if name != "params"]
    (logits_BTV, _), _ = model.apply(
        variables, tokens[:, :-1], num_outputs=outputs, train=True, mutable=others
    )
    return jnp.sum(cross_entropy(logits_BTV, tokens[:, -outputs:]))


def gradient_of(config: Config, dtype: Any, outputs: int) -> Any:
    model = build(config.model, V, dtype)

    def gradient(params: Any, model_state: Any, tokens: Array) -> Any:
        loss = lambda p: sum_of_losses(model, {"params": p, **model_state}, tokens, outputs)  # noqa: E731
        return jax.grad(loss)(params)

    return gradient


def distances(config: Config, outputs: int, seeds: int) -> dict[str, np.ndarray]:
    """||g - g32|| / ||g32|| of every parameter: (seeds, 2), of bfloat16 and of the reference."""
    float32 = gradient_of(config, jnp.float32, outputs)
    programs = [
        jax.jit(gradient)
        for gradient in (
            float32,
            gradient_of(config, jnp.bfloat16, outputs),
            with_rounded_products(float32),
        )
    ]
    model = build(config.model, V, jnp.float32)
    relative: dict[str, list[list[float]]] = {}
    for seed in range(seeds):
        state = create_state(model, config, jax.random.key(seed))
        tokens = draw_tokens(TARGETS // outputs, model.lookback + outputs + 1, seed)
        params = apply_multipliers(state.params, state.scales)
        exact, *others = (program(params, state.model_state, tokens) for program in programs)
        for path, leaf in jax.tree_util.tree_leaves_with_path(exact):
            name = "/".join(key.key for key in path)
            reference, *rest = (
                without_keys(name, functools.reduce(lambda t, k: t[k.key], path, tree))
                for tree in (exact, *others)
            )
            assert leaf.dtype == jnp.float32
            relative.setdefault(name, []).append(
                [
                    float(np.linalg.norm(other - reference) / np.linalg.norm(reference))
                    for other in rest
                ]
            )
    return {name: np.array(rows) for name, rows in relative.items()}


def without_keys(name: str, gradient: Array) -> np.ndarray:
    """Return a gradient in float64 without the bias of keys, whose exact gradient is zero."""
    wide = np.asarray(gradient, np.float64)
    return np.delete(wide.reshape(3, -1), 1, 0) if name.endswith("qkv/bias") else wide


def assert_near_float32(config: Config, outputs: int, seeds: int, least: float = 0.02) -> None:
    """Check that distances are at most 1.5 times the reference's, or `least`."""
    for name, rows in distances(config, outputs, seeds).items():
        allowed = np.maximum(least, 1.5 * rows[:, 1])
        assert (rows[:, 0] <= allowed).all(), f"{name}: {rows[:, 0]}, allowed {allowed}"


@pytest.mark.slow
def test_a_small_model_is_near_float32():
    assert_near_float32(make_config("mlp", **SMALL["mlp"]), outputs=1, seeds=1, least=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.longest
def test_every_parameter_is_near_float32(name: str):
    """Use the families' default sizes and initialisations."""
    assert_near_float32(make_config(name), outputs=T, seeds=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "mlp, blank", "mlp, batch norm", "wavenet"])
def test_pairs_are_near_float32(name: str):
    """Use one target per context."""
    assert_near_float32(make_config(name), outputs=1, seeds=3)


@pytest.mark.parametrize(
    ("name", "on_cpu"),
    [*((name, True) for name in FAMILIES), ("transformer", False), ("lstm", False)],
    ids=lambda value: {True: "cpu", False: "gpu"}.get(value, value),
)
def test_no_sum_is_in_bfloat16(name: str, on_cpu: bool, monkeypatch: pytest.MonkeyPatch):
    """Check the program, so every width and number of targets; also the one for a GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu" if on_cpu else "gpu")
    monkeypatch.setattr(choice, "_has_flash_attention", lambda: False)
    small = SMALL.get(FAMILIES[name]["kind"], {}) | {"context_length": 128}
    if FAMILIES[name]["kind"] in ("mlp", "wavenet"):
        small["context_length"] = 8
    config = make_config(name, **small)
    gradient = gradient_of(config, jnp.bfloat16, 128)
    model = build(config.model, V, jnp.float32)
    state = jax.eval_shape(lambda: create_state(model, config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((4, model.lookback + 129), jnp.int32)
    program = jax.make_jaxpr(gradient)(state.params, state.model_state, tokens)
    sums = [
        equation
        for equation in equations(program.jaxpr)
        if equation.primitive.name in ("reduce_sum", "scatter-add", "cumsum", "reduce_window_sum")
    ]
    assert sums
    for equation in sums:
        assert equation.outvars[0].aval.dtype == jnp.float32, equation


def test_equal_gradients_of_a_row_add_up():
    table = layers.Embedding(3, 2)
    tokens = jnp.ones((1, 4096), jnp.int32)

    def loss(embedding: Array) -> Array:
        rows = table.apply({"params": {"embedding": embedding}}, tokens).astype(jnp.bfloat16)
        return jnp.sum(rows.astype(jnp.float32))

    np.testing.assert_array_equal(jax.grad(loss)(jnp.zeros((3, 2)))[1], 4096)


@pytest.mark.parametrize("product", [matmul, matmul_reference])
def test_equal_gradients_of_a_bias_add_up(product):
    """Sum exactly, while `nn.Dense` stops at 8192: XLA adds bfloat16 in parts."""
    linear = layers.Linear(2, True, jnp.bfloat16, product)

    def loss(bias: Array, x: Array, slope: Array) -> Array:
        y = linear.apply({"params": {"kernel": jnp.ones((3, 2)), "bias": bias}}, x)
        assert y.dtype == jnp.bfloat16
        return jnp.sum(slope * y.astype(jnp.float32))

    x, slope = jnp.ones((1, 65536, 3), jnp.bfloat16), jnp.ones((1, 65536, 2))
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(jnp.zeros(2), x, slope), 65536)
