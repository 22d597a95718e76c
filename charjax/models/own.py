"""Activations and families of the user's own, from a file or an installed package."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from charjax.errors import UserError
from charjax.extensions import check_callable, executed, find_object, is_reference, refuse_unnamed
from charjax.extensions.loading import installed_names
from charjax.models.contract import CharModel
from charjax.ops.precision import wide_dtype

Function = Callable[[Array], Array]

_KNOWN: dict[str, Function] = {"tanh": jax.numpy.tanh, "relu": jax.nn.relu}


@functools.cache
def activation_of(name: str) -> Function:
    """Return an activation, of charjax's or the user's own; the latter computes in float32.

    Cached, so that a name stands for one function in one process: it holds the file's version.

    Raises:
      UserError: the file was not named by the user, or holds no such function.
    """
    if name in _KNOWN:
        return _KNOWN[name]
    written = own_activation(name)

    def function(x: Array) -> Array:
        with jax.numpy_dtype_promotion("standard"):
            return written(x.astype(wide_dtype(x.dtype))).astype(x.dtype)

    return function


def own_activation(name: str) -> Function:
    """Return the user's function as it is.

    Raises:
      UserError: the file was not named by the user, or holds no such function.
    """
    found = executed("model.activation", name)
    if found is None:
        raise UserError(f"model.activation: {name!r} given; there is no such activation")
    return check_callable("model.activation", name, found, 1, "activation(x)")


def own_family(kind: str) -> type[CharModel]:
    """Return the class of a family of the user's own.

    Raises:
      UserError: the file was not named by the user, or holds no subclass of CharModel.
    """
    refuse_unnamed("model.kind", kind)
    found: Any = find_object("model.kind", kind)
    if not isinstance(found, type) or not issubclass(found, CharModel):
        raise UserError(
            f"model.kind: {kind!r} is of type {getattr(found, '__name__', type(found).__name__)}; "
            "it must be a subclass of charjax.models.CharModel"
        )
    for method in ("__call__", "init_cache"):
        if getattr(found, method) is getattr(CharModel, method):
            raise UserError(
                f"model.kind: {kind!r} has no {method}; the contract of charjax.models.CharModel "
                "needs it"
            )
    for attribute in ("memory", "roles"):
        if not hasattr(found, attribute):
            raise UserError(
                f"model.kind: {kind!r} has no attribute {attribute!r}; the contract of "
                "charjax.models.CharModel needs it"
            )
    if found.memory not in ("finite", "carried", "windowed"):
        raise UserError(
            f"model.kind: {kind!r} has memory = {found.memory!r}; allowed: finite, carried, "
            "windowed"
        )
    return found


def is_own(name: Any) -> bool:
    """Return True for the name of an activation that charjax does not have itself."""
    if not isinstance(name, str) or name in _KNOWN:
        return False
    return is_reference(name) or name in installed_names("model.activation")
