"""What a parameter is: the role by which an initialisation scheme draws and scales it."""

import dataclasses
import enum
from typing import Any, Literal

# What is done to a product; "gates": sigmoids and tanh side by side.
Activation = Literal["linear", "tanh", "relu", "gelu", "gelu_tanh", "gates"]


class Role(enum.StrEnum):
    """The part a parameter plays in a network."""

    EMBEDDING = "embedding"
    HIDDEN = "hidden"
    RECURRENT = "recurrent"
    GATE_BIAS = "gate bias"
    RESIDUAL_OUTPUT = "residual output"
    RESIDUAL_GAIN = "residual gain"
    READOUT = "readout"
    BIAS = "bias"
    GAIN = "gain"


@dataclasses.dataclass(frozen=True)
class Parameter:
    """The role of a parameter, the meaning of its axes, and where it stands.

    Attributes:
      role: the part it plays.
      fan_in: axes summed over by the product it takes part in.
      fan_out: axes the product gives out.
      gates: number of equal parts of the last axis that are separate matrices (a GRU's 3).
      gate_names: what those parts are called, where a scheme tells them apart.
      activation: what is done to the product.
      in_block: whether it stands in one of the model's residual blocks.
      reads_embedding: a kernel whose inputs are embeddings of a width of their own, which does
        not grow with the hidden width.
      second: the second of two biases that are added up.
      before_readout: a gain or bias on what the readout reads.
    """

    role: Role
    fan_in: tuple[int, ...] = ()
    fan_out: tuple[int, ...] = ()
    gates: int = 1
    gate_names: tuple[str, ...] = ()
    activation: Activation = "linear"
    in_block: bool = False
    reads_embedding: bool = False
    second: bool = False
    before_readout: bool = False


def dense(role: Role = Role.HIDDEN, gates: int = 1, **labels: Any) -> Parameter:
    """A kernel of shape (fan_in, fan_out); the labels are those of Parameter."""
    return Parameter(role, fan_in=(0,), fan_out=(1,), gates=gates, **labels)
