"""Number 3: the growth of a gradient's variance from layer to layer, in the backward pass.

By backpropagation through stacks of finite width: of tanh at gain 5/3, started where the variance
stays (q*), and with the batch norm of charjax's models before the activation. Letters: B inputs,
D layers, N width, R networks.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax import theory
from charjax.initlab.reproductions.nets import measure_nets
from charjax.models.layers import BatchNorm
from charjax.reproduction.checks import (
    Check,
    Poll,
    Progress,
    Tier,
    geometric_mean_of,
    near,
    part_of,
)

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}


@dataclasses.dataclass(frozen=True)
class LayerStack:
    """A stack of layers h = φ(h W), or φ(BN(h W)).

    Attributes:
      activation: φ.
      norm: whether there is a batch norm.
      gain: weights are N(0, gain²/n); a batch norm makes it irrelevant.
      depth: D.
      width: N.
      inputs: B, the batch.
    """

    activation: Literal["tanh", "relu"]
    norm: bool
    gain: float
    depth: int
    width: int
    inputs: int

    @property
    def variance(self) -> float:
        """Fixed point of the pre-activations' variance: q*, or 1 behind a batch norm."""
        return 1.0 if self.norm else theory.fixed_point(self._function, self.gain**2)

    @property
    def growth(self) -> float:
        """χ, the growth per layer that theory predicts."""
        if self.norm:
            return theory.batch_norm_chi(self._function)
        return theory.chi_1(self._function, self.gain**2)

    @property
    def _function(self) -> theory.Activation:
        return theory.find_activation(self.activation)


# What is expected, within how many percent, and over how many networks.
_CASES = (
    ("tanh at gain 5/3", LayerStack("tanh", False, 5 / 3, 16, 1000, 64), 1.210, 3.0, 24),
    ("batch norm, tanh", LayerStack("tanh", True, 1.0, 16, 1000, 512), 1.178, 2.0, 12),
    ("batch norm, ReLU", LayerStack("relu", True, 1.0, 16, 1000, 512), 1.467, 2.0, 12),
)
# Nearest to the loss, where the gradient is the random one that the backward pass starts from.
_LAST_LAYERS = 2


def run(tier: Tier, progress: Progress, poll: Poll) -> list[Check]:
    """Measure the three growths; both tiers alike."""
    checks, done = [], 0
    total = sum(nets for *_, nets in _CASES)
    for name, stack, expected, percent, nets in _CASES:
        part = part_of(progress, done, total)
        checks.append(measure(name, stack, expected, percent, nets, part, poll))
        done += nets
    return checks


def measure(
    name: str,
    stack: LayerStack,
    expected: float,
    percent: float,
    nets: int,
    progress: Progress,
    poll: Poll,
) -> Check:
    """Return the check of one stack."""
    variance = stack.variance
    square_RD = measure_nets(
        lambda key: gradient_squares(key, stack, variance), 3, nets, progress, poll
    )
    log_RD = np.log(square_RD)
    layers = stack.depth - 1 - _LAST_LAYERS
    return near(
        f"{name}: gradient's variance over that of the layer after",
        geometric_mean_of((log_RD[:, 0] - log_RD[:, layers]) / layers),
        expected,
        percent=percent,
        of=f"the geometric mean over {layers} layers and {nets} nets of width {stack.width}, "
        f"{stack.inputs} inputs each",
        theory=stack.growth,
    )


def gradient_squares(key: Array, stack: LayerStack, variance: float) -> Array:
    """Return a network's mean square (D,) of the gradient at each layer's pre-activations.

    The gradient is that of a random linear function of the last layer's output.
    """
    activate, width = _ACTIVATIONS[stack.activation], stack.width
    inputs_key, weights_key, end_key = jax.random.split(key, 3)
    z_BN = math.sqrt(variance) * jax.random.normal(inputs_key, (stack.inputs, width))
    end_BN = jax.random.normal(end_key, (stack.inputs, width))

    def layer(h_BN: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        key, nothing_BN = at
        kernel_NN = stack.gain / math.sqrt(width) * jax.random.normal(key, (width, width))
        z_BN = h_BN @ kernel_NN + nothing_BN
        return activate(_normalised(z_BN) if stack.norm else z_BN), None

    def loss(nothing_DBN: Array) -> Array:
        keys_D = jax.random.split(weights_key, stack.depth)
        h_BN, _ = jax.lax.scan(layer, activate(z_BN), (keys_D, nothing_DBN))
        return jnp.sum(h_BN * end_BN)

    # Nothing is added to the pre-activations, and the gradient is taken with respect to it.
    gradient_DBN = jax.grad(loss)(jnp.zeros((stack.depth, stack.inputs, width)))
    return jnp.mean(jnp.square(gradient_DBN), axis=(1, 2))


def _normalised(z_BN: Array) -> Array:
    """Apply batch norm as in training, with scale 1 and bias 0."""
    norm, z_B1N = BatchNorm(), z_BN[:, None]
    variables = norm.init(jax.random.key(0), z_B1N, train=True)
    return norm.apply(variables, z_B1N, train=True, mutable=["batch_stats"])[0][:, 0]
