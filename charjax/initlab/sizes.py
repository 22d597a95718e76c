"""The depth and the width of a network, whatever its family calls them."""

from typing import Any

from charjax.config import Config, parse_config
from charjax.errors import UserError


def size_of(config: Config) -> tuple[int, int]:
    """Return depth and width: hidden layers or blocks, and units of each; 0 without any."""
    return config.model.depth, config.model.width


def with_size(config: Config, depth: int, width: int, flags: tuple[str, str]) -> Config:
    """Return the configuration with another depth and width.

    Heads keep their width and grow in number; what has a width of its own (the embedding of an MLP
    or a recurrent network) keeps it.

    Args:
      config: of any trained family.
      depth: as `size_of` returns it.
      width: likewise.
      flags: the command-line flags of the two, for error messages.

    Raises:
      UserError: the family has no such size.
    """
    if (depth, width) == size_of(config):
        return config
    model = config.model
    axes = (
        ("depth", flags[0], model.depth_field, depth, model.depth),
        ("width", flags[1], model.width_field, width, model.width),
    )
    for axis, flag, field, new, old in axes:
        if field is None and new != old:
            raise UserError(
                f"{flag}: {new} given; the {axis} of model.kind={model.kind} is "
                f"{model.fixed_size}: leave {flag} out"
            )
    head = model.head_width
    if head is not None and width % head:
        raise UserError(
            f"{flags[1]}: {width} given; heads are {head} wide (model.d_model / model.n_head), "
            f"and grow in number: give multiples of {head}"
        )
    return with_model(config, model.resized(depth, width))


def with_model(config: Config, changes: dict[str, Any]) -> Config:
    """Return the configuration with other settings of [model], validated."""
    tree = config.model_dump(mode="json")
    tree["model"] |= changes
    return parse_config(tree)
