"""Reading of a config.json of Hugging Face's transformers."""

import math
from collections.abc import Mapping
from typing import Any

from charjax.config import TransformerConfig
from charjax.errors import UserError
from charjax.models.attention import mlp_width

Tree = Mapping[str, Any]


def whole_number(tree: Tree, name: str) -> int:
    """Return a whole number from 1, or raise a UserError."""
    value = tree[name]
    if type(value) is not int or value < 1:
        raise UserError(f"config.json: {name} is {value!r}; it must be a whole number from 1")
    return value


def real_number(tree: Tree, name: str) -> float:
    """Return a finite number above 0, or raise a UserError."""
    value = tree[name]
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise UserError(f"config.json: {name} is {value!r}; it must be a number above 0")
    return float(value)


def refuse_values(tree: Tree, allowed: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise a UserError for a value of which charjax's transformer has no counterpart."""
    for name, values in allowed.items():
        if tree[name] not in values:
            shown = " or ".join(map(repr, values))
            raise UserError(
                f"config.json: {name} is {tree[name]!r}, and charjax's transformer has {shown}: "
                "this model cannot be imported"
            )


def without_defaults(settings: Tree) -> dict[str, Any]:
    """Return settings of [model] with None for the sizes that None would have, too.

    Args:
      settings: of a transformer; those that are left out are at their defaults.
    """
    known = {name: field.default for name, field in TransformerConfig.model_fields.items()}
    known |= settings
    found = dict(settings)
    if "n_kv_head" in found and known["n_kv_head"] == known["n_head"]:
        found["n_kv_head"] = None
    if "d_ff" in found and known["d_ff"] == mlp_width(known["d_model"], known["activation"]):
        found["d_ff"] = None
    return found
