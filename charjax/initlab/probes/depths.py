"""The coordinate check over depth: activations must move as far in a deep model as in a shallow.

In a parametrisation whose features are learned at every depth, the input of each layer moves by an
amount that does not depend on the depth (Dey et al. 2025, CompleteP, arXiv:2505.01618). Layers are
compared across depths by their place: those outside the blocks, and those of the last block.
What a residual block adds is left out: the more blocks, the less each of them adds.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from charjax.config import Config
from charjax.errors import UserError
from charjax.initlab.activations.layers import Layer, find_layers
from charjax.initlab.probes.coordinates import Sizes, at_depth, measure_sizes, report_check
from charjax.models.roles import Role
from charjax.training.session import open_session

_NUMBER = re.compile(r"(?<=_)\d+")


def check_depths(
    config: Config,
    depths: tuple[int, ...],
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 10,
    report_progress: Callable[[int], None] = lambda depth: None,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train at every depth, and fit how the sizes of coordinates depend on it.

    Args:
      config: of the run at any of the depths.
      depths: at least two.
      seeds: of initialisation and batches, at least two.
      steps: of training, with the config's optimiser.
      report_progress: called with each depth once it is trained.
      poll: called between steps; may raise to stop.

    Returns:
      As `check_coordinates`, with "axis": "depth". The layers of the last block are named
      "block_last/...".

    Raises:
      UserError: fewer than two depths or seeds, or a family without a depth.
    """
    if len(set(depths)) < 2:
        raise UserError(
            f"--depths: depth {', '.join(map(str, depths)) or 'none'} given; a slope needs at "
            "least two that differ"
        )
    # All are built before the first is trained, so that a mistake is reported at once.
    configs = [at_depth(config, depth) for depth in depths]
    changes: list[Sizes] = []
    values: list[Sizes] = []
    for depth, one in zip(depths, configs, strict=True):
        session = open_session(one)
        names = compared_layers(find_layers(session.model), depth)
        sizes = measure_sizes(session, seeds, steps, poll)
        for found, each in zip((changes, values), sizes, strict=True):
            found.append({new: each[old] for old, new in names.items()})
        report_progress(depth)
    changes_DRT, values_DRT = (
        {name: np.stack([x[name] for x in found]) for name in found[0]}
        for found in (changes, values)
    )
    return report_check(config, "depth", depths, seeds, steps, changes_DRT, values_DRT)


def compared_layers(layers: tuple[Layer, ...], depth: int) -> dict[str, str]:
    """Return the layers that networks of all depths have, and their names for all depths.

    Args:
      layers: of one network.
      depth: its hidden layers or blocks.
    """
    found = {}
    for layer in layers:
        number = _NUMBER.search(layer.name)
        if layer.role == Role.RESIDUAL_OUTPUT:
            continue
        if number is None:
            found[layer.name] = layer.name
        elif int(number[0]) == depth - 1:
            found[layer.name] = _NUMBER.sub("last", layer.name, count=1)
    return found
