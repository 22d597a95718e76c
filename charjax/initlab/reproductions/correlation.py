"""Number 4: the number of tanh layers over which two inputs become alike.

Schoenholz et al. 2017, σ_b² = 0.05. Below the critical σ_w² = 1.76 all inputs become alike, c* = 1,
and what is left of the difference falls as exp(-l/ξ_c). It is measured as the squared distance of
two pre-activations over twice their mean square: equal to 1 - c where both have that mean square,
and free of the rounding that a difference from 1 would have. It is averaged over inputs, units
and networks before the fit; the mean of the networks' logarithms would be biased downwards.

Letters: S settings, P pairs of inputs, D layers, N width, R networks.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from charjax import theory
from charjax.initlab.reproductions.nets import measure_nets
from charjax.reproduction.checks import Check, Mean, Poll, Progress, Tier, near

_BIAS_VARIANCE = 0.05
# σ_w², the depth expected, and within how many percent.
_SETTINGS = ((1.0, 3.63, 5.0), (1.3, 7.83, 5.0), (1.5, 15.8, 15.0))
# 1 - c of the inputs: small, for the law is that of small differences, and large against float32.
_START = 0.01
_DEPTH = 40


def run(
    tier: Tier,
    progress: Progress,
    poll: Poll,
    nets: int = 48,
    width: int = 1000,
    pairs: int = 16,
) -> list[Check]:
    """Measure ξ_c in three settings; both tiers alike."""
    tanh = theory.find_activation("tanh")
    variances_S = [theory.fixed_point(tanh, w, _BIAS_VARIANCE) for w, _, _ in _SETTINGS]

    def one(key: Array) -> tuple[Array, Array]:
        return _squares(key, variances_S, width, pairs)

    apart_RDS, size_RDS = measure_nets(one, 4, nets, progress, poll)
    checks = []
    for s, (weight_variance, expected, percent) in enumerate(_SETTINGS):
        field = theory.mean_field(tanh, weight_variance, _BIAS_VARIANCE)
        checks.append(
            near(
                f"σ_w² = {weight_variance:g}: ξ_c in layers",
                _depth(apart_RDS[:, :, s], size_RDS[:, :, s]),
                expected,
                percent=percent,
                of=f"a fit to 1 - c, the mean of {nets} nets of width {width} with {pairs} pairs "
                f"of inputs each, over {_DEPTH} layers",
                theory=field.correlation_depth,
            )
        )
    return checks


def _depth(apart_RD: NDArray[np.float64], size_RD: NDArray[np.float64]) -> Mean:
    """Fit ξ_c to log(1 - c) by least squares; its standard error is the jackknife's."""

    def fit(apart_D: NDArray[np.float64], size_D: NDArray[np.float64]) -> float:
        slope = np.polyfit(np.arange(len(apart_D)), np.log(apart_D / (2 * size_D)), 1)[0]
        return float(-1 / slope)

    n = len(apart_RD)
    apart_D, size_D = apart_RD.sum(axis=0), size_RD.sum(axis=0)
    without_R = [fit(apart_D - a, size_D - q) for a, q in zip(apart_RD, size_RD, strict=True)]
    error = math.sqrt((n - 1) * np.var(without_R)) if n > 1 else None
    return Mean(fit(apart_D, size_D), n, error)


def _squares(key: Array, variances: list[float], width: int, pairs: int) -> tuple[Array, Array]:
    """Return a network's mean squares (D, S) by layer: of the pairs' difference, and of each."""
    inputs_key, weights_key = jax.random.split(key)
    u_PN, v_PN = jax.random.normal(inputs_key, (2, pairs, width))
    v_PN = (1 - _START) * u_PN + math.sqrt(1 - (1 - _START) ** 2) * v_PN
    z_2PN = jnp.stack([u_PN, v_PN])
    z_S2PN = jnp.sqrt(jnp.asarray(variances))[:, None, None, None] * z_2PN
    # All settings have the same weights and biases, but for their scale.
    scale_S = jnp.sqrt(jnp.asarray([w / width for w, _, _ in _SETTINGS]))[:, None, None, None]

    def layer(z_S2PN: Array, key: Array) -> tuple[Array, tuple[Array, Array]]:
        kernel_key, bias_key = jax.random.split(key)
        kernel_NN = jax.random.normal(kernel_key, (width, width))
        bias_N = math.sqrt(_BIAS_VARIANCE) * jax.random.normal(bias_key, (width,))
        z_S2PN = scale_S * (jnp.tanh(z_S2PN) @ kernel_NN) + bias_N
        apart_S = jnp.mean(jnp.square(z_S2PN[:, 0] - z_S2PN[:, 1]), axis=(1, 2))
        return z_S2PN, (apart_S, jnp.mean(jnp.square(z_S2PN), axis=(1, 2, 3)))

    return jax.lax.scan(layer, z_S2PN, jax.random.split(weights_key, _DEPTH))[1]
