"""The extreme eigenvalues of the loss's Hessian at a point, by ARPACK's Lanczos method.

Letters: B batch, S inputs, T targets, N parameters.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray
from scipy.sparse import linalg

from charjax.data.batches import Batch
from charjax.models.contract import CharModel
from charjax.training.state import Scales, TrainState, variables_of
from charjax.training.step import cross_entropy

Vector = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Extremes:
    """The ends of the spectrum of a symmetric matrix A.

    Attributes:
      largest: the largest eigenvalue.
      smallest: the smallest eigenvalue, the most negative one.
      residual: |A v - largest v| of the unit vector v that was found: an eigenvalue lies no
        further from `largest`.
      steps: number of products with the matrix.
    """

    largest: float
    smallest: float
    residual: float
    steps: int

    @property
    def stable_rate(self) -> float:
        """2 / largest: above that rate gradient descent leaves the point along the eigenvector."""
        return 2 / self.largest if self.largest > 0 else float("inf")


def hessian_extremes(
    model: CharModel, state: TrainState, batch: Batch, key: Array, tolerance: float = 1e-2
) -> Extremes:
    """Return the extreme eigenvalues of the Hessian of a batch's mean loss.

    The Hessian is taken in the parameters that plain gradient descent would move under the state's
    scheme: with a multiplier m and a learning-rate factor f, the multiplied parameters over
    m sqrt(f). Dropout is left out; the products are computed in float32.

    Args:
      model: of a trained family.
      state: the point.
      batch: the batch of the loss.
      key: typed; draws the starting vector.
      tolerance: as for `extreme_eigenvalues`.
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
    return extreme_eigenvalues(product, jax.random.normal(key, (count,)), tolerance)


def extreme_eigenvalues(
    product: Callable[[Array], Array], start_N: Array, tolerance: float = 1e-2
) -> Extremes:
    """Return both ends of the spectrum of a symmetric matrix that is known by its products alone.

    The eigenvalue of the largest size is one end. The spectrum is then shifted by it, so that the
    other end has the largest size: both converge relative to the width of the spectrum, however
    close to 0 (where most of a Hessian's eigenvalues lie) one of them is.

    Args:
      product: v -> A v, float32 (N,), N >= 2.
      start_N: the starting vector, random.
      tolerance: of a residual, relative to the eigenvalue of the (shifted) matrix. The error of
        the eigenvalue is smaller, about the residual's square over the gap to the next one.
    """
    steps = 0

    def apply(v_N: Vector) -> Vector:
        nonlocal steps
        steps += 1
        return np.asarray(product(jnp.asarray(v_N, jnp.float32).ravel()), np.float64)

    start = np.asarray(start_N, np.float64)
    ends = [_dominant(apply, start, tolerance)]
    shift = ends[0][0]
    other, vector_N = _dominant(lambda v: apply(v) - shift * v.ravel(), start, tolerance)
    ends.append((shift + other, vector_N))
    (smallest, _), (largest, vector_N) = sorted(ends, key=lambda end: end[0])
    residual = float(np.linalg.norm(apply(vector_N) - largest * vector_N))
    return Extremes(largest, smallest, residual, steps)


def _dominant(
    apply: Callable[[Vector], Vector], start_N: Vector, tolerance: float
) -> tuple[float, Vector]:
    """Return the eigenvalue of the largest size, and its unit vector."""
    unit_N = start_N / np.linalg.norm(start_N)
    moved_N = apply(unit_N)
    length = float(np.linalg.norm(moved_N))
    rounding = float(np.finfo(np.float32).eps)
    if not math.isfinite(length) or length <= rounding * (1 + abs(float(moved_N @ unit_N))):
        # ARPACK takes neither NaN nor a product of 0.
        return length if math.isnan(length) else 0.0, unit_N
    N = start_N.size
    operator = linalg.LinearOperator((N, N), apply, dtype=np.float64)
    # 12 vectors instead of ARPACK's 20: 29 products instead of 45 at a tolerance of 1e-2.
    style = {"ncv": min(12, N), "v0": unit_N, "tol": tolerance}
    values, vectors = linalg.eigsh(operator, k=1, which="LM", **style)
    return float(values[0]), vectors[:, 0]


@functools.partial(jax.jit, static_argnums=0)
def _hessian_product(
    model: CharModel, variables: Any, sizes: Any, batch: Batch, direction_N: Array
) -> Array:
    """Return H v, by the derivative of the gradient along v (Pearlmutter 1994)."""
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

    zeros = jax.tree.map(jnp.zeros_like, params)
    _, moved = jax.jvp(jax.grad(loss), (zeros,), (unravel(direction_N),))
    return ravel_pytree(moved)[0]
