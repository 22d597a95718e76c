"""Sharpness: the largest eigenvalue of the loss's Hessian, and of Adam's preconditioned one.

Full-batch gradient descent at the rate r brings the first to 2 / r (Cohen et al. 2021,
arXiv:2103.00065), Adam the second to (2 + 2 beta1) / ((1 - beta1) r), which is 38 / r at
beta1 = 0.9 (Cohen et al. 2022, arXiv:2207.14484).

Letters: N parameters, K steps of Lanczos.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from charjax.initlab.measurements.moment import Moment, batch_loss, moved, step_sizes
from charjax.training.state import AdamScales

# Products with the Hessian. The residual is measured too.
STEPS = 32


def sharpness(moment: Moment) -> dict[str, Array]:
    """Return the largest eigenvalue of the Hessian of the next batch's mean loss.

    The Hessian is taken in the parameters that plain gradient descent would move, see
    `step_sizes`.

    Returns:
      sharpness, and sharpness_residual: an eigenvalue lies no further from it than that.
    """
    value, residual = _largest(moment, step_sizes(moment.state))
    return {"sharpness": value, "sharpness_residual": residual}


def preconditioned_sharpness(moment: Moment) -> dict[str, Array]:
    """Return the largest eigenvalue of P^-1 H, with P of AdamW's next step.

    P is (sqrt(v / (1 - beta2^t)) + eps) (1 - beta1^t) with the mean square v after that step, the
    t-th. A scheme's factor of a learning rate divides P.

    Returns:
      preconditioned_sharpness, and its residual as of `sharpness`.
    """
    optim, adam = moment.config.optim, _adam_state(moment.after.opt_state)
    count = adam.count.astype(jnp.float32)
    factors: Any = jax.tree.map(lambda _: jnp.float32(1.0), moment.state.params)
    if isinstance(moment.state.adam_scales, AdamScales):
        factors = moment.state.adam_scales.epsilons

    def size(step: Array, square: Array, factor: Array) -> Array:
        unbiased = jnp.sqrt(square / (1 - optim.beta2**count))
        divisor = (unbiased + optim.eps * factor) * (1 - optim.beta1**count)
        return step / jnp.sqrt(divisor)

    sizes = jax.tree.map(size, step_sizes(moment.state), adam.nu, factors)
    value, residual = _largest(moment, sizes)
    return {"preconditioned_sharpness": value, "preconditioned_sharpness_residual": residual}


def _adam_state(opt_state: Any) -> Any:
    return next(part for part in opt_state if isinstance(part, optax.ScaleByAdamState))


def _largest(moment: Moment, sizes: Any) -> tuple[Array, Array]:
    zeros = jax.tree.map(jnp.zeros_like, moment.state.params)
    zeros_N, unravel = ravel_pytree(zeros)

    def loss(moves: Any) -> Array:
        return batch_loss(moment.model, moved(moment.state, sizes, moves), moment.batch)

    def product(v_N: Array) -> Array:
        """Return H v, by the derivative of the gradient along v (Pearlmutter 1994)."""
        return ravel_pytree(jax.jvp(jax.grad(loss), (zeros,), (unravel(v_N),))[1])[0]

    return largest_eigenvalue(product, jax.random.normal(jax.random.key(0), zeros_N.shape), STEPS)


def largest_eigenvalue(
    product: Callable[[Array], Array], start_N: Array, steps: int
) -> tuple[Array, Array]:
    """Return the largest eigenvalue of a symmetric matrix, by Lanczos's method; for use in jit.

    The vectors are made orthogonal to all earlier ones, twice at each step.

    Args:
      product: v -> A v, float32 (N,).
      start_N: the starting vector, random.
      steps: number of products, at most N.

    Returns:
      The largest Ritz value, and its residual |A v - value v| for its unit vector v: an eigenvalue
      lies no further from it than that.
    """
    N = start_N.size
    K = min(steps, N)

    def orthogonal(w_N: Array, basis_KN: Array) -> Array:
        for _ in range(2):
            w_N = w_N - (basis_KN @ w_N) @ basis_KN
        return w_N

    def step(
        loop: tuple[Array, Array, Array], place: Array
    ) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
        basis_KN, v_N, is_alive = loop
        basis_KN = basis_KN.at[place].set(v_N)
        w_N = product(v_N)
        alpha, size = v_N @ w_N, jnp.linalg.norm(w_N)
        w_N = orthogonal(w_N, basis_KN)
        beta = jnp.linalg.norm(w_N)
        # The space is invariant: what follows would be rounding.
        goes_on = is_alive & (beta > 1e-6 * size)
        beta = jnp.where(goes_on, beta, 0.0)
        v_N = jnp.where(goes_on, w_N / jnp.where(goes_on, beta, 1.0), 0.0)
        return (basis_KN, v_N, goes_on), (jnp.where(is_alive, alpha, jnp.nan), beta)

    start = (jnp.zeros((K, N), jnp.float32), start_N / jnp.linalg.norm(start_N), jnp.array(True))
    _, (alpha_K, beta_K) = jax.lax.scan(step, start, jnp.arange(K))
    # A Rayleigh quotient is never above the largest eigenvalue.
    alpha_K = jnp.where(jnp.isnan(alpha_K) & ~jnp.isnan(alpha_K[0]), alpha_K[0], alpha_K)
    off_K = beta_K[:-1]
    tridiagonal_KK = jnp.diag(alpha_K) + jnp.diag(off_K, 1) + jnp.diag(off_K, -1)
    values_K, vectors_KK = jnp.linalg.eigh(tridiagonal_KK)
    return values_K[-1], beta_K[-1] * jnp.abs(vectors_KK[-1, -1])
