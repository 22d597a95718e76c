"""Blocks and attention that are computed again in the backward pass, in a loop and one by one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.config import load_config, parse_config, resume_conflicts
from charjax.errors import UserError
from charjax.models import build
from charjax.models.contract import CharModel

V, B, T = 11, 2, 8
SMALL = {"kind": "transformer", "n_layer": 2, "n_head": 2, "d_model": 8, "context_length": T}
TOKENS = np.random.default_rng(0).integers(0, V, (B, T))
REMATS, LOOPS = ("none", "block", "attention"), ("false", "true")


def model_of(**settings: Any) -> CharModel:
    return build(parse_config({"model": SMALL | settings}).model, V, jnp.float32)


def variables_of(model: CharModel) -> Any:
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape)), shapes)


def trained(model: CharModel, variables: Any, **settings: Any) -> Any:
    def loss(variables: Any) -> Any:
        rngs = {"dropout": jax.random.key(3)}
        logits, _ = model.apply(variables, TOKENS, train=True, rngs=rngs, **settings)
        return jnp.mean(jnp.square(logits))

    return jax.jit(jax.value_and_grad(loss))(variables)


def assert_close(one: Any, other: Any) -> None:
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * float(jnp.max(jnp.abs(a))))


@pytest.mark.parametrize("scan_layers", LOOPS)
@pytest.mark.parametrize("remat", REMATS)
@pytest.mark.quick("block-false")
def test_loss_and_gradients_do_not_depend_on_it(remat: str, scan_layers: str) -> None:
    """Agree to rounding, with dropout: what is computed again has the masks that it had."""
    plain, changed = (
        model_of(dropout=0.3, **settings)
        for settings in ({}, {"remat": remat, "scan_layers": scan_layers})
    )
    variables = variables_of(plain)
    assert_close(trained(plain, variables), trained(changed, variables))


@pytest.mark.slow
def test_of_the_last_position_alone() -> None:
    """As a batch of pairs is trained, whose last block computes one position."""
    plain, changed = model_of(dropout=0.3), model_of(dropout=0.3, remat="block")
    variables = variables_of(plain)
    results = [trained(each, variables, num_outputs=1) for each in (plain, changed)]
    assert_close(*results)


def recomputed(model: CharModel) -> int:
    """Count the regions that the backward pass computes again."""
    variables = variables_of(model)

    def loss(variables: Any, train: bool) -> Any:
        return jnp.sum(model.apply(variables, TOKENS, train=train)[0])

    assert "remat" not in str(jax.make_jaxpr(lambda v: loss(v, False))(variables))
    return str(jax.make_jaxpr(lambda v: loss(v, True))(variables)).count("policy=")


def test_only_training_computes_again() -> None:
    assert recomputed(model_of()) == 0
    assert recomputed(model_of(remat="block")) == 2
    assert recomputed(model_of(remat="attention")) >= 1


def test_the_parameters_and_the_digest_are_those_of_the_default() -> None:
    plain, changed = (model_of(), model_of(remat="block", scan_layers="true"))
    one, other = (
        str(jax.make_jaxpr(each.init)(jax.random.key(0), TOKENS)) for each in (plain, changed)
    )
    assert one == other
    named = parse_config({"model": {"remat": "none", "scan_layers": "auto"}})
    assert named.digest() == parse_config({}).digest()
    assert parse_config({"model": {"remat": "block"}}).digest() != named.digest()


def test_a_run_goes_on_with_another_way_of_training() -> None:
    old, new = (
        parse_config({"model": settings})
        for settings in ({}, {"remat": "block", "scan_layers": "true"})
    )
    assert resume_conflicts(old, new) == resume_conflicts(new, old) == []


def test_a_loop_is_written_as_a_word_or_as_a_boolean() -> None:
    for value in ("true", True):
        config = parse_config({"model": {"scan_layers": value}})
        assert config.model.scan_layers == "true"  # type: ignore[union-attr]
    config = load_config(None, ["model.scan_layers=false"])
    assert config.model.scan_layers == "false"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.remat=all"], '^model.remat: "all" given; must be one of none, block, attention'),
        (["model.scan_layers=1"], "^model.scan_layers: .* must be one of auto, true, false"),
        (
            ["model.scan_layers=true", "model.n_layer=1"],
            "^model.scan_layers: .*only two blocks or more can be a loop, and model.n_layer is 1",
        ),
        (["model.kind=gru", "model.remat=block"], "^model.remat: .*transformer has it"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_config(None, words)
    assert "\n" not in str(error.value)
