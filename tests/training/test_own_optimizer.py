"""Optimisers of the user's own: a direction, tried before the first step."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from charjax.config import OptimConfig, load_config
from charjax.errors import UserError
from charjax.extensions import separate_names
from charjax.training.optimizer import make_optimizer
from charjax.training.own_optimizer import check_direction

SHAPES = {
    "kernel": jax.ShapeDtypeStruct((6, 5), jnp.float32),
    "bias": jax.ShapeDtypeStruct((5,), jnp.float32),
}


@pytest.fixture(autouse=True)
def _names():
    with separate_names():
        yield


def optim(folder: Path, returned: str, *words: str) -> OptimConfig:
    """Return the section [optim] of an optimiser that returns an expression of `optim`."""
    path = folder / "mine.py"
    head = "import jax\nimport jax.numpy as jnp\nimport optax\n"
    path.write_text(f"{head}def make(optim):\n    return {returned}\n")
    return load_config(None, [f"optim.kind={path}:make", *words]).optim


def steps(config: OptimConfig, count: int = 3, **factors) -> dict:
    """Return parameters after some steps on fixed gradients."""
    rng = np.random.default_rng(0)

    def draw() -> dict:
        return {k: jnp.asarray(rng.normal(size=s.shape), jnp.float32) for k, s in SHAPES.items()}

    optimizer, params = make_optimizer(config), draw()
    state = optimizer.init(params)
    for _ in range(count):
        updates, state = optimizer.update(
            draw(),
            state,
            params,
            learning_rate=jnp.float32(config.learning_rate),
            scale=jnp.float32(0.5),
            finite=jnp.bool_(True),
            **factors,
        )
        params = optax.apply_updates(params, updates)
    return params


def close(actual: dict, expected: dict) -> None:
    for name in SHAPES:
        np.testing.assert_allclose(actual[name], expected[name], rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("optax.identity()", ["optim.kind=sgd"]),
        ("optax.trace(optim.momentum)", ["optim.kind=sgd", "optim.momentum=0.7"]),
        ("optax.scale_by_adam(optim.beta1, optim.beta2, optim.eps)", ["optim.kind=adamw"]),
    ],
)
def test_it_equals_charjaxs_of_the_same_direction(
    returned: str, words: list[str], tmp_path: Path
) -> None:
    """With the scheme's factors, the decay and minus the rate, all of them charjax's."""
    common = ["optim.learning_rate=0.3", "optim.weight_decay=0.1", *words[1:]]
    factors = {"rate_factors": {"kernel": jnp.float32(0.25), "bias": jnp.float32(2.0)}}
    mine = steps(optim(tmp_path, returned, *common), **factors)
    known = load_config(None, [*words[:1], *common]).optim
    close(mine, steps(known, **factors))


@pytest.mark.parametrize(
    "returned",
    [
        "optax.identity()",
        "optax.trace(0.9)",
        "optax.ema(0.9)",
        "optax.ema(0.9, debias=False)",
        "optax.scale_by_adam()",
        "optax.scale_by_lion()",
        "optax.scale_by_rms()",
        "optax.scale_by_rss()",
        "optax.scale_by_radam()",
        "optax.scale_by_yogi()",
        "optax.scale_by_adan()",
        "optax.scale_by_belief()",
        "optax.scale_by_factored_rms()",
        "optax.scale_by_sign()",
        "optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio())",
        "optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1))",
    ],
)
@pytest.mark.quick(
    "optax.identity()",
    "*ema(0.9)",
    "*_adam()",
    "*_sign()",
    "*factored_rms()",
    "*decayed_weights(0.1))",
)
def test_directions_of_optax_pass(returned: str, tmp_path: Path) -> None:
    check_direction(optim(tmp_path, returned), SHAPES)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("optax.sgd(1.0)", "it comes with a sign of its own, as optax.adam"),
        ("optax.adamw(1e-3)", "it comes with a sign of its own"),
        ("optax.chain(optax.scale_by_lion(), optax.scale(1e-2))", "a learning rate of its own"),
        ("optax.set_to_zero()", "gives a direction of 0"),
        ("optax.scale(float('nan'))", "that is not finite"),
        ("optax.scale_by_adam", "returns a function; it must return a transformation"),
        ("None", "returns a NoneType; it must return a transformation"),
        (
            "optax.stateless(lambda g, p: jax.tree.map(lambda x: x.astype(jnp.bfloat16), g))",
            r"bfloat16\[5\] for float32\[5\] at \['bias'\]",
        ),
        (
            "optax.stateless(lambda g, p: jax.tree.map(lambda x: x[None], g))",
            r"float32\[1, 5\] for float32\[5\]",
        ),
        (
            "optax.GradientTransformation(lambda p: 0, lambda g, s, p=None: (g, (s, s)))",
            "returns a state unlike the one of its init: another structure, of 2 arrays for 1",
        ),
        (
            "optax.GradientTransformation(lambda p: jnp.zeros(2), lambda g, s, p=None: (g, s[:1]))",
            r"a state unlike the one of its init: float32\[1\] for float32\[2\]",
        ),
    ],
)
def test_what_is_no_direction_is_refused(returned: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        check_direction(optim(tmp_path, returned), SHAPES)


def test_a_setting_may_be_read_in_the_update(tmp_path: Path) -> None:
    late = "optax.stateless(lambda g, p: jax.tree.map(lambda x: x / optim.eps, g))"
    check_direction(optim(tmp_path, late, "optim.eps=0.1"), SHAPES)


def test_a_setting_that_it_does_not_read_is_refused(tmp_path: Path) -> None:
    config = optim(tmp_path, "optax.identity()", "optim.momentum=0.5")
    with pytest.raises(UserError, match=r"optim\.momentum: 0\.5 given; .* does not read it"):
        check_direction(config, SHAPES)
