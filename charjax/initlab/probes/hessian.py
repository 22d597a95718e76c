"""The ends of the loss's Hessian at a point, by Lanczos.

Letters: B batch, S inputs, T targets, N parameters, K steps.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from charjax.data.batches import Batch
from charjax.models.contract import CharModel
from charjax.training.state import Scales, TrainState, variables_of
from charjax.training.step import cross_entropy


@dataclasses.dataclass(frozen=True)
class Extremes:
    """Of the eigenvalues of a symmetric matrix.

    Attributes:
      largest: eigenvalue.
      smallest: eigenvalue, the most negative one.
      residual: |A v - largest v| of the unit vector v that was found: an eigenvalue lies no
        further from `largest`. That `smallest` has converged too is not waited for.
      steps: products with the matrix that it took.
    """

    largest: float
    smallest: float
    residual: float
    steps: int

    @property
    def stable_rate(self) -> float:
        """2 / the largest: above that rate gradient descent leaves the point along its vector."""
        return 2 / self.largest if self.largest > 0 else float("inf")


def hessian_extremes(
    model: CharModel, state: TrainState, batch: Batch, key: Array, tolerance: float = 1e-2
) -> Extremes:
    """The extreme eigenvalues of the Hessian of a batch's mean loss, at a state's parameters.

    In the parameters that plain gradient descent would move under the state's scheme: with a
    multiplier m and a learning-rate factor f, those are the effective ones over m sqrt(f).
    Dropout is left out; the products are computed in float32.

    Args:
      model: of a trained family.
      state: where.
      batch: of what.
      key: typed, of the first vector.
      tolerance: as of `lanczos`. The eigenvalue is nearer than the residual, by its square.
    """
    if getattr(model, "dropout", 0.0):
        model = model.clone(dropout=0.0)
    model = model.clone(dtype=jnp.float32)
    variables = variables_of(state)
    sizes = jax.tree.map(lambda _: jnp.float32(1.0), state.params)
    if isinstance(state.scales, Scales):
        rates, multipliers = state.scales
        sizes = jax.tree.map(lambda f, m: m * jnp.sqrt(f), rates, multipliers)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    product = functools.partial(_hessian_product, model, variables, sizes, batch)
    return lanczos(product, jax.random.normal(key, (count,)), tolerance=tolerance)


def lanczos(
    product: Callable[[Array], Array], start_N: Array, steps: int = 40, tolerance: float = 1e-3
) -> Extremes:
    """The extreme eigenvalues of a symmetric matrix that is known by its products alone.

    Lanczos 1950. Every new vector is made orthogonal to all before, twice: without that, float32
    finds eigenvalues again and again (Parlett 1998).

    Args:
      product: v -> A v, float32 (N,).
      start_N: a random vector.
      steps: the most products.
      tolerance: it ends when the residual of the largest is below this part of it.
    """
    steps = min(steps, start_N.size)
    basis_KN = jnp.zeros((steps, start_N.size)).at[0].set(start_N / jnp.linalg.norm(start_N))
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        size = len(diagonal)
        moved_N = product(basis_KN[size])
        diagonal.append(float(jnp.vdot(moved_N, basis_KN[size])))
        rest_N, length = _orthogonal(basis_KN, moved_N)
        inner = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        values_K, vectors_KK = np.linalg.eigh(inner)
        residual = float(length) * abs(float(vectors_KK[-1, -1]))
        is_invariant = float(length) <= 1e-6 * float(np.abs(values_K).max())
        if size + 1 == steps or is_invariant or residual <= tolerance * abs(values_K[-1]):
            return Extremes(float(values_K[-1]), float(values_K[0]), residual, size + 1)
        beside.append(float(length))
        basis_KN = _put(basis_KN, rest_N / length, size + 1)


@jax.jit
def _orthogonal(basis_KN: Array, v_N: Array) -> tuple[Array, Array]:
    """What of a vector is orthogonal to a basis (its unused rows being 0), and its length."""
    for _ in range(2):
        v_N -= (basis_KN @ v_N) @ basis_KN
    return v_N, jnp.linalg.norm(v_N)


@functools.partial(jax.jit, donate_argnums=0)
def _put(basis_KN: Array, v_N: Array, index: int) -> Array:
    return basis_KN.at[index].set(v_N)


@functools.partial(jax.jit, static_argnums=0)
def _hessian_product(
    model: CharModel, variables: Any, sizes: Any, batch: Batch, direction_N: Array
) -> Array:
    """H v, by the derivative of the gradient along v (Pearlmutter 1994)."""
    params = variables["params"]
    others = {name: tree for name, tree in variables.items() if name != "params"}
    _, unravel = ravel_pytree(params)

    def loss(moves: Any) -> Array:
        moved = jax.tree.map(lambda p, size, move: p + size * move, params, sizes, moves)
        (logits_BTV, _), _ = model.apply(
            {"params": moved, **others},
            batch.inputs,
            num_outputs=batch.targets.shape[1],
            train=True,
            mutable=list(others),
        )
        losses_BT = cross_entropy(logits_BTV, batch.targets) * batch.weights
        return jnp.sum(losses_BT) / jnp.maximum(jnp.sum(batch.weights), 1.0)

    still = jax.tree.map(jnp.zeros_like, params)
    _, moved = jax.jvp(jax.grad(loss), (still,), (unravel(direction_N),))
    return ravel_pytree(moved)[0]
