"""The site of a parameter: everything that its draw and its factors may depend on."""

import dataclasses
import math
from typing import Any

import jax
from jax import Array

from charjax.models.roles import Parameter, Role, Roles, parameter_of


@dataclasses.dataclass(frozen=True)
class Site:
    """A parameter's shape and surroundings in the model.

    Attributes:
      path: its name in the tree, joined by "/".
      shape: its shape.
      parameter: its role and the meaning of its axes.
      fan_in: inputs summed over; a bias has that of the kernel beside it.
      fan_out: outputs of one gate.
      recurrent_width: width of the recurrent kernel in the same cell, else None.
      beside: of a bias, the role of the kernel it is added to; None in a norm.
      depth: residual blocks in the model.
      width: of the readout's input: in a transformer, the residual stream's.
      tied: the embedding is the readout too.
      own_width: embeddings have a width of their own, which a kernel reads.
      log_unigram_V: logarithms of the symbols' frequencies in the training text, where a scheme
        reads them.
    """

    path: str
    shape: tuple[int, ...]
    parameter: Parameter
    fan_in: int
    fan_out: int
    recurrent_width: int | None
    beside: Role | None
    depth: int
    width: int
    tied: bool
    own_width: bool
    log_unigram_V: Array | None = None


def find_sites(
    shapes: Any, roles: Roles, depth: int, log_unigram_V: Array | None = None
) -> list[Site]:
    """Return the site of every leaf, in the tree's order; arguments as of `initialise`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(shapes)
    named = {_path_name(path): leaf.shape for path, leaf in leaves}
    found = {name: parameter_of(roles, name) for name in named}
    readouts = [name for name, parameter in found.items() if parameter.role is Role.READOUT]
    tables = [name for name, parameter in found.items() if parameter.role is Role.EMBEDDING]
    width = named[readouts[0]][0] if readouts else max((named[t][-1] for t in tables), default=0)
    sites = []
    for name, shape in named.items():
        parameter = found[name]
        kernels = [o for o in found if found[o].fan_in and _module(o) == _module(name)]
        recurrent = [o for o in kernels if found[o].role is Role.RECURRENT]
        kernel = name if parameter.fan_in else kernels[0] if kernels else None
        fan_in = math.prod(named[kernel][axis] for axis in found[kernel].fan_in) if kernel else 1
        fan_out = math.prod(shape[axis] for axis in parameter.fan_out) // parameter.gates
        sites.append(
            Site(
                path=name,
                shape=shape,
                parameter=parameter,
                fan_in=fan_in,
                fan_out=fan_out,
                recurrent_width=named[recurrent[0]][0] if recurrent else None,
                beside=found[kernel].role if kernel and kernel != name else None,
                depth=depth,
                width=width or fan_in,
                tied=not readouts,
                own_width=any(other.reads_embedding for other in found.values()),
                log_unigram_V=log_unigram_V,
            )
        )
    return sites


def _path_name(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(part, "key", part)) for part in path)


def _module(path: str) -> str:
    return path.rpartition("/")[0]
