"""The gradient's noise, and the size of a step beside the weights.

Letters: B rows of a batch, M matrices.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from charjax.data.batches import Batch
from charjax.initlab.measurements.moment import Moment, batch_loss, multiplied

_SQUARINGS = 12


def noise_scale(moment: Moment) -> dict[str, Array]:
    """Return the simple noise scale tr(S) / |G|^2 (McCandlish et al. 2018, arXiv:1812.06162).

    G is the gradient over the text and S the covariance of a single row's. Both are estimated
    without bias, from the gradients of a batch's rows and their mean; their quotient is biased:
    over several runs or steps, average both and divide. |G|^2 may come out negative, where the
    batch is too small to show it.

    Batch norm has its running statistics, as rows would depend on each other otherwise.

    Returns:
      noise_scale, in rows of a batch (one target each with data.layout=pairs);
      gradient_variance: tr(S); gradient_square: |G|^2. NaN for a batch of one row.
    """
    state, batch = moment.state, moment.batch
    B = batch.targets.shape[0]
    per_row = B / jnp.maximum(jnp.sum(batch.weights), 1.0)

    def row_loss(params: Any, row: Batch) -> Array:
        mean = batch_loss(moment.model, multiplied(state, params), row, train=False)
        # Padding: rows have different numbers of targets, and the batch's mean is over targets.
        return mean * jnp.sum(row.weights) * per_row

    def add(sums: tuple[Any, Array], row: Any) -> tuple[tuple[Any, Array], None]:
        inputs_S, targets_T, weights_T = row
        one = Batch(inputs_S[None], targets_T[None], weights_T[None], batch.restart)
        grads = jax.grad(row_loss)(state.params, one)
        square = jnp.square(optax.tree.norm(grads))
        return (jax.tree.map(jnp.add, sums[0], grads), sums[1] + square), None

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    rows = batch.inputs, batch.targets, batch.weights
    (total, squares), _ = jax.lax.scan(add, (zeros, jnp.float32(0.0)), rows)
    return estimate_noise(squares / B, jnp.square(optax.tree.norm(total) / B), B)


def estimate_noise(small_square: Array, big_square: Array, rows: int) -> dict[str, Array]:
    """Estimate the noise scale from mean squared norms of gradients.

    Args:
      small_square: of single rows.
      big_square: of the mean over `rows`.
      rows: B.
    """
    if rows < 2:
        nan = jnp.float32(jnp.nan)
        return {"noise_scale": nan, "gradient_variance": nan, "gradient_square": nan}
    gradient_square = (rows * big_square - small_square) / (rows - 1)
    variance = (small_square - big_square) / (1 - 1 / rows)
    return {
        "noise_scale": variance / gradient_square,
        "gradient_variance": variance,
        "gradient_square": gradient_square,
    }


def update_ratio(moment: Moment) -> dict[str, Array]:
    """Return the spectral norm of the next step's change of each matrix over the matrix's.

    A kernel of more than two axes is a matrix from all but the last to the last.

    Returns:
      update_ratio: (M,), in the order of `matrices`.
    """
    before, after = (matrices(state.params) for state in (moment.state, moment.after))
    ratios = [
        spectral_norm(after[name] - before[name]) / spectral_norm(before[name]) for name in before
    ]
    return {"update_ratio": jnp.stack(ratios)}


def matrices(params: Any) -> dict[str, Any]:
    """Return the parameters of two axes or more, by their "/"-joined path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {
        "/".join(str(part.key) for part in path): leaf for path, leaf in leaves if leaf.ndim >= 2
    }


def spectral_norm(kernel: Array) -> Array:
    """Return the spectral norm, by squaring the matrix of the shorter side's products repeatedly.

    That is a power iteration of 2^12 steps: the error is below 0.1 % even where singular values
    crowd at the top, and it takes matrix products alone, which a busy CPU and a GPU do well.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    # Scaled, so that squares of small changes are not lost.
    scale = jnp.max(jnp.abs(matrix))
    unit = matrix / jnp.where(scale > 0, scale, 1.0) / max(matrix.shape) ** 0.5
    products = power = unit @ unit.T
    for _ in range(_SQUARINGS):
        power = power @ power
        power = power / jnp.maximum(jnp.linalg.norm(power), 1e-30)
    vector = power[:, jnp.argmax(jnp.linalg.norm(power, axis=0))]
    vector = vector / jnp.maximum(jnp.linalg.norm(vector), 1e-30)
    return scale * (max(matrix.shape) * jnp.linalg.norm(products @ vector)) ** 0.5
