"""Distributions to draw a parameter from, as frozen dataclasses.

A draw is called with a key and a Site (the shape and what is around it) and returns a float32
array of the site's shape. `fan_in` is written n below.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from charjax.models.roles import Parameter


@dataclasses.dataclass(frozen=True)
class Site:
    """Where a parameter stands.

    Attributes:
      path: its name in the tree, joined by "/".
      shape: its shape.
      parameter: its role and the meaning of its axes.
      fan_in: inputs summed over; a bias has that of the kernel beside it.
      recurrent_width: width of the recurrent kernel in the same cell, else None.
      depth: residual blocks in the model.
    """

    path: str
    shape: tuple[int, ...]
    parameter: Parameter
    fan_in: int
    recurrent_width: int | None
    depth: int


class Draw(Protocol):
    """Something a parameter can be drawn from."""

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw a float32 array of the site's shape."""
        ...


@dataclasses.dataclass(frozen=True)
class Constant:
    """Every entry the same."""

    value: float

    def __call__(self, key: Array, site: Site) -> Array:
        """Fill the shape; the key is not used."""
        return jnp.full(site.shape, self.value, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Normal:
    """N(0, std**2), not truncated."""

    std: float

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw from N(0, std**2)."""
        return self.std * jax.random.normal(key, site.shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class FanInNormal:
    """N(0, gain**2 / n), not truncated (He et al. 2015, eq. 10, for gain**2 = 2)."""

    gain: float = 1.0

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw from N(0, gain**2 / n)."""
        return Normal(self.gain / math.sqrt(site.fan_in))(key, site)


@dataclasses.dataclass(frozen=True)
class ResidualNormal:
    """N(0, std**2 / 2L): the 2L residual outputs add up to one (Radford et al. 2019, sec. 2.3)."""

    std: float

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw from N(0, std**2 / 2L), L the model's depth."""
        return Normal(self.std / math.sqrt(2 * max(1, site.depth)))(key, site)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """U(-scale, scale)."""

    scale: float

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw from U(-scale, scale)."""
        return jax.random.uniform(key, site.shape, jnp.float32, -self.scale, self.scale)


@dataclasses.dataclass(frozen=True)
class TorchUniform:
    """U(-1/sqrt(n), 1/sqrt(n)): `torch.nn.Linear`; within a recurrent cell n is its width."""

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw from U(-1/sqrt(n), 1/sqrt(n))."""
        return Uniform(1 / math.sqrt(site.recurrent_width or site.fan_in))(key, site)


@dataclasses.dataclass(frozen=True)
class LecunNormal:
    """N(0, 1/n) truncated at two standard deviations (LeCun et al. 1998): `nn.Dense`'s own."""

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw each gate's matrix; n does not depend on the number of gates."""
        return nn.initializers.lecun_normal()(key, site.shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class EmbeddingNormal:
    """N(0, 1/d), d the width of an embedding: `nn.Embed`'s own."""

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw from N(0, 1/d)."""
        return Normal(1 / math.sqrt(site.shape[-1]))(key, site)


@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """An orthogonal matrix for each gate (Saxe et al. 2014)."""

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw every gate's square matrix on its own."""
        gates = site.parameter.gates
        rows, columns = site.shape[0], site.shape[1] // gates
        draw = nn.initializers.orthogonal()
        parts = [draw(k, (rows, columns), jnp.float32) for k in jax.random.split(key, gates)]
        return jnp.concatenate(parts, axis=1)
