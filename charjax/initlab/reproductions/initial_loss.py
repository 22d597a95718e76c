"""Number 1: the loss before the first step, with 27 symbols (Building makemore Part 3).

Letters: B rows, T targets of a row, V symbols, R networks.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from charjax import theory
from charjax.config import load_config
from charjax.initlab.reproductions.nets import measure_nets
from charjax.reproduction.checks import Check, Poll, Progress, Tier, mean_of, near, part_of
from charjax.training.session import open_session, seed_state
from charjax.training.state import variables_of
from charjax.training.step import cross_entropy

_V = 27
_GROUPS, _ROWS = 64, 65_536
_SEEDS, _CONTEXTS = 3072, 256


def run(tier: Tier, progress: Progress, poll: Poll) -> list[Check]:
    """Measure the three losses; both tiers alike."""
    total = _GROUPS + 2 * _SEEDS
    embedded, hidden = 30, 200
    variants = (
        ("names-mlp-naive", 26.4, None, 1.0, (embedded, 1.0, hidden, 1.0)),
        ("names-mlp-kaiming", 3.30, 0.005, None, ((5 / 3) ** 2, 1e-4, hidden * 1e-4, 0.0)),
    )
    checks = [gaussian_logits(_GROUPS, _ROWS, part_of(progress, 0, total), poll)]
    for place, (config, expected, within, percent, variances) in enumerate(variants):
        part = part_of(progress, _GROUPS + place * _SEEDS, total)
        losses = mean_of(initial_losses(config, _SEEDS, _CONTEXTS, part, poll))
        checks.append(
            near(
                f"{config}: loss at step 0",
                losses,
                expected,
                within=within,
                percent=percent,
                of=f"the mean of {_SEEDS:,} seeds on {_CONTEXTS} contexts each",
                theory=_theory(*variances),
            )
        )
    return checks


def gaussian_logits(groups: int, rows: int, progress: Progress, poll: Poll) -> Check:
    """Return the check of independent N(0, 1) logits: groups of rows of 27 logits."""

    def one(key: Array) -> Array:
        logits_B1V = jax.random.normal(key, (rows, 1, _V))
        return jnp.mean(cross_entropy(logits_B1V, jnp.zeros((rows, 1), jnp.int32)))

    return near(
        "N(0, 1) logits: loss",
        mean_of(measure_nets(one, 1, groups, progress, poll)),
        3.766,
        within=0.01,
        of=f"the mean of {groups} x {rows:,} draws of {_V} logits",
        theory=theory.initial_loss(1.0, _V),
    )


def initial_losses(
    config: str, seeds: int, contexts: int, progress: Progress, poll: Poll
) -> NDArray[np.float64]:
    """Return losses (R,) at step 0 of a shipped configuration, each on a training batch."""
    session = open_session(load_config(config, [f"train.batch_size={contexts}"]))
    source, model = jax.device_get(session.source), session.model

    def one(key: Array) -> Array:
        init_key, batch_key = jax.random.split(key)
        seed_source = dataclasses.replace(source, key=batch_key)
        batch = seed_source.draw(jnp.int32(0))
        variables = variables_of(seed_state(session, init_key, seed_source))
        logits_BTV, _ = model.apply(variables, batch.inputs, num_outputs=1)
        losses_BT = cross_entropy(logits_BTV, batch.targets)
        return jnp.sum(losses_BT * batch.weights) / jnp.sum(batch.weights)

    losses_R: NDArray[np.float64] = measure_nets(one, 10, seeds, progress, poll)
    return losses_R


def _theory(weights: float, biases: float, readout: float, readout_bias: float) -> float:
    """Return the loss of a wide network with one hidden layer of tanh, from its variances."""
    layer = theory.propagate(1, theory.find_activation("tanh"), weights, biases)
    variance = readout * float(layer.second_moment_D[0]) + readout_bias
    return theory.initial_loss(math.sqrt(variance), _V)
