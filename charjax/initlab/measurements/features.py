"""Measurements of each layer's values: their change from the start, units, rank, attention.

Letters: B batch, T targets, P positions, D width, L layers, H heads, N vectors.
"""

import math

import jax.numpy as jnp
from jax import Array

from charjax.initlab.activations.layers import (
    counted_places,
    find_layers,
    layer_values,
    measure_layers,
)
from charjax.initlab.measurements.moment import Moment
from charjax.initlab.probes.attention import attention_entropy as entropy_of_heads
from charjax.initlab.probes.attention import attention_inputs
from charjax.training.state import TrainState, variables_of

# Vectors for the effective rank.
RANK_VECTORS = 256


def feature_change(moment: Moment) -> dict[str, Array]:
    """Return |h - h0| / |h0| of each layer's output h on the first batch, h0 of step 0 (Frobenius).

    Returns:
      feature_change: (L,).
    """
    starts, now = (_values(moment, state) for state in (moment.initial, moment.state))
    weights_BT = moment.first.weights
    pairs = [
        (_masked(h0, weights_BT), _masked(h, weights_BT)) for h0, h in zip(starts, now, strict=True)
    ]
    changes = [jnp.linalg.norm(h - h0) / jnp.linalg.norm(h0) for h0, h in pairs]
    return {"feature_change": jnp.stack(changes)}


def units(moment: Moment) -> dict[str, Array]:
    """Return the saturated part of each layer's values and the dead part of its units.

    On the next batch, as `LayerStats` defines them.

    Returns:
      saturated and dead: (L,) each.
    """
    batch = moment.batch
    _, stats, _ = measure_layers(
        moment.trained_model,
        variables_of(moment.state),
        batch.inputs,
        batch.targets,
        batch.weights,
        train=True,
    )
    return {"saturated": stats.saturated, "dead": stats.dead}


def effective_rank(moment: Moment) -> dict[str, Array]:
    """Return exp of the entropy of each layer's singular values (Roy and Vetterli 2007).

    Of up to 256 vectors of the first batch. Rows of padding are 0 and change no singular value.

    Returns:
      effective_rank: (L,).
    """
    weights_BT = moment.first.weights
    ranks = []
    for h_BPD in _values(moment, moment.state):
        P, D = h_BPD.shape[1:]
        h_ND = _masked(h_BPD, weights_BT)[: math.ceil(RANK_VECTORS / P)].reshape(-1, D)
        values = jnp.linalg.svd(h_ND[:RANK_VECTORS], compute_uv=False)
        shares = values / jnp.sum(values)
        entropy = -jnp.sum(shares * jnp.log(jnp.where(shares > 0, shares, 1.0)))
        ranks.append(jnp.exp(entropy))
    return {"effective_rank": jnp.stack(ranks)}


def attention_entropy(moment: Moment) -> dict[str, Array]:
    """Return the entropy of each head's weights in nats, mean over positions of the next batch.

    Returns:
      attention_entropy: (L H,), block by block.
    """
    batch, variables = moment.batch, variables_of(moment.state)
    _, values = layer_values(
        moment.model, variables, batch.inputs, batch.targets.shape[1], train=True
    )
    outputs = [value.value for value in values]
    found = attention_inputs(find_layers(moment.model), outputs, variables["params"])
    heads = [
        entropy_of_heads(moment.model, qkv_BTE, batch.weights, params) for qkv_BTE, params in found
    ]
    return {"attention_entropy": jnp.concatenate(heads)}


def _values(moment: Moment, state: TrainState) -> list[Array]:
    """Return each layer's output on the first batch, (B, P, D)."""
    first = moment.first
    _, values = layer_values(
        moment.model, variables_of(state), first.inputs, first.targets.shape[1], train=True
    )
    return [value.value for value in values]


def _masked(h_BPD: Array, weights_BT: Array) -> Array:
    counted_BP = counted_places(weights_BT, *h_BPD.shape[:2])
    return jnp.where(counted_BP[..., None], h_BPD, 0.0)
