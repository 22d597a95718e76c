"""Number 6: thirty ReLU layers, with weights of variance 2/n (He et al. 2015) and 1/n.

Letters: S scales, B inputs, D layers, N width, R networks.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from charjax.initlab.reproductions.nets import measure_nets
from charjax.reproduction.checks import (
    Check,
    Poll,
    Progress,
    Tier,
    geometric_mean_of,
    near,
    part_of,
)

_DEPTH = 30
# Weights' variance times n, the expected ratio and how near it has to be.
_SCALES = ((2.0, 1.00, 0.02), (1.0, 0.50, 0.01))


def run(
    tier: Tier,
    progress: Progress,
    poll: Poll,
    nets: int = 208,
    width: int = 512,
    inputs: int = 16,
) -> list[Check]:
    """Measure the growth of a layer's mean square; both tiers alike."""
    checks = []
    for place, (variance, expected, within) in enumerate(_SCALES):

        def one(key: Array, variance: float = variance) -> Array:
            return _mean_squares(key, variance, width, inputs)

        part = part_of(progress, place * nets, len(_SCALES) * nets)
        square_RD = measure_nets(one, 60 + place, nets, part, poll)
        # The mean of the logarithms of the ratios between neighbours is what telescopes.
        ratio = geometric_mean_of(jnp.log(square_RD[:, -1] / square_RD[:, 0]) / (_DEPTH - 1))
        checks.append(
            near(
                f"weights {variance:g}/n: mean square of a layer over the one before",
                ratio,
                expected,
                within=within,
                of=f"the geometric mean over {_DEPTH} layers and {nets} nets of width {width}",
                theory=variance / 2,
                note=f"a logarithm's mean lies {5 / (2 * width):.3f} below, by the finite width",
            )
        )
    return checks


def _mean_squares(key: Array, variance: float, width: int, inputs: int) -> Array:
    """Return a network's mean square (D,) of the pre-activations of each layer."""
    inputs_key, weights_key = jax.random.split(key)
    z_BN = math.sqrt(2.0) * jax.random.normal(inputs_key, (inputs, width))

    def layer(z_BN: Array, key: Array) -> tuple[Array, Array]:
        kernel_NN = math.sqrt(variance / width) * jax.random.normal(key, (width, width))
        z_BN = jax.nn.relu(z_BN) @ kernel_NN
        return z_BN, jnp.mean(jnp.square(z_BN))

    return jax.lax.scan(layer, z_BN, jax.random.split(weights_key, _DEPTH))[1]
