"""An optimiser of the user's own: a function of the section [optim] that returns the direction.

The direction is that of optax's `scale_by_*` functions: of the gradient's sign, with no learning
rate. Clipping comes before it; the scheme's factors, the decay and minus the scheduled rate after.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from charjax.config import OptimConfig
from charjax.config.errors import choices
from charjax.config.reads import READ
from charjax.config.values import format_value
from charjax.errors import UserError
from charjax.extensions import calling, check_callable, find_object
from charjax.init.own import ReadSettings

_FORM = "make(optim)"
# Steps of the trial, and the root mean square of a direction below which it has a rate of its own.
_STEPS, _SMALLEST = 3, 0.02


def is_own(config: OptimConfig) -> bool:
    """Return True for an optimiser of the user's own."""
    return config.kind not in choices(OptimConfig.model_fields["kind"])


def own_direction(config: OptimConfig) -> optax.GradientTransformation:
    """Build the user's optimiser that [optim] names.

    Raises:
      UserError: the file was not named by the user, fails, or returns no transformation.
    """
    return _build(config.kind, ReadSettings(config))


def _build(name: str, settings: ReadSettings) -> optax.GradientTransformation:
    found = find_object("optim.kind", name)
    make = check_callable("optim.kind", name, found, 1, _FORM)
    with calling("optim.kind", name):
        made = make(settings)
    if not (callable(getattr(made, "init", None)) and callable(getattr(made, "update", None))):
        raise UserError(
            f"optim.kind: {name!r} returns a {type(made).__name__}; it must return a "
            "transformation with `init` and `update`, as optax's scale_by_adam() does"
        )
    return optax.GradientTransformation(made.init, optax.with_extra_args_support(made).update)


def check_direction(config: OptimConfig, shapes: Any) -> None:
    """Try a user's optimiser on random numbers, before the first step of a run.

    Parameters and a gradient of unit size are drawn, and three steps taken. The directions must be
    of the gradient's structure, shapes and dtypes, finite, of its sign (their inner product with it
    is not negative), and not small: a root mean square below 0.02 has a learning rate in it.
    A rate above that is not noticed: the direction of an average that is not corrected for its
    beginning is as small.

    Args:
      config: of an optimiser of the user's own.
      shapes: the parameters as a pytree of anything with `.shape` and `.dtype`.

    Raises:
      UserError: the direction is not one, or a setting of other optimisers was given that it does
        not read.
    """
    name, settings = config.kind, ReadSettings(config)

    def refuse(problem: str) -> UserError:
        return UserError(f"optim.kind: {name!r} {problem}")

    optimizer = optax.with_extra_args_support(_build(name, settings))
    with jax.numpy_dtype_promotion("standard"):
        before = jax.eval_shape(optimizer.init, shapes)
        updates, after = jax.eval_shape(_untraced(optimizer.update), shapes, before, shapes)
        if difference := _difference(updates, shapes):
            raise refuse(f"returns updates unlike the gradient: {difference}")
        if difference := _difference(after, before):
            raise refuse(f"returns a state unlike the one of its init: {difference}")
        if problem := _unsaved(before):
            raise refuse(f"has a state that cannot be saved: {problem}")
        sums = np.asarray(jax.jit(lambda: _trial(optimizer, shapes))())
    # Only now: it may read them in its update.
    _refuse_unread(config, settings.read)
    squares, products, count = sums
    if not (np.isfinite(squares) and np.isfinite(products)):
        raise refuse("gives a direction that is not finite for a gradient of N(0, 1)")
    size = float(np.sqrt(squares / count))
    if size == 0:
        raise refuse("gives a direction of 0 for a gradient of N(0, 1): no parameter would move")
    if products < 0:
        raise refuse(
            "gives a direction against the gradient: it comes with a sign of its own, as "
            "optax.adam and other whole optimisers do, and charjax multiplies by minus the "
            "learning rate; return the direction alone, as optax.scale_by_adam does"
        )
    if size < _SMALLEST:
        raise refuse(
            f"gives a direction of size {size:.2g} for a gradient of size 1: it comes with a "
            "learning rate of its own, and charjax multiplies by optim.learning_rate; leave the "
            "rate out (or, if it is meant to be so small, multiply it by "
            f"{float(f'{1 / size:.1g}'):g})"
        )


def _refuse_unread(config: OptimConfig, read: set[str]) -> None:
    for key, field in OptimConfig.model_fields.items():
        conditions = READ.get(f"optim.{key}", ())
        belongs = any(when.clause.startswith("only optim.kind=") for when in conditions)
        value = getattr(config, key)
        if belongs and key not in read and value != field.default:
            raise UserError(
                f"optim.{key}: {format_value(value)} given; {config.kind!r} does not read it: "
                "leave it out"
            )


def _untraced(update: Any) -> Any:
    return lambda grads, state, params: update(grads, state, params)


def _trial(optimizer: Any, shapes: Any) -> Array:
    """Return sums over three steps: the directions' squares, their products with the gradient."""
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), 2 * len(leaves))
    draws = [
        jax.random.normal(key, leaf.shape, leaf.dtype)
        for key, leaf in zip(keys, leaves * 2, strict=True)
    ]
    params = jax.tree.unflatten(tree, draws[: len(leaves)])
    grads = jax.tree.unflatten(tree, draws[len(leaves) :])
    state = optimizer.init(params)
    squares = products = jnp.zeros(())
    for _ in range(_STEPS):
        updates, state = optimizer.update(grads, state, params)
        squares += sum(jnp.sum(jnp.square(u)) for u in jax.tree.leaves(updates))
        products += optax.tree.vdot(updates, grads)
    count = _STEPS * sum(leaf.size for leaf in leaves)
    return jnp.stack([squares, products, jnp.float32(count)])


def _unsaved(state: Any) -> str | None:
    """Return the first leaf of a state that a checkpoint cannot hold, or None."""
    names: set[str] = set()
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
            return f"{name!r} is a random key; hold jax.random.key_data(key)"
        if name in names:
            return f"two of its arrays have the path {name!r}; give them names of their own"
        names.add(name)
    return None


def _difference(tree: Any, wanted: Any) -> str | None:
    """Return the first difference between two pytrees of arrays, or None."""
    here, there = jax.tree.leaves(tree), jax.tree.leaves(wanted)
    structure: Any = jax.tree.structure(tree)
    if structure != jax.tree.structure(wanted):
        return f"another structure, of {len(here)} arrays for {len(there)}"
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(wanted)[0]]
    for path, leaf, other in zip(paths, here, there, strict=True):
        if (leaf.shape, leaf.dtype) != (other.shape, other.dtype):
            return (
                f"{leaf.dtype}{list(leaf.shape)} for {other.dtype}{list(other.shape)} at "
                f"{jax.tree_util.keystr(path)}"
            )
    return None
