"""A layer of a model, and how it is read off what passes a model's doors.

Letters: B batch, P places (or positions), D width, S inputs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from charjax.init.site import parameter_of
from charjax.initlab.activations.intercept import Arrays, Door
from charjax.models.contract import CharModel
from charjax.models.roles import Activation, Role

LOGITS = Door("", "output")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of a model.

    Attributes:
      name: the path of its module, such as "hidden_0" or "block_1/mlp/down"; what no module gives
        out has a name of its own: "stream" (what a transformer's first block reads), "average"
        (of a bag of characters), "logits" (of a bigram).
      kernel: the path of its main parameter, or None: "block_0" is the stream after that block.
      role: of the kernel; of a readout always that, be it tied or not; None without a kernel.
      activation: what is done to its product.
    """

    name: str
    kernel: str | None
    role: Role | None
    activation: Activation


class Pass(NamedTuple):
    """One pass through a model.

    Attributes:
      variables: with which.
      inputs_BS: over which tokens.
      num_outputs: how many of the last positions were asked for.
      arrays: what went through the doors.
    """

    variables: Any
    inputs_BS: Array
    num_outputs: int
    arrays: Arrays


@dataclasses.dataclass(frozen=True)
class Tap:
    """A layer and how to read it.

    Attributes:
      layer: the layer.
      doors: what `value`, `preactivation` and `gradient` look at.
      value: what it gives out after its activation, (B, P, D); (1, P, D) where all rows share it.
      preactivation: its product (with bias or norm) before.
      gradient: from the slopes at the doors the derivative with respect to the value.
    """

    layer: Layer
    doors: frozenset[Door]
    value: Callable[[Pass], Array]
    preactivation: Callable[[Pass], Array]
    gradient: Callable[[Pass, Arrays], Array]


def layer_of(model: CharModel, kernel: str, name: str | None = None) -> Layer:
    """The layer of a kernel, named as its module if not otherwise."""
    parameter = parameter_of(model.roles, kernel)
    role = Role.READOUT if name == "readout" else parameter.role
    activation = "linear" if name == "readout" else parameter.activation
    return Layer(name or kernel.rpartition("/")[0], kernel, role, activation)


def bare_layer(name: str) -> Layer:
    """A layer without a kernel."""
    return Layer(name, None, None, "linear")


def tap_at(layer: Layer, door: Door, before: Door | None = None) -> Tap:
    """What is given out goes through one door, and what it is made of through another."""
    before = before or door
    return Tap(
        layer,
        frozenset((door, before)),
        value=lambda seen: seen.arrays[door],
        preactivation=lambda seen: seen.arrays[before],
        gradient=lambda seen, slopes: slopes[door],
    )


def output_of(path: str) -> Door:
    """The door behind a module."""
    return Door(path, "output")


def input_of(path: str) -> Door:
    """The door in front of a module."""
    return Door(path, "input")
