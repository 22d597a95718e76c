"""The layers of a model, and how the activations of each are read off a forward pass.

A tap point is the first argument or the first result of one of a model's modules;
`charjax.initlab.activations` records the arrays there and the loss's gradients. A model describes
its layers as taps: functions of those arrays.

Letters: B batch, P places (or positions), D width, S inputs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from jax import Array

from charjax.models.roles import Activation, Role, Roles, parameter_of


class TapPoint(NamedTuple):
    """A module's first argument or first result.

    Attributes:
      path: the module's, joined by "/"; "" is the model itself.
      side: "input" or "output".
    """

    path: str
    side: Literal["input", "output"]


Arrays = Mapping[TapPoint, Array]
Reads = Literal["previous", "norm", "state", "table"]
LOGITS = TapPoint("", "output")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of a model, and where its product comes from, for mean-field theory.

    Attributes:
      name: the path of its module, such as "hidden_0" or "block_1/mlp/down". An array that is no
        module's result has a name of its own: "stream" (the input of a transformer's first
        block), "average" (of a bag of characters), "logits" (of a bigram).
      kernel: the path of its main parameter, or None: "block_0" is the stream after that block.
      role: of the kernel; of a readout always that, be it tied or not; None without a kernel.
      activation: the function of its product.
      reads: the input of the product: "previous", the layer before this one; "norm", the output of
        `norm`; "state", the layer before and the layer's own output one step earlier; "table",
        a symbol's one-hot vector; None: an input whose size no theory here predicts.
      norm: the path of a norm: the one that is read, or that a product of "previous" goes through,
        or whose output the layer itself is; None without one.
    """

    name: str
    kernel: str | None
    role: Role | None
    activation: Activation
    reads: Reads | None = None
    norm: str | None = None


class Recording(NamedTuple):
    """The arrays of one forward pass.

    Attributes:
      variables: of the model.
      inputs_BS: the tokens.
      num_outputs: the number of last positions that were computed.
      arrays: by tap point.
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
      points: the tap points that `value`, `preactivation` and `gradient` use.
      value: its output after the activation, (B, P, D); (1, P, D) where all rows share it.
      preactivation: its product (with bias or norm) before.
      gradient: from the gradients at the tap points the one with respect to the value.
    """

    layer: Layer
    points: frozenset[TapPoint]
    value: Callable[[Recording], Array]
    preactivation: Callable[[Recording], Array]
    gradient: Callable[[Recording, Arrays], Array]


def layer_of(
    roles: Roles,
    kernel: str,
    name: str | None = None,
    *,
    reads: Reads | None = None,
    norm: str | None = None,
) -> Layer:
    """Describe the layer of a kernel, named as its module if not otherwise."""
    parameter = parameter_of(roles, kernel)
    role = Role.READOUT if name == "readout" else parameter.role
    activation = "linear" if name == "readout" else parameter.activation
    return Layer(name or kernel.rpartition("/")[0], kernel, role, activation, reads, norm)


def bare_layer(name: str, norm: str | None = None) -> Layer:
    """Describe a layer without a kernel."""
    return Layer(name, None, None, "linear", norm=norm)


def tap_at(layer: Layer, point: TapPoint, product: TapPoint | None = None) -> Tap:
    """Read a layer's output at one tap point, and its product at another if they differ."""
    product = product or point
    return Tap(
        layer,
        frozenset((point, product)),
        value=lambda recording: recording.arrays[point],
        preactivation=lambda recording: recording.arrays[product],
        gradient=lambda recording, gradients: gradients[point],
    )


def output_of(path: str) -> TapPoint:
    """Return the tap point behind a module."""
    return TapPoint(path, "output")


def input_of(path: str) -> TapPoint:
    """Return the tap point in front of a module."""
    return TapPoint(path, "input")
