"""How deep and how wide a network is, whatever its family calls that."""

import math
from typing import Any

from charjax.config import Config, parse_config
from charjax.errors import UserError

# Of each family: the fields of [model] that are its depth and its width.
_FIELDS = {
    "bigram": (None, None),
    "bow": (None, "d_embed"),
    "wavenet": (None, "d_hidden"),
    "rnn": ("n_layer", "d_hidden"),
    "gru": ("n_layer", "d_hidden"),
    "lstm": ("n_layer", "d_hidden"),
    "transformer": ("n_layer", "d_model"),
}


def size_fields(kind: str) -> tuple[str | None, str | None]:
    """Return the fields of [model] that are a family's depth and width; an mlp's are one list."""
    return ("hidden", "hidden") if kind == "mlp" else _FIELDS[kind]


def size_of(config: Config) -> tuple[int, int]:
    """Depth and width: hidden layers or blocks, and units of each; 0 where a family has none."""
    model: Any = config.model
    if model.kind == "mlp":
        return len(model.hidden), model.hidden[0] if model.hidden else 0
    if model.kind == "wavenet":
        return int(math.log2(model.context_length or 8)), model.d_hidden
    depth, width = (0 if f is None else getattr(model, f) for f in _FIELDS[model.kind])
    return depth, width


def with_size(config: Config, depth: int, width: int, flags: tuple[str, str]) -> Config:
    """The configuration with another depth and width.

    Heads keep their width and grow in number; what has a width of its own (the embedding of an MLP
    or a recurrent network) keeps it.

    Args:
      config: of any trained family.
      depth: as `size_of` tells it.
      width: likewise.
      flags: what gave them, for what is said of a mistake.

    Raises:
      UserError: the family has no such size.
    """
    if (depth, width) == size_of(config):
        return config
    model: Any = config.model
    if model.kind == "mlp":
        return with_model(config, {"hidden": (width,) * depth})
    changes: dict[str, Any] = {}
    for what, flag, field, new, old in zip(
        ("depth", "width"), flags, _FIELDS[model.kind], (depth, width), size_of(config), strict=True
    ):
        if field is not None:
            changes[field] = new
        elif new != old:
            why = "that of its text's table" if model.kind == "bigram" else "model.context_length's"
            raise UserError(
                f"{flag}: {new} given; the {what} of model.kind={model.kind} is {why}: leave "
                f"{flag} out"
            )
    if model.kind == "transformer":
        head = model.d_model // model.n_head
        if width % head:
            raise UserError(
                f"{flags[1]}: {width} given; heads are {head} wide (model.d_model / model.n_head), "
                f"and grow in number: give multiples of {head}"
            )
        changes["n_head"] = width // head
    return with_model(config, changes)


def with_model(config: Config, changes: dict[str, Any]) -> Config:
    """The configuration with other fields of [model], with its bounds."""
    tree = config.model_dump(mode="json")
    tree["model"] |= changes
    return parse_config(tree)
