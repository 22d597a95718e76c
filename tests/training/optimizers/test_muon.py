"""Muon: each gate is a matrix of its own, the role decides, and AdamW's part has its own rate."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from charjax.config import parse_config
from charjax.errors import UserError
from charjax.init.site import find_sites
from charjax.models import build
from charjax.training.optimizer import make_optimizer
from charjax.training.optimizers.muon import newton_schulz_flops

FAMILIES: dict[str, dict[str, Any]] = {
    "gru": {"d_embed": 6, "d_hidden": 8},
    "lstm": {"d_embed": 6, "d_hidden": 8, "n_layer": 2},
    "transformer": {"n_layer": 1, "n_head": 2, "d_model": 8, "context_length": 4},
    "mlp": {"context_length": 3, "d_embed": 4, "hidden": (8,)},
}


def model_of(kind: str, **optim: Any):
    section = {"kind": kind, **FAMILIES[kind]}
    layout = {"layout": "pairs"} if kind == "mlp" else {}
    config = parse_config({"model": section, "data": layout, "optim": {"kind": "muon", **optim}})
    model = build(config.model, 11, jnp.float32)
    tokens_BT = jnp.zeros((1, model.lookback + 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    return config, model, shapes


def draws(shapes: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), shapes)


def one_step(config, model, params, grads, **factors: Any):
    optimizer = make_optimizer(config.optim, model.roles)
    updates, _ = optimizer.update(
        grads,
        optimizer.init(params),
        params,
        learning_rate=jnp.float32(config.optim.learning_rate),
        scale=jnp.float32(1.0),
        finite=jnp.bool_(True),
        **factors,
    )
    return updates


def orthogonal(matrix: np.ndarray, consistent_rms: float | None) -> np.ndarray:
    """Orthogonalise by Newton and Schulz as Jordan writes it, and scale by the shape."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    if consistent_rms is not None:
        return x * consistent_rms * np.sqrt(max(matrix.shape))
    return x * np.sqrt(max(1.0, matrix.shape[1] / matrix.shape[0]))


@pytest.mark.parametrize("consistent_rms", [None, 0.2])
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.quick("gru-None", "mlp-0.2")
def test_gates_are_orthogonalised_one_by_one_and_roles_decide(kind, consistent_rms):
    """At the first step the momentum is along the gradient, and AdamW's direction is its sign."""
    rates = {"learning_rate": 0.02, "adam_learning_rate": 0.003}
    config, model, shapes = model_of(kind, consistent_rms=consistent_rms, **rates)
    params, grads = draws(shapes, 0), draws(shapes, 1)
    updates = one_step(config, model, params, grads)
    sites = find_sites(shapes, model.roles, 0)
    seen = set()
    leaves = map(jax.tree.leaves, (updates, grads))
    for site, update, gradient in zip(sites, *leaves, strict=True):
        role = str(site.parameter.role)
        if role in ("hidden", "recurrent", "residual output"):
            gates = np.split(np.asarray(gradient, np.float64), site.parameter.gates, axis=1)
            found = [-0.02 * orthogonal(gate, consistent_rms) for gate in gates]
            expected = np.concatenate(found, axis=1)
        else:
            expected = -0.003 * np.sign(gradient)
        seen.add(role)
        np.testing.assert_allclose(update, expected, rtol=1e-3, atol=2e-6, err_msg=site.path)
    assert {"hidden", "embedding"} <= seen


def test_optax_would_take_all_gates_as_one_matrix():
    """The reason for splitting: with optax's default the two differ."""
    config, model, shapes = model_of("gru", learning_rate=0.02)
    params, grads = draws(shapes, 0), draws(shapes, 1)
    ours = one_step(config, model, params, grads)["cell_0"]["hidden_kernel"]
    plain = optax.contrib.muon(0.02)
    with jax.numpy_dtype_promotion("standard"):
        theirs, _ = plain.update(grads, plain.init(params), params)
    assert float(jnp.abs(ours - theirs["cell_0"]["hidden_kernel"]).max()) > 1e-3
    # Each gate has singular values near 1, the stacked matrix as a whole has not.
    values = np.linalg.svd(np.split(np.asarray(ours) / 0.02, 3, axis=1)[0], compute_uv=False)
    assert values.min() > 0.3
    assert values.max() < 1.6


def test_the_unset_rate_of_adamw_is_muons():
    config, model, shapes = model_of("gru", learning_rate=0.02)
    assert config.optim.adam_learning_rate is None
    updates = one_step(config, model, draws(shapes, 0), draws(shapes, 1))
    size = jnp.abs(updates["token_embedding"]["embedding"])
    np.testing.assert_allclose(size, 0.02, rtol=1e-4)


def test_a_factor_of_epsilon_reaches_adamws_part():
    config, model, shapes = model_of("gru", learning_rate=0.02, eps=1.0)
    params, grads = draws(shapes, 0), draws(shapes, 1)
    factors = jax.tree.map(lambda _: jnp.float32(0.25), shapes)
    updates = one_step(config, model, params, grads, epsilon_factors=factors)
    g = grads["readout"]["kernel"]
    expected = -0.02 * g / (jnp.abs(g) + 0.25)
    np.testing.assert_allclose(updates["readout"]["kernel"], expected, rtol=1e-4)


def test_a_model_without_hidden_matrices_is_refused():
    for model in ({"kind": "bigram"}, {"kind": "mlp", "hidden": ()}):
        layout = {"layout": "pairs"} if model["kind"] == "mlp" else {}
        with pytest.raises(UserError, match=r"^optim.kind: .muon. given; it trains hidden matri"):
            parse_config({"model": model, "data": layout, "optim": {"kind": "muon"}})


def test_the_operations_of_newton_and_schulz():
    _, model, shapes = model_of("gru")
    # Three gates of 6 x 8 and three of 8 x 8, five iterations of XX', AA and BX.
    small, square = 4 * 36 * 8 + 2 * 6**3, 4 * 64 * 8 + 2 * 8**3
    assert newton_schulz_flops(shapes, model.roles) == 5 * 3 * (small + square)
