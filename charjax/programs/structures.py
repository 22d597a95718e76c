"""Structures of pytrees as JSON: nothing that is read back can run code."""

import importlib
from typing import Any

import jax

# Where the named tuples of a run's state come from.
_PACKAGES = ("charjax", "optax", "jax")
Json = Any


class UnknownError(Exception):
    """A structure has a node of another kind, or one whose class has moved."""


def encode(structure: Any) -> Json:
    """Return a structure of dicts, lists, tuples, named tuples and None as JSON.

    Raises:
      UnknownError: it has other nodes.
    """
    if jax.tree_util.treedef_is_leaf(structure) and structure.num_leaves == 1:
        return "leaf"
    node = structure.node_data()
    kind, keys = node or (type(None), ())
    if kind is type(None):
        return "none"
    children = [encode(child) for child in structure.children()]
    if kind in (tuple, list):
        return [kind.__name__, children]
    if kind is dict and all(isinstance(key, str) for key in keys or ()):
        return ["dict", list(keys or ()), children]
    if not _is_named_tuple(kind):
        raise UnknownError(str(kind))
    return ["named", kind.__module__, kind.__qualname__, children]


def decode(tree: Json) -> Any:
    """Invert `encode`.

    Raises:
      UnknownError: it is not of `encode`'s making, or a class has moved.
    """
    return jax.tree.structure(_rebuilt(tree))


def _rebuilt(tree: Json) -> Any:
    if tree in ("leaf", "none"):
        return 0 if tree == "leaf" else None
    kind, *rest, children = tree
    values = [_rebuilt(child) for child in children]
    if kind == "tuple":
        return tuple(values)
    if kind == "list":
        return values
    if kind == "dict":
        return dict(zip(rest[0], values, strict=True))
    module, name = rest
    found: Any = None
    if module.partition(".")[0] in _PACKAGES:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part, None)
    if not _is_named_tuple(found) or len(found._fields) != len(values):
        raise UnknownError(f"{module}.{name}")
    return found(*values)


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
