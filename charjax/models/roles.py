"""Roles of parameters: by them an initialisation scheme draws and scales each one."""

import dataclasses
import enum
import re
from typing import Any, Literal

# The function of a product; "gates": sigmoids and tanh side by side; or one of the user's own.
Activation = Literal["linear", "tanh", "relu", "gelu", "gelu_tanh", "relu2", "silu", "gates"] | str


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


# The kernels between embedding and readout.
MATRIX_ROLES = (Role.HIDDEN, Role.RECURRENT, Role.RESIDUAL_OUTPUT)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """The role of a parameter, the meaning of its axes, and where it stands.

    Attributes:
      role: the part it plays.
      fan_in: axes summed over by the product it takes part in.
      fan_out: axes of the product's output.
      gates: number of equal parts of the last axis that are separate matrices (a GRU's 3).
      gate_names: the names of those parts, where a scheme draws them differently.
      activation: the function of the product.
      in_block: whether it stands in one of the model's residual blocks.
      reads_embedding: a kernel whose inputs are embeddings of a width of their own, which does
        not grow with the hidden width.
      reads_attention: a kernel whose inputs are what attention gives.
      places: vectors side by side in the inputs of a kernel that reads several positions.
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
    reads_attention: bool = False
    places: int = 1
    second: bool = False
    before_readout: bool = False


# A regular expression over a parameter's "/"-joined path, and that parameter's role.
Roles = tuple[tuple[str, Parameter], ...]


def dense(role: Role = Role.HIDDEN, gates: int = 1, **labels: Any) -> Parameter:
    """Return the role of a kernel (fan_in, fan_out); the labels are those of Parameter."""
    return Parameter(role, fan_in=(0,), fan_out=(1,), gates=gates, **labels)


def parameter_of(roles: Roles, path: str) -> Parameter:
    """Find the parameter at a path.

    Raises:
      ValueError: it is not covered by exactly one entry.
    """
    matches = [parameter for pattern, parameter in roles if re.fullmatch(pattern, path)]
    if len(matches) != 1:
        raise ValueError(f"parameter {path!r} is covered by {len(matches)} roles, not by one")
    return matches[0]
