"""Recording of a model's activations and their gradients, without changing the model.

`flax.linen.intercept_methods` intercepts every call of a module. At a tap point the array is
recorded, and a perturbation of zeros is added to it: the loss's gradient with respect to the
perturbation is the one with respect to the array.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from charjax.errors import UserError
from charjax.models.contract import CharModel
from charjax.models.taps import Arrays, TapPoint


class RecordedGradients(NamedTuple):
    """The arrays and gradients of one forward and backward pass.

    Attributes:
      loss: float32 scalar.
      arrays: by tap point.
      gradients: the loss's gradients with respect to them.
      param_gradients: the loss's gradients with respect to the parameters, a pytree like these.
    """

    loss: Array
    arrays: dict[TapPoint, Array]
    gradients: dict[TapPoint, Array]
    param_gradients: Any


def record(
    model: CharModel,
    variables: Any,
    inputs_BS: Array,
    num_outputs: int,
    points: frozenset[TapPoint],
    perturbations: Arrays | None = None,
    *,
    train: bool,
) -> tuple[Array, dict[TapPoint, Array]]:
    """Run a model and record the arrays at some tap points.

    Dropout is left out, in training too: the whole network is recorded.

    Args:
      model: any trained family.
      variables: the parameters as the model reads them, and other collections.
      inputs_BS: tokens.
      num_outputs: N, the number of last positions to compute.
      points: the tap points; each is passed exactly once.
      perturbations: arrays to add there, by tap point.
      train: batch norm takes this batch's statistics.

    Returns:
      logits (B, N, V), and the arrays, the perturbations in them.

    Raises:
      UserError: the taps of a family of the user's own name a point that is not passed, or one
        that is passed more than once.
    """
    arrays: dict[TapPoint, Array] = {}

    def record_at(point: TapPoint, array: Array) -> Array:
        if point not in points:
            return array
        if point in arrays:
            raise UserError(
                f"model.kind: taps() of {type(model).__name__} has the {point.side} of "
                f"{point.path!r}, which is computed more than once: see charjax.models.taps"
            )
        if perturbations is not None:
            array += perturbations[point].astype(array.dtype)
        arrays[point] = array
        return array

    def intercept(
        call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        path = "/".join(context.module.path)
        out = call(record_at(TapPoint(path, "input"), args[0]), *args[1:], **kwargs)
        if isinstance(out, tuple):
            return record_at(TapPoint(path, "output"), out[0]), *out[1:]
        return record_at(TapPoint(path, "output"), out)

    if getattr(model, "dropout", 0.0):
        model = model.clone(dropout=0.0)
    others = [name for name in variables if name != "params"]
    # Without dropout only batch norm differs in training; and there a transformer traces its
    # blocks once for all, which leaves no tap points in the single blocks.
    train = train and "batch_stats" in variables
    with nn.intercept_methods(intercept):
        (logits_BNV, _), _ = model.apply(
            variables, inputs_BS, num_outputs=num_outputs, train=train, mutable=others
        )
    missing = points - arrays.keys()
    if missing:
        point = min(missing)
        raise UserError(
            f"model.kind: taps() of {type(model).__name__} has the {point.side} of {point.path!r}, "
            "and the model computes no such module: see charjax.models.taps"
        )
    return logits_BNV, arrays


def record_gradients(
    model: CharModel,
    variables: Any,
    inputs_BS: Array,
    num_outputs: int,
    points: frozenset[TapPoint],
    loss_of: Callable[[Array, Arrays], Array],
    *,
    train: bool,
) -> RecordedGradients:
    """Run a model forward and backward; `loss_of` reads the logits (B, N, V) and the arrays.

    The other arguments, and errors, are those of `record`.
    """
    forward = functools.partial(record, model, train=train)
    others = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params: Any, perturbations: Arrays) -> tuple[Array, dict[TapPoint, Array]]:
        everything = {"params": params, **others}
        logits_BNV, arrays = forward(everything, inputs_BS, num_outputs, points, perturbations)
        return loss_of(logits_BNV, arrays), arrays

    shapes = jax.eval_shape(lambda v: forward(v, inputs_BS, num_outputs, points)[1], variables)
    zeros = {point: jnp.zeros(leaf.shape, jnp.float32) for point, leaf in shapes.items()}
    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, arrays), (param_gradients, gradients) = gradient(variables["params"], zeros)
    return RecordedGradients(value, arrays, gradients, param_gradients)
