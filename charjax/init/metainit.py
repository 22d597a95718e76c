"""MetaInit: norms of the weights under which gradients change least over a step.

Letters: B batch, S inputs, N outputs, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

LEARNING_RATE, MOMENTUM, STEPS = 0.1, 0.9, 500
# Added to a gradient that is divided by; and the least norm, which divides, too.
EPSILON, LEAST = 1e-5, 1e-3
Flat = dict[tuple[str, ...], Array]


def adjust_norms(
    model: Any, variables: Any, inputs_BS: Array, num_outputs: int, *, steps: int = STEPS
) -> Any:
    """Descend the gradient quotient over the norms of all parameters of two or more axes.

    Dauphin and Schoenholz 2019 (papers.nips.cc/paper/9427): a norm moves by the sign of its
    gradient, with momentum. Of the batch only the shape is used: as there, every step has random
    inputs and targets; here they are symbols, each as likely as the others.

    Args:
      model: a CharModel.
      variables: its parameters and other collections.
      inputs_BS: a batch.
      num_outputs: N.
      steps: of the descent.

    Returns:
      The parameters, scaled.
    """
    others = {name: tree for name, tree in variables.items() if name != "params"}
    V = model.vocab_size
    key = jax.random.key(0)

    def quotient(flat: Flat, step: Array) -> Array:
        inputs_key, targets_key = jax.random.split(jax.random.fold_in(key, step))
        random_BS = jax.random.randint(inputs_key, inputs_BS.shape, 0, V, inputs_BS.dtype)
        targets_BN = jax.random.randint(targets_key, (len(inputs_BS), num_outputs), 0, V)

        def loss(flat: Flat) -> Array:
            variables = {"params": unflatten_dict(flat), **others}
            logits_BNV, _ = model.apply(variables, random_BS, num_outputs=num_outputs)
            logs_BNV = jax.nn.log_softmax(logits_BNV)
            return -jnp.mean(jnp.take_along_axis(logs_BNV, targets_BN[..., None], axis=-1))

        return gradient_quotient(loss, flat)

    def step(index: Array, state: tuple[Flat, Flat]) -> tuple[Flat, Flat]:
        flat, velocities = state
        gradients = jax.grad(quotient)(flat, index)
        flat, velocities = dict(flat), dict(velocities)
        for name, velocity in velocities.items():
            weight = flat[name]
            norm = jnp.sqrt(jnp.sum(jnp.square(weight)))
            direction = jnp.sign(jnp.sum(weight * gradients[name]))
            velocities[name] = MOMENTUM * velocity - LEARNING_RATE * direction
            flat[name] = weight * (jnp.maximum(norm + velocities[name], LEAST) / norm)
        return flat, velocities

    flat = flatten_dict(variables["params"])
    still = {name: jnp.zeros((), jnp.float32) for name, leaf in flat.items() if leaf.ndim >= 2}
    return unflatten_dict(jax.lax.fori_loop(0, steps, step, (flat, still))[0])


def gradient_quotient(loss: Any, params: Any) -> Array:
    """Return the mean of |(g - H g) / (g + epsilon sign(g)) - 1| over all parameters.

    g is the gradient and H the Hessian: a step of size 1 changes the gradient by H g.

    Args:
      loss: parameters -> a number.
      params: a pytree.
    """

    def half_square(params: Any) -> Array:
        squares = (jnp.sum(jnp.square(g)) for g in jax.tree.leaves(jax.grad(loss)(params)))
        return sum(squares, jnp.zeros((), jnp.float32)) / 2

    def total(g: Array, Hg: Array) -> Array:
        divisor = g + EPSILON * jnp.where(g >= 0, 1.0, -1.0)
        return jnp.sum(jnp.abs((g - Hg) / divisor - 1))

    g, Hg = jax.grad(loss)(params), jax.grad(half_square)(params)
    sums = jax.tree.leaves(jax.tree.map(total, g, Hg))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return sum(sums, jnp.zeros((), jnp.float32)) / count
