"""What a parameter is: the role by which an initialisation scheme draws and scales it."""

import dataclasses
import enum


class Role(enum.StrEnum):
    """The part a parameter plays in a network."""

    EMBEDDING = "embedding"
    HIDDEN = "hidden"
    RECURRENT = "recurrent"
    GATE_BIAS = "gate bias"
    RESIDUAL_OUTPUT = "residual output"
    READOUT = "readout"
    BIAS = "bias"
    GAIN = "gain"


@dataclasses.dataclass(frozen=True)
class Parameter:
    """The role of a parameter and the meaning of its axes.

    Attributes:
      role: the part it plays.
      fan_in: axes summed over by the product it takes part in.
      fan_out: axes the product gives out.
      gates: number of equal parts of the last axis that are separate matrices (a GRU's 3).
    """

    role: Role
    fan_in: tuple[int, ...] = ()
    fan_out: tuple[int, ...] = ()
    gates: int = 1


def dense(role: Role = Role.HIDDEN, gates: int = 1) -> Parameter:
    """A kernel of shape (fan_in, fan_out)."""
    return Parameter(role, fan_in=(0,), fan_out=(1,), gates=gates)
