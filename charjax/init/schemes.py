"""Schemes of initialisation as data: for each role, the draw."""

import dataclasses
import difflib
import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array

from charjax.config import InitConfig
from charjax.errors import UserError
from charjax.init.draws import (
    Constant,
    Draw,
    EmbeddingNormal,
    FanInNormal,
    LecunNormal,
    Normal,
    Orthogonal,
    ResidualNormal,
    Site,
    TorchUniform,
    Uniform,
)
from charjax.models.roles import Parameter, Role


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How each kind of parameter is drawn.

    Attributes:
      source: the paper or program it is taken from.
      draws: the draw of each role; a model with a role that is not here cannot use the scheme.
      readout_bias: the draw of the readout's bias, where it differs from other biases.
    """

    source: str
    draws: Mapping[Role, Draw]
    readout_bias: Draw | None = None


ZERO, ONE = Constant(0.0), Constant(1.0)


def _weights(draw: Draw, bias: Draw = ZERO, **special: Draw) -> dict[Role, Draw]:
    """One draw for every weight, one for every bias; gains are one; `special` by role's name."""
    draws: dict[Role, Draw] = dict.fromkeys(Role, draw)
    draws |= {Role.BIAS: bias, Role.GATE_BIAS: bias, Role.GAIN: ONE}
    return draws | {Role[name.upper()]: value for name, value in special.items()}


_SMALL = Normal(0.01)
SCHEMES: dict[str, Callable[[InitConfig], Scheme]] = {
    "default": lambda _: Scheme(
        "flax.linen: LeCun normal kernels, N(0, 1/d) embeddings, orthogonal recurrent kernels",
        _weights(LecunNormal(), embedding=EmbeddingNormal(), recurrent=Orthogonal()),
    ),
    "pytorch": lambda _: Scheme(
        "torch.nn: Linear U(1/sqrt(n)) with its bias, Embedding N(0, 1), RNN U(1/sqrt(width))",
        _weights(TorchUniform(), TorchUniform(), embedding=Normal(1.0)),
    ),
    "normal": lambda init: Scheme(
        "weights N(0, init.std**2), biases zero", _weights(Normal(init.std or 1.0))
    ),
    "uniform": lambda init: Scheme(
        "char-rnn (Karpathy 2015): everything U(-init.scale, init.scale)",
        _weights(Uniform(init.scale or 0.08), Uniform(init.scale or 0.08)),
    ),
    "gpt2": lambda _: Scheme(
        "Radford et al. 2019; nanoGPT: N(0, 0.02), residual outputs / sqrt(2L)",
        _weights(Normal(0.02), residual_output=ResidualNormal(0.02)),
    ),
    "naive": lambda _: Scheme(
        "nn-zero-to-hero part 3, arm 1: everything N(0, 1)", _weights(Normal(1.0), Normal(1.0))
    ),
    "naive_readout": lambda _: Scheme(
        "nn-zero-to-hero part 3, arm 2: readout x 0.01, its bias 0",
        _weights(Normal(1.0), Normal(1.0), readout=_SMALL),
        readout_bias=ZERO,
    ),
    "naive_hidden": lambda _: Scheme(
        "nn-zero-to-hero part 3, arm 3: and hidden x 0.2, its bias x 0.01",
        _weights(Normal(1.0), _SMALL, hidden=Normal(0.2), readout=_SMALL),
        readout_bias=ZERO,
    ),
    "kaiming_tanh": lambda _: Scheme(
        "nn-zero-to-hero part 3, arms 4 and 5: hidden N(0, (5/3)**2 / n) (He et al. 2015)",
        _weights(Normal(1.0), _SMALL, hidden=FanInNormal(5 / 3), readout=_SMALL),
        readout_bias=ZERO,
    ),
    "lecun_readout": lambda _: Scheme(
        "nn-zero-to-hero part 5: N(0, 1/n) (LeCun et al. 1998), readout x 0.1, embedding N(0, 1)",
        _weights(FanInNormal(), embedding=Normal(1.0), readout=FanInNormal(0.1)),
    ),
}
# Which number of [init] belongs to which scheme.
_NUMBERS = {"std": "normal", "scale": "uniform"}


def scheme_names() -> list[str]:
    """The schemes that `init.scheme` can name."""
    return list(SCHEMES)


def find_scheme(init: InitConfig) -> Scheme:
    """The scheme a config names.

    Raises:
      UserError: no such scheme, or a number that it does not read.
    """
    if init.scheme not in SCHEMES:
        near = difflib.get_close_matches(init.scheme, SCHEMES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"init.scheme: {init.scheme!r} given; allowed: {', '.join(SCHEMES)}{hint}")
    for number, owner in _NUMBERS.items():
        if getattr(init, number) is not None and init.scheme != owner:
            raise UserError(
                f"init.{number}: {getattr(init, number)} given; only init.scheme = "
                f'"{owner}" reads it: leave it out'
            )
    return SCHEMES[init.scheme](init)


def initialise(
    scheme: Scheme, shapes: Any, roles: tuple[tuple[str, Parameter], ...], key: Array, depth: int
) -> Any:
    """Draw every parameter of a tree.

    Args:
      scheme: the scheme.
      shapes: the parameters as a nested dictionary of anything with a `.shape`.
      roles: (regular expression over a path, what that parameter is), as a model declares them.
      key: a typed key; each path has a stream of its own, so that a parameter's draw depends on
        neither the order nor the number of the others.
      depth: residual blocks of the model.

    Raises:
      ValueError: a parameter that is not covered by exactly one entry of `roles`.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    named = {_path_name(path): leaf for path, leaf in leaves}
    found = {name: parameter_of(roles, name) for name in named}
    drawn = []
    for name, leaf in named.items():
        site = _site(name, leaf.shape, found, named, depth)
        draw = scheme.draws[site.parameter.role]
        if scheme.readout_bias is not None and _is_readout_bias(name, found):
            draw = scheme.readout_bias
        drawn.append(draw(jax.random.fold_in(key, zlib.crc32(name.encode())), site))
    return jax.tree_util.tree_unflatten(tree, drawn)


def parameter_of(roles: tuple[tuple[str, Parameter], ...], path: str) -> Parameter:
    """What the parameter at a path is; exactly one entry must cover it."""
    matches = [parameter for pattern, parameter in roles if re.fullmatch(pattern, path)]
    if len(matches) != 1:
        raise ValueError(f"parameter {path!r} is covered by {len(matches)} roles, not by one")
    return matches[0]


def _path_name(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(part, "key", part)) for part in path)


def _site(
    name: str, shape: tuple[int, ...], found: dict[str, Parameter], named: dict, depth: int
) -> Site:
    parameter = found[name]
    siblings = [other for other in found if _module(other) == _module(name) and other != name]
    fan_in = math.prod(shape[axis] for axis in parameter.fan_in)
    if not parameter.fan_in:
        kernels = [other for other in siblings if found[other].fan_in]
        fan_in = named[kernels[0]].shape[0] if kernels else 1
    recurrent = [o for o in [name, *siblings] if found[o].role is Role.RECURRENT]
    width = named[recurrent[0]].shape[0] if recurrent else None
    return Site(name, shape, parameter, fan_in, width, depth)


def _module(path: str) -> str:
    return path.rpartition("/")[0]


def _is_readout_bias(name: str, found: dict[str, Parameter]) -> bool:
    return found[name].role is Role.BIAS and any(
        _module(other) == _module(name) and parameter.role is Role.READOUT
        for other, parameter in found.items()
    )
