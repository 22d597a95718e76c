"""Learning-rate factors of muP and the spectral condition, for each optimiser."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import models
from charjax.config import load_config, parse_config
from charjax.initlab.probes.coordinates import check_coordinates
from charjax.models.contract import CharModel
from charjax.training.optimizer import make_optimizer
from charjax.training.state import create_state, variables_of
from charjax.training.step import make_train_step
from tests.training.test_step import VOCAB, make_batch

BASE, R = 16, 4
FAMILIES: dict[str, Any] = {
    "gru": lambda width: {"d_embed": 8, "d_hidden": width},
    "transformer": lambda width: {
        **{"n_layer": 1, "n_head": width // 8, "d_model": width},
        **{"tie_embeddings": False, "bias": True},
    },
}


def state_of(family: str, width: int, scheme: str, seed: int = 0, **optim: Any):
    section = {"kind": family, "context_length": 6, **FAMILIES[family](width)}
    init = {"scheme": scheme, "base_width": BASE}
    config = parse_config({"model": section, "optim": {"grad_clip": 0.0, **optim}, "init": init})
    model: CharModel = models.build(config.model, VOCAB, jnp.float32)
    return config, model, create_state(model, config, jax.random.key(seed))


def rates(family: str, scheme: str, **optim: Any) -> dict[str, float]:
    *_, state = state_of(family, R * BASE, scheme, **optim)
    leaves = jax.tree_util.tree_leaves_with_path(state.scales.learning_rates)
    return {"/".join(part.key for part in path): float(leaf) for path, leaf in leaves}


HIDDEN = "block_0/mlp/up/kernel"


@pytest.mark.parametrize(
    ("scheme", "optim", "expected"),
    [
        ("mup", {}, {HIDDEN: 1 / R, "norm": 1, "table": 1, "readout": 1}),
        ("mup", {"kind": "sgd"}, {HIDDEN: 1, "norm": R, "table": R, "readout": R}),
        ("mup", {"kind": "muon"}, {HIDDEN: 1, "norm": 1, "table": 1, "readout": 1}),
        ("spectral", {}, {HIDDEN: 1 / R, "norm": 1, "table": 1, "readout": 1 / R}),
        ("spectral", {"kind": "sgd"}, {HIDDEN: 1, "norm": R, "table": R, "readout": 1 / R}),
        (
            "spectral",
            {"kind": "muon", "consistent_rms": 0.2},
            {HIDDEN: 1 / math.sqrt(R), "norm": 1, "table": 1, "readout": 1 / R},
        ),
    ],
)
def test_factors_of_a_transformer(scheme: str, optim: dict[str, Any], expected: dict[str, float]):
    found = rates("transformer", scheme, **optim)
    names = {"norm": "block_0/norm_1/scale", "table": "token_embedding/embedding"}
    names |= {"readout": "readout/kernel"}
    for name, value in expected.items():
        assert found[names.get(name, name)] == pytest.approx(value), name
    others = (
        "block_0/attention/qkv/kernel",
        "block_0/mlp/down/kernel",
        "block_0/attention/out/kernel",
    )
    assert [found[name] for name in others] == pytest.approx([expected[HIDDEN]] * 3)


@pytest.mark.parametrize("scheme", ["mup", "spectral"])
def test_a_kernel_of_fixed_inputs_is_a_vector_for_sgd(scheme: str):
    found = rates("gru", scheme, kind="sgd")
    # The table's width does not grow, nor do the readout's biases.
    assert found["cell_0/input_kernel"] == found["cell_0/input_bias"] == R
    assert found["cell_0/hidden_kernel"] == 1
    assert found["token_embedding/embedding"] == found["readout/bias"] == 1


def test_muons_factor_makes_up_for_the_form_of_a_matrix():
    """Give a step of a kernel with fixed inputs n the norm sqrt(m / n), relative to the base."""
    wide = rates("gru", "spectral", kind="muon")["cell_0/input_kernel"]
    # 8 inputs, 16 and 64 outputs: a step's own norm is sqrt(m / n) already.
    assert wide == pytest.approx(1)
    rms = rates("gru", "spectral", kind="muon", consistent_rms=0.2)
    # Its norm is sqrt(m), and should be.
    assert rms["cell_0/input_kernel"] == pytest.approx(1)
    assert rms["cell_0/hidden_kernel"] == pytest.approx(1 / math.sqrt(R))


def test_epsilon_of_mup_falls_with_the_width_and_the_decay_stays():
    *_, state = state_of("transformer", R * BASE, "mup")
    assert set(map(float, jax.tree.leaves(state.adam_scales.epsilons))) == {1 / R}
    assert set(map(float, jax.tree.leaves(state.adam_scales.decays))) == {1.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "optim",
    [
        {"learning_rate": 3e-3},
        {"kind": "sgd", "learning_rate": 0.1},
        {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9},
        {"kind": "muon", "learning_rate": 0.02, "adam_learning_rate": 3e-3},
        {
            **{"kind": "muon", "learning_rate": 0.05, "adam_learning_rate": 3e-3},
            "consistent_rms": 0.2,
        },
    ],
    ids=lambda optim: "-".join(map(str, optim.values())),
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_moves_the_outputs_as_far_at_every_width(family: str, optim: dict[str, Any]):
    """Under muP five steps move the logits by as much at 16 times the width; by default not."""

    def moved(width: int, scheme: str) -> float:
        sizes = []
        for seed in range(3):
            config, model, state = state_of(family, width, scheme, seed, **optim)
            batch, train_step = make_batch(model, 8, seed), jax.jit(make_train_step(model, config))
            before, _ = model.apply(variables_of(state), batch.inputs)
            for _ in range(5):
                state, _ = train_step(state, batch, jax.random.key(0))
            after, _ = model.apply(variables_of(state), batch.inputs)
            sizes.append(float(jnp.sqrt(jnp.mean((after - before) ** 2))))
        return float(np.mean(sizes))

    ratio = moved(16 * BASE, "mup") / moved(BASE, "mup")
    assert 0.6 < ratio < 1.7


@pytest.mark.quick("transformer-block_0/mlp/up/kernel-*")
@pytest.mark.parametrize("rms", [None, 0.2])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("transformer", HIDDEN),
        ("transformer", "block_0/mlp/down/kernel"),
        ("gru", "cell_0/input_kernel"),
    ],
)
def test_muons_step_meets_the_spectral_condition(family: str, name: str, rms: float | None):
    """Its spectral norm over sqrt(outputs / inputs) is the same at 4 times the width.

    That is derived from Yang, Simon and Bernstein 2023 (arXiv:2310.17813). Five iterations leave
    the singular values within a third of 1.
    """

    def relative_norm(width: int) -> float:
        config, model, state = state_of(family, width, "mup", kind="muon", consistent_rms=rms)
        path, key = name, jax.random.key(1)
        params = {path: dict(leaves(state.params))[path]}
        gradients = {path: jax.random.normal(key, params[path].shape)}
        optimiser = make_optimizer(config.optim, model.roles)
        one = jnp.float32(1.0)
        factors = {path: dict(leaves(state.scales.learning_rates))[path]}
        step, _ = optimiser.update(
            gradients,
            optimiser.init(params),
            params,
            learning_rate=one,
            scale=one,
            finite=jnp.bool_(True),
            rate_factors=factors,
        )
        inputs, outputs = step[path].shape
        gates = 3 if family == "gru" else 1
        one_gate = np.asarray(step[path])[:, : outputs // gates]
        return float(np.linalg.norm(one_gate, 2) / math.sqrt(outputs / gates / inputs))

    assert relative_norm(R * BASE) == pytest.approx(relative_norm(BASE), rel=0.35)


def leaves(tree: Any) -> list[tuple[str, Any]]:
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [("/".join(part.key for part in path), leaf) for path, leaf in found]


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.parametrize(
    "words",
    [
        ("optim.kind=sgd", "optim.learning_rate=0.5", "optim.grad_clip=0"),
        ("optim.kind=muon", "optim.learning_rate=0.01"),
    ],
    ids=["sgd", "muon"],
)
def test_changes_of_activations_do_not_depend_on_the_width(words: tuple[str, ...]):
    config = load_config(
        None,
        [
            *("data.name=stdlib", "model.kind=transformer", "model.n_layer=1", "model.n_head=1"),
            *("model.d_model=16", "model.tie_embeddings=false", "model.context_length=16"),
            *("train.batch_size=8", "init.scheme=mup", "init.base_width=32", *words),
        ],
    )
    found = check_coordinates(config, (32, 64, 128), tuple(range(12)), 5)
    assert found["verdict"] != "failed"
    for layer in found["layers"]:
        assert abs(layer["change"]["slope"]) < 0.15, layer["layer"]
