"""Muon: hidden matrices by orthogonalised momentum, all other parameters by AdamW.

Letters: N inputs of a matrix, G matrices side by side in a kernel, M outputs of one.
"""

import math
from typing import Any

import jax
import optax
from jax import Array
from optax.contrib import MuonDimensionNumbers

from charjax.config import OptimConfig
from charjax.models.roles import MATRIX_ROLES, Parameter, Roles, parameter_of

_STEPS = 5


def scale_by_muon(config: OptimConfig, roles: Roles) -> optax.GradientTransformationExtraArgs:
    """Return the directions of `optax.contrib.scale_by_muon`, where each gate is a matrix.

    Muon (Jordan et al. 2024, github.com/KellerJordan/Muon) with Nesterov's momentum trains the
    parameters of the roles `MATRIX_ROLES`; AdamW trains the others (embeddings, readout, gains,
    biases). optax would orthogonalise the kernel of all gates, or of queries, keys and values, as
    one matrix: here kernels (N, G M) are given to it as (N, G, M), one matrix per gate. And
    `optax.contrib.muon` would give AdamW Nesterov's momentum, too
    (findings/muon-adamw-nesterov.sh).

    A matrix's direction is multiplied by sqrt(max(1, M / N)), as by optax; with
    optim.consistent_rms by that times sqrt(max(N, M)) (Liu et al. 2025, arXiv:2502.16982).
    Directions of AdamW's parameters are of `optim.learning_rate`; `scale_adam_part` makes them of
    `optim.adam_learning_rate`.

    Args:
      config: the section [optim].
      roles: of the model's parameters.
    """
    inner = optax.partition(
        {
            "muon": optax.contrib.scale_by_muon(
                beta=config.momentum,
                eps=config.eps,
                weight_dimension_numbers=lambda params: _dimensions(params, roles),
            ),
            "adam": optax.scale_by_adam(config.beta1, config.beta2, config.eps),
        },
        lambda params: _map(
            lambda parameter, _: "muon" if is_muons(parameter) else "adam", roles, params
        ),
    )

    def direction(parameter: Parameter, update: Array, like: Array) -> Array:
        if is_muons(parameter):
            update = _size(update, config.consistent_rms) * update
        return update.reshape(like.shape)

    def init(params: Any) -> Any:
        return inner.init(_split_gates(params, roles))

    def update(grads: Any, state: Any, params: Any = None, **factors: Any) -> tuple[Any, Any]:
        grads = _divide_by_epsilons(grads, roles, factors.get("epsilon_factors"))
        split = _split_gates(grads, roles), _split_gates(params, roles)
        updates, state = inner.update(split[0], state, split[1])
        return _map(direction, roles, updates, params), state

    return optax.GradientTransformationExtraArgs(init, update)


def scale_adam_part(config: OptimConfig, roles: Roles) -> optax.GradientTransformation:
    """Multiply the directions of AdamW's parameters by adam_learning_rate / learning_rate."""
    rate = config.adam_learning_rate
    ratio = 1.0 if rate is None else rate / config.learning_rate
    return optax.stateless(
        lambda updates, params: _map(
            lambda parameter, u: u if is_muons(parameter) else ratio * u, roles, updates
        )
    )


def is_muons(parameter: Parameter) -> bool:
    """Return true if Muon trains a parameter, rather than AdamW."""
    return parameter.role in MATRIX_ROLES


def newton_schulz_flops(shapes: Any, roles: Roles) -> float:
    """Return the operations by which one step orthogonalises all matrices.

    Each of five iterations takes the products X X^T, A A and B X of an N x M matrix X, N <= M.

    Args:
      shapes: the model's parameters, or their shapes.
      roles: of them.
    """

    def of_kernel(parameter: Parameter, leaf: Any) -> float:
        if not is_muons(parameter):
            return 0.0
        few, many = sorted((leaf.shape[0], leaf.shape[1] // parameter.gates))
        return parameter.gates * _STEPS * (4.0 * few * few * many + 2.0 * few**3)

    return float(sum(jax.tree.leaves(_map(of_kernel, roles, shapes))))


def _size(split: Array, consistent_rms: float | None) -> float:
    """Return the factor of an orthogonalised kernel (N, M) or (N, G, M)."""
    inputs, outputs = split.shape[0], split.shape[-1]
    if consistent_rms is not None:
        return consistent_rms * math.sqrt(max(inputs, outputs))
    return math.sqrt(max(1.0, outputs / inputs))


def _dimensions(kernels: Any, roles: Roles) -> Any:
    """Return the axes of each matrix in Muon's kernels, split by `_split_gates`."""
    return _map(lambda _, leaf: MuonDimensionNumbers(0, leaf.ndim - 1), roles, kernels)


def _split_gates(tree: Any, roles: Roles) -> Any:
    """Reshape each kernel of several gates to (N, G, M)."""

    def split(parameter: Parameter, leaf: Array) -> Array:
        if not is_muons(parameter) or parameter.gates == 1:
            return leaf
        return leaf.reshape(leaf.shape[0], parameter.gates, -1)

    return _map(split, roles, tree)


def _divide_by_epsilons(grads: Any, roles: Roles, factors: Any) -> Any:
    """Divide AdamW's gradients by a scheme's factors: that multiplies its epsilon by them."""
    if factors is None:
        return grads
    return _map(lambda parameter, g, e: g if is_muons(parameter) else g / e, roles, grads, factors)


def _map(function: Any, roles: Roles, tree: Any, *rest: Any) -> Any:
    """Map a function of (the role's parameter, leaf, ...) over a tree of parameters."""

    def of_leaf(path: tuple[Any, ...], leaf: Any, *others: Any) -> Any:
        name = "/".join(str(part.key) for part in path)
        return function(parameter_of(roles, name), leaf, *others)

    return jax.tree_util.tree_map_with_path(of_leaf, tree, *rest)
