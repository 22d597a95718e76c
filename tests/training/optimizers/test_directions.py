"""Every optimiser takes the steps of optax's own, on a toy of a matrix, a bias and a gain."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from charjax.config import parse_config
from charjax.config.optimizers import KINDS, REFUSED, kinds_reading
from charjax.errors import UserError
from charjax.models.roles import Parameter, Role, dense
from charjax.training.optimizer import make_optimizer
from charjax.training.optimizers.directions import DIRECTIONS
from charjax.training.optimizers.stages import is_matrix

RATE, DECAY = 0.02, 0.1
SHAPES = {"hidden": {"kernel": (5, 7), "bias": (7,)}, "readout": {"kernel": (7, 4)}, "gain": ()}
ROLES = (
    ("hidden/kernel", dense()),
    ("readout/kernel", dense(Role.READOUT)),
    (r"hidden/bias|gain", Parameter(Role.BIAS)),
)
MASK: dict[str, Any] = {"weight_decay": DECAY, "mask": is_matrix}


def decayed(direction: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return the optimiser of a direction, with decoupled decay of matrices."""
    return optax.chain(
        direction,
        optax.add_decayed_weights(DECAY, mask=is_matrix),
        optax.scale_by_learning_rate(RATE),
    )


def undecayed(make: Any, **settings: Any) -> optax.GradientTransformation:
    """Add decoupled decay to an optimiser of optax's that has none."""
    descent = make(1.0, **settings)
    return decayed(optax.chain(descent, optax.scale(-1.0)))


LARS = {"weight_decay": DECAY, "weight_decay_mask": is_matrix}
# By optax alone, at the defaults of optax but where a test of another kind holds charjax's.
REFERENCES: dict[str, Any] = {
    "adamw": optax.adamw(RATE, **MASK),
    "sgd": undecayed(optax.sgd),
    "rmsprop": undecayed(optax.rmsprop, decay=0.95, eps_in_sqrt=False),
    "adabelief": undecayed(optax.adabelief),
    "adadelta": decayed(optax.scale_by_adadelta(0.9, 1e-6)),
    # Its own decay is not multiplied by the rate.
    "adafactor": optax.adafactor(RATE, weight_decay_rate=RATE * DECAY, weight_decay_mask=is_matrix),
    "adagrad": undecayed(optax.adagrad),
    "adamax": optax.adamaxw(RATE, **MASK),
    "adan": optax.adan(RATE, **MASK),
    "ademamix": optax.contrib.ademamix(RATE, **MASK),
    "adopt": undecayed(optax.contrib.adopt),
    "amsgrad": undecayed(optax.amsgrad),
    "fromage": optax.chain(
        optax.fromage(RATE), optax.add_decayed_weights(-RATE * DECAY, mask=is_matrix)
    ),
    "lamb": optax.lamb(RATE, **MASK),
    "lars": optax.lars(RATE, **LARS),
    "lion": optax.lion(RATE, **MASK),
    "muon": optax.contrib.muon(
        RATE,
        weight_decay=DECAY,
        weight_decay_mask=is_matrix,
        # Not AdamW, but NAdamW: only Muon's parameters are compared.
        adam_weight_decay=DECAY,
        muon_weight_dimension_numbers={
            "hidden": {"kernel": optax.contrib.MuonDimensionNumbers(), "bias": None},
            "readout": {"kernel": None},
            "gain": None,
        },
    ),
    "nadamw": optax.nadamw(RATE, **MASK),
    "novograd": undecayed(optax.novograd),
    "radam": undecayed(optax.radam),
    "schedule_free_adamw": optax.contrib.schedule_free_adamw(RATE, weight_decay=DECAY),
    "signum": undecayed(optax.signum),
    "sm3": undecayed(optax.sm3),
    "yogi": undecayed(optax.yogi),
}


def draw(rng: np.random.Generator) -> Any:
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def test_every_optimiser_is_compared():
    assert set(REFERENCES) == set(KINDS)
    assert set(KINDS) == {"adamw", "sgd", "rmsprop", "muon", "schedule_free_adamw"} | set(
        DIRECTIONS
    )
    assert not set(KINDS) & set(REFUSED)


@pytest.mark.parametrize("kind", KINDS)
# Those whose lines in the table differ most.
@pytest.mark.quick("adamw", "adafactor", "lamb", "muon", "schedule_free_adamw", "signum", "sgd")
def test_twenty_steps_are_optaxs(kind: str):
    section: dict[str, Any] = {"kind": kind, "weight_decay": DECAY}
    # optax decays vectors, too.
    alone = kind == "schedule_free_adamw"
    config = parse_config({"optim": section})
    optimizer, plain = make_optimizer(config.optim, ROLES), REFERENCES[kind]
    rng = np.random.default_rng(0)
    ours = params = draw(rng)
    if kind == "sm3":
        # It fails on scalars.
        params = jax.tree.map(jnp.atleast_1d, params)
    state, plain_state = optimizer.init(ours), plain.init(params)
    step = jax.jit(
        lambda grads, state, params, finite: optimizer.update(
            grads,
            state,
            params,
            learning_rate=jnp.float32(RATE),
            scale=jnp.float32(0.5),
            finite=finite,
        )
    )
    for number in range(20):
        grads, finite = draw(rng), number != 7
        updates, state = step(grads, state, ours, jnp.bool_(finite))
        if not finite:
            continue
        ours = optax.apply_updates(ours, updates)
        with jax.numpy_dtype_promotion("standard"):
            half = jax.tree.map(lambda g, p: 0.5 * g.reshape(p.shape), grads, params)
            updates, plain_state = plain.update(half, plain_state, params)
        params = optax.apply_updates(params, updates)
    for (path, mine), theirs in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(params), strict=True
    ):
        name = "/".join(part.key for part in path)
        if name == "hidden/kernel" if kind == "muon" else mine.ndim > 1 or not alone:
            np.testing.assert_allclose(
                mine,
                theirs.reshape(mine.shape),
                rtol=2e-4,
                atol=2e-6,
                err_msg=name,
            )


@pytest.mark.parametrize("kind", REFUSED)
def test_other_optimisers_are_refused_with_the_reason(kind: str):
    with pytest.raises(UserError) as refused:
        parse_config({"optim": {"kind": kind}})
    assert str(refused.value) == f'optim.kind: "{kind}" given; {REFUSED[kind]}'


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "lionn"}, "did you mean lion?"),
        (
            {"kind": "schedule_free_adamw", "beta1": 0.0},
            "optim.beta1: 0.0 given; schedule_free_adamw divides by it: give more than 0, or "
            'optim.kind = "adamw"',
        ),
        ({"ema": 1.0}, "optim.ema: 1.0 given; must be a number of at least 0 and less than 1"),
        ({"kind": 7}, "optim.kind: 7 given; must be one of adamw, sgd, rmsprop"),
    ],
)
def test_mistakes_in_the_section(section: dict[str, Any], message: str):
    with pytest.raises(UserError) as refused:
        parse_config({"optim": section})
    assert message in str(refused.value)


def test_unset_settings_are_the_optimisers_own():
    assert parse_config({"optim": {"kind": "lion"}}).optim.beta2 == 0.99
    assert parse_config({"optim": {"kind": "lion", "beta2": 0.9}}).optim.beta2 == 0.9
    assert parse_config({}).optim.beta2 == 0.999
    # What it does not read keeps the section's default.
    assert parse_config({"optim": {"kind": "lion"}}).optim.momentum == 0.0
    assert kinds_reading("alpha") == ("ademamix",)
