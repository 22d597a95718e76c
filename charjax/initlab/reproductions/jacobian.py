"""Number 5: the spread of the singular values of a deep tanh network's Jacobian.

Pennington, Schoenholz and Ganguli 2017. With M = J J^T of size n, the squared singular values s
have mean tr M / n and mean square tr M² / n; the variance over the squared mean is
n tr M² / (tr M)² - 1, which needs no singular value.

Letters: D layers, N width, R networks.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from charjax import theory
from charjax.initlab.reproductions.nets import measure_nets
from charjax.reproduction.checks import Check, Poll, Progress, Tier, mean_of, near, part_of

Weights = Literal["orthogonal", "gaussian"]

_DEPTH, _WEIGHT_VARIANCE, _BIAS_VARIANCE = 16, 1.05, 2.01e-5
# Networks, what is expected, and within how many percent.
_CASES: dict[Weights, tuple[int, float, float]] = {
    "orthogonal": (40, 0.0683, 5.0),
    "gaussian": (160, 16.07, 8.0),
}
_WIDTH = 512


def run(tier: Tier, progress: Progress, poll: Poll) -> list[Check]:
    """Measure the spread for both kinds of weights; both tiers alike."""
    cases, done = [], 0
    total = sum(nets for nets, _, _ in _CASES.values())
    for weights, (nets, expected, percent) in _CASES.items():
        part = part_of(progress, done, total)
        cases.append(measure(weights, nets, _WIDTH, expected, percent, part, poll))
        done += nets
    return cases


def measure(
    weights: Weights,
    nets: int,
    width: int,
    expected: float,
    percent: float,
    progress: Progress,
    poll: Poll,
) -> Check:
    """Return the check of one kind of weights, from so many networks of a width."""
    tanh = theory.find_activation("tanh")
    q = theory.fixed_point(tanh, _WEIGHT_VARIANCE, _BIAS_VARIANCE)

    def one(key: Array) -> Array:
        return relative_variance(jacobian(key, weights, width, q))

    spread_R = measure_nets(one, 5, nets, progress, poll)
    moments = theory.jacobian_moments(_DEPTH, tanh, _WEIGHT_VARIANCE, _BIAS_VARIANCE, weights)
    return near(
        f"{weights} weights: variance over squared mean",
        mean_of(spread_R),
        expected,
        percent=percent,
        of=f"the mean of {nets} nets of width {width}, the input at q*",
        theory=moments.relative_variance,
    )


def relative_variance(J_NN: Array) -> Array:
    """Return the variance of J's squared singular values over their squared mean, a scalar."""
    M_NN = J_NN @ J_NN.T
    return len(J_NN) * jnp.sum(jnp.square(M_NN)) / jnp.square(jnp.trace(M_NN)) - 1


def jacobian(key: Array, weights: Weights, width: int, q: float) -> Array:
    """Return dh_16/dh_0 (N, N) of a network, at an input that gives layer 1 the variance q."""
    inputs_key, weights_key = jax.random.split(key)
    h_N = jax.random.normal(inputs_key, (width,))
    square = (q - _BIAS_VARIANCE) / _WEIGHT_VARIANCE
    h_N *= jnp.sqrt(square / jnp.mean(jnp.square(h_N)))
    scale = math.sqrt(_WEIGHT_VARIANCE)
    draw = jax.nn.initializers.orthogonal(scale)
    if weights == "gaussian":
        draw = jax.nn.initializers.normal(scale / math.sqrt(width))

    def layer(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], None]:
        h_N, J_NN = carry
        kernel_key, bias_key = jax.random.split(key)
        kernel_NN = draw(kernel_key, (width, width), jnp.float32)
        bias_N = math.sqrt(_BIAS_VARIANCE) * jax.random.normal(bias_key, (width,))
        h_N = jnp.tanh(kernel_NN @ h_N + bias_N)
        return (h_N, (1 - jnp.square(h_N))[:, None] * (kernel_NN @ J_NN)), None

    keys_D = jax.random.split(weights_key, _DEPTH)
    return jax.lax.scan(layer, (h_N, jnp.eye(width)), keys_D)[0][1]
