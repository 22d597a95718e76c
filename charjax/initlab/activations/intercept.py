"""Seeing inside a model without changing it: arrays at the doors of its modules, and their slopes.

`flax.linen.intercept_methods` shows every call of a module. At a door that is watched the array
is noted, and a push of zeros is added to it: the loss's derivative with respect to the push is the
one with respect to the array.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from charjax.models.contract import CharModel


class Door(NamedTuple):
    """A module's first argument or first result.

    Attributes:
      path: the module's, joined by "/"; "" is the model itself.
      side: "input" or "output".
    """

    path: str
    side: Literal["input", "output"]


Arrays = Mapping[Door, Array]


class Watched(NamedTuple):
    """What was seen in one pass back and forth.

    Attributes:
      loss: float32 scalar.
      arrays: what went through each door.
      slopes: the loss's derivatives with respect to them.
      param_slopes: the loss's derivatives with respect to the parameters, as pytree of these.
    """

    loss: Array
    arrays: dict[Door, Array]
    slopes: dict[Door, Array]
    param_slopes: Any


def see(
    model: CharModel,
    variables: Any,
    inputs_BS: Array,
    num_outputs: int,
    doors: frozenset[Door],
    pushes: Arrays | None = None,
    *,
    train: bool,
) -> tuple[Array, dict[Door, Array]]:
    """Run a model and note what goes through some doors.

    Dropout is left out, in training too: what is looked at is the whole network.

    Args:
      model: any trained family.
      variables: the parameters as the model sees them, and other collections.
      inputs_BS: tokens.
      num_outputs: N, the last positions that are asked for.
      doors: where to look; each is passed exactly once.
      pushes: what is added there, by door.
      train: whether batch norm takes this batch's statistics.

    Returns:
      logits (B, N, V), and the arrays, the pushes in them.

    Raises:
      ValueError: a door that is not passed, or more than once.
    """
    arrays: dict[Door, Array] = {}

    def pass_door(door: Door, array: Array) -> Array:
        if door not in doors:
            return array
        if door in arrays:
            raise ValueError(f"the {door.side} of {door.path!r} is passed more than once")
        if pushes is not None:
            array += pushes[door].astype(array.dtype)
        arrays[door] = array
        return array

    def watch(
        call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        path = "/".join(context.module.path)
        out = call(pass_door(Door(path, "input"), args[0]), *args[1:], **kwargs)
        if isinstance(out, tuple):
            return pass_door(Door(path, "output"), out[0]), *out[1:]
        return pass_door(Door(path, "output"), out)

    if getattr(model, "dropout", 0.0):
        model = model.clone(dropout=0.0)
    others = [name for name in variables if name != "params"]
    # Without dropout only batch norm asks; and in training a transformer traces its blocks once,
    # all together, where nobody can stand at the doors of each.
    train = train and "batch_stats" in variables
    with nn.intercept_methods(watch):
        (logits_BNV, _), _ = model.apply(
            variables, inputs_BS, num_outputs=num_outputs, train=train, mutable=others
        )
    missing = doors - arrays.keys()
    if missing:
        raise ValueError(f"never passed: {sorted(missing)}")
    return logits_BNV, arrays


def see_slopes(
    model: CharModel,
    variables: Any,
    inputs_BS: Array,
    num_outputs: int,
    doors: frozenset[Door],
    loss_of: Callable[[Array, Arrays], Array],
    *,
    train: bool,
) -> Watched:
    """Run a model forth and back; `loss_of` takes the logits (B, N, V) and what was seen.

    The other arguments, and errors, are as of `see`.
    """
    look = functools.partial(see, model, train=train)
    others = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params: Any, pushes: Arrays) -> tuple[Array, dict[Door, Array]]:
        everything = {"params": params, **others}
        logits_BNV, arrays = look(everything, inputs_BS, num_outputs, doors, pushes)
        return loss_of(logits_BNV, arrays), arrays

    shapes = jax.eval_shape(lambda v: look(v, inputs_BS, num_outputs, doors)[1], variables)
    pushes = {door: jnp.zeros(leaf.shape, jnp.float32) for door, leaf in shapes.items()}
    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, arrays), (param_slopes, slopes) = gradient(variables["params"], pushes)
    return Watched(value, arrays, slopes, param_slopes)
