"""A network at its first step, measured over several seeds.

Seed k draws the parameters of a run with train.seed + k. The batches are always those of the
config's seed, so that seeds differ in the parameters alone.

Letters: B batch, S inputs, T targets, P positions, D width, L layers, H heads, N vectors.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from charjax.data.batches import Batch
from charjax.init import scheme_for
from charjax.initlab.activations.layers import (
    LayerStats,
    ParameterStats,
    counted_places,
    find_layers,
    inspect_layers,
    layer_values,
)
from charjax.initlab.predictions import (
    Prediction,
    WeightMoments,
    predict_layers,
    predict_loss,
    weight_moments,
)
from charjax.initlab.probes.attention import (
    EntropyTheory,
    attention_entropy,
    attention_inputs,
    predict_entropy,
)
from charjax.initlab.probes.depth import (
    effective_rank,
    input_correlation,
    predict_correlation,
    token_cosine,
)
from charjax.initlab.probes.hessian import Extremes, hessian_extremes
from charjax.initlab.probes.jacobian import (
    Spectrum,
    SpectrumTheory,
    embedding_jacobian,
    predict_spectrum,
    spectrum,
)
from charjax.models.contract import CharModel
from charjax.random_streams import purpose_key
from charjax.training.session import Session, first_source, seed_state
from charjax.training.state import TrainState, variables_of
from charjax.training.step import cross_entropy

# The initial loss is a mean over at least this many targets.
LOSS_TARGETS = 4096
_MOST_BATCHES = 64
# Vectors for the effective rank.
RANK_VECTORS = 256
# Jacobians per seed.
JACOBIANS = 2


class LayerProbe(NamedTuple):
    """Measurements of one forward and backward pass.

    Attributes:
      loss: the batch's mean loss.
      stats: see LayerStats.
      kernels: see ParameterStats.
      moments: see WeightMoments.
      correlation_L: see depth.input_correlation.
      cosine_L: see depth.token_cosine.
      entropy_LH: for a transformer by block, see attention.attention_entropy; else None.
      vectors: each layer's output in the first rows, (rows, P, D).
    """

    loss: Array
    stats: LayerStats
    kernels: ParameterStats
    moments: WeightMoments
    correlation_L: Array
    cosine_L: Array
    entropy_LH: Array | None
    vectors: tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class SeedProbe:
    """The measurements of one seed's network.

    Attributes:
      seed: train.seed of the run that starts from this network.
      loss: initial loss, in nats per target.
      predicted_loss: by theory; NaN where no theory applies.
      layers: measurements by layer, on the host.
      prediction: theory of the layers.
      predicted_correlation_L: see depth.predict_correlation.
      rank_L: effective rank of each layer's output.
      spectra: of the Jacobians of some contexts; empty for a family without a hidden layer.
      predicted_spectrum: their theory.
      entropy: for a transformer, see attention.predict_entropy; else None.
      hessian: see Extremes.
    """

    seed: int
    loss: float
    predicted_loss: float
    layers: LayerProbe
    prediction: Prediction
    predicted_correlation_L: NDArray[np.float64]
    rank_L: NDArray[np.float64]
    spectra: tuple[Spectrum, ...]
    predicted_spectrum: SpectrumTheory
    entropy: EntropyTheory | None
    hessian: Extremes


def probe_seeds(
    session: Session, seeds: int, report_progress: Callable[[str], None] = lambda stage: None
) -> list[SeedProbe]:
    """Probe one network per seed.

    Args:
      session: of a family that is trained by gradients.
      seeds: number of seeds.
      report_progress: called with the name of the next stage.
    """
    draw = jax.jit(lambda source, step: source.draw(step))
    source = first_source(session)
    batches = [draw(source, jnp.int32(0))]
    targets = max(1.0, float(jnp.sum(batches[0].weights)))
    count = min(_MOST_BATCHES, math.ceil(LOSS_TARGETS / targets))
    batches += [draw(first_source(session, step), jnp.int32(step)) for step in range(1, count)]
    first = session.config.train.seed
    draw_state = jax.jit(lambda key: seed_state(session, key, source))
    found = []
    for seed in range(first, first + seeds):
        report_progress(f"seed {seed}")
        found.append(_probe(session, seed, draw_state(purpose_key(seed, "init")), batches))
    return found


def _probe(session: Session, seed: int, state: TrainState, batches: list[Batch]) -> SeedProbe:
    model, batch = session.model, batches[0]
    variables = variables_of(state)
    layers = jax.device_get(_probe_layers(model, variables, batch))
    times = batch.targets.shape[1]
    squares_L = np.square(np.float64(layers.stats.mean)) + np.square(np.float64(layers.stats.std))
    prediction = predict_layers(model, layers.moments, squares_L, times)
    sums = [_loss_sums(model, variables, one) for one in batches]
    losses, repeats, weights = (float(sum(column)) for column in zip(*sums, strict=True))
    scheme = scheme_for(session.config)
    jacobians = _jacobians(model, variables, batch)
    return SeedProbe(
        seed=seed,
        loss=losses / weights,
        predicted_loss=predict_loss(
            model, scheme, layers.moments, prediction, squares_L, repeats / weights
        ),
        layers=layers,
        prediction=prediction,
        predicted_correlation_L=predict_correlation(
            model, layers.moments, prediction, layers.correlation_L
        ),
        rank_L=np.array([_rank(h_BPD, batch.weights) for h_BPD in layers.vectors]),
        spectra=tuple(map(spectrum, jacobians)),
        predicted_spectrum=predict_spectrum(
            model, layers.moments, prediction, jacobians[0].shape if jacobians else (1, 1)
        ),
        entropy=predict_entropy(model, prediction, batch.weights, batch.inputs.shape[1])
        if model.has_attention
        else None,
        hessian=hessian_extremes(model, state, batch, jax.random.key(seed)),
    )


@functools.partial(jax.jit, static_argnums=0)
def _probe_layers(model: CharModel, variables: Any, batch: Batch) -> LayerProbe:
    inputs_BS, targets_BT, weights_BT = batch.inputs, batch.targets, batch.weights
    loss, stats, kernels, values = inspect_layers(
        model, variables, inputs_BS, targets_BT, weights_BT, train=True
    )
    outputs = [value.value for value in values]
    inputs = attention_inputs(find_layers(model), outputs, variables["params"])
    entropies = [
        attention_entropy(model, qkv_BTE, weights_BT, params) for qkv_BTE, params in inputs
    ]
    return LayerProbe(
        loss,
        stats,
        kernels,
        weight_moments(model, variables["params"]),
        jnp.stack([input_correlation(value.preactivation, weights_BT) for value in values]),
        jnp.stack([token_cosine(value.value, weights_BT) for value in values]),
        jnp.stack(entropies) if entropies else None,
        tuple(h_BPD[: math.ceil(RANK_VECTORS / h_BPD.shape[1])] for h_BPD, _ in values),
    )


@functools.partial(jax.jit, static_argnums=0)
def _loss_sums(model: CharModel, variables: Any, batch: Batch) -> tuple[Array, Array, Array]:
    """Sum losses, repeated characters and weights over a batch's targets."""
    inputs_BS, targets_BT, weights_BT = batch.inputs, batch.targets, batch.weights
    T = targets_BT.shape[1]
    logits_BTV, _ = layer_values(model, variables, inputs_BS, T, train=True)
    losses_BT = cross_entropy(logits_BTV, targets_BT)
    is_repeat_BT = (inputs_BS[:, -T:] == targets_BT).astype(jnp.float32)
    return (
        jnp.sum(losses_BT * weights_BT),
        jnp.sum(is_repeat_BT * weights_BT),
        jnp.sum(weights_BT),
    )


def _rank(h_BPD: Array, weights_BT: Array) -> float:
    """Return the effective rank of the vectors that are not padding."""
    R, P, _ = h_BPD.shape
    counted_RP = counted_places(weights_BT, len(weights_BT), P)[:R]
    return effective_rank(np.asarray(h_BPD)[np.asarray(counted_RP)][:RANK_VECTORS])


def _jacobians(model: CharModel, variables: Any, batch: Batch) -> list[NDArray[Any]]:
    """Return the Jacobians of the batch's longest contexts, cut to one length."""
    if len(find_layers(model)) < 3:
        return []
    weights_BT = np.asarray(batch.weights)
    lengths_B = np.where(weights_BT > 0, np.arange(1, weights_BT.shape[1] + 1), 0).max(axis=1)
    rows = np.argsort(-lengths_B, kind="stable")[:JACOBIANS]
    end = batch.inputs.shape[1] - weights_BT.shape[1] + int(lengths_B[rows].min())
    found = []
    for row in rows:
        inputs_BS = jnp.roll(batch.inputs[:, :end], -int(row), axis=0)
        found.append(np.asarray(_jacobian(model, variables, inputs_BS)))
    return found


_jacobian = jax.jit(embedding_jacobian, static_argnums=0)
