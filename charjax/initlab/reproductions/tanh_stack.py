"""Number 2: five layers of tanh at four gains, from inputs of unit variance.

All gains scale the same weights. Letters: G gains, B inputs,
D layers, N width, R networks.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from charjax import theory
from charjax.initlab.reproductions.nets import measure_nets
from charjax.reproduction.checks import Check, Poll, Progress, Tier, mean_of, near

_THRESHOLD = 0.97
_GAINS = {"0.5": 0.5, "1": 1.0, "5/3": 5 / 3, "3": 3.0}
# By gain: standard deviations and percentages of |h| > 0.97 after layers 1 to 5.
_EXPECTED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "0.5": ((0.417, 0.200, 0.099, 0.049, 0.025), (0.0, 0.0, 0.0, 0.0, 0.0)),
    "1": ((0.628, 0.486, 0.408, 0.358, 0.322), (3.6, 0.1, 0.0, 0.0, 0.0)),
    "5/3": ((0.759, 0.693, 0.669, 0.659, 0.654), (20.9, 9.8, 7.0, 6.0, 5.7)),
    "3": ((0.863, 0.842, 0.838, 0.837, 0.837), (48.6, 41.9, 40.7, 40.5, 40.5)),
}


def run(
    tier: Tier,
    progress: Progress,
    poll: Poll,
    nets: int = 32,
    width: int = 1000,
    inputs: int = 100,
) -> list[Check]:
    """Measure standard deviations and saturation; both tiers alike."""

    def one(key: Array) -> tuple[Array, Array]:
        return _moments(key, width, inputs)

    std_RDG, saturated_RDG = measure_nets(one, 2, nets, progress, poll)
    of = f"the mean of {nets} nets of width {width}, each over {inputs} inputs"
    checks = []
    for g, (name, (stds, percents)) in enumerate(_EXPECTED.items()):
        layers = theory.propagate(5, theory.find_activation("tanh"), _GAINS[name] ** 2)
        for d, (std, percent) in enumerate(zip(stds, percents, strict=True)):
            where = f"gain {name}, layer {d + 1}"
            checks.append(
                near(
                    f"{where}: standard deviation",
                    mean_of(std_RDG[:, d, g]),
                    std,
                    within=0.005,
                    of=of,
                    theory=float(layers.std_D[d]),
                )
            )
            checks.append(
                near(
                    f"{where}: |h| > {_THRESHOLD}",
                    mean_of(100 * saturated_RDG[:, d, g]),
                    percent,
                    within=0.5,
                    of=of,
                    unit="%",
                    theory=100 * _saturated(float(layers.preactivation_D[d])),
                )
            )
    return checks


def _saturated(variance: float) -> float:
    return theory.saturated_fraction(variance, theory.find_activation("tanh"), _THRESHOLD)


def _moments(key: Array, width: int, inputs: int) -> tuple[Array, Array]:
    """Return a network's standard deviations (D, G) over inputs and units, and shares saturated."""
    inputs_key, weights_key = jax.random.split(key)
    gains_G11 = jnp.asarray(list(_GAINS.values()))[:, None, None]
    x_BN = jax.random.normal(inputs_key, (inputs, width))
    h_GBN = jnp.broadcast_to(x_BN, (len(_GAINS), inputs, width))

    def layer(h_GBN: Array, key: Array) -> tuple[Array, tuple[Array, Array]]:
        kernel_NN = jax.random.normal(key, (width, width)) / math.sqrt(width)
        h_GBN = jnp.tanh(gains_G11 * (h_GBN @ kernel_NN))
        saturated_G = jnp.mean(jnp.abs(h_GBN) > _THRESHOLD, axis=(1, 2))
        return h_GBN, (jnp.std(h_GBN, axis=(1, 2)), saturated_G)

    return jax.lax.scan(layer, h_GBN, jax.random.split(weights_key, 5))[1]
