"""Distributions to draw a parameter from, as frozen dataclasses.

A draw is called with a key and a Site (the shape and what is around it) and returns a float32
array of the site's shape. `fan_in` is written n, `fan_out` m; where a kernel holds several gates
side by side, both are those of one gate. Normal distributions are not truncated unless that is
said: `flax.linen.initializers.*_normal` are.
"""

import dataclasses
import functools
import math
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from charjax.errors import UserError
from charjax.init.site import Site
from charjax.models.roles import Activation

# Gains that compensate for an activation: sqrt(2) for ReLU, whose E[f(z)^2] and E[f'(z)^2] are
# 1/2 (He et al. 2015), so that gain^2 E[f'(z)^2] = 1; 5/3 for tanh, as PyTorch's `calculate_gain`
# and the makemore lectures have it, which is more than that.
# GELU, in both forms, is taken as ReLU, and so is the SiLU of a gate: times a linear factor of
# mean square 1 it then has mean square 1, too. Gates with their sigmoids are taken as linear.
# ReLU^2 is not homogeneous of degree 1: of z with variance s^2, E[max(0, z)^4] = 3/2 s^4, which is
# 1 at s = (2/3)^(1/4) for an input of mean square 1, such as a norm's. (Gradients then grow by 4/3
# on average: no gain keeps both.)
GAINS: dict[Activation, float] = {
    "linear": 1.0,
    "gates": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "gelu": math.sqrt(2),
    "gelu_tanh": math.sqrt(2),
    "silu": math.sqrt(2),
    "relu2": (2 / 3) ** 0.25,
}


def gain_of(activation: Activation) -> float:
    """Return the gain that compensates for an activation.

    Of the user's own it is 1 / sqrt(E[f'(z)^2]), z ~ N(0, 1), computed by quadrature.
    """
    return GAINS[activation] if activation in GAINS else _own_gain(activation)


@functools.cache
def _own_gain(activation: str) -> float:
    # The theory imports scipy.
    from charjax import theory

    moment = theory.derivative_moment(1.0, theory.find_activation(activation), 1)
    if not moment > 0:
        raise UserError(
            f"init.scheme: it draws by the activation's gain, and {activation!r} has none: its "
            "derivative is 0; choose another scheme"
        )
    return 1 / math.sqrt(moment)


class Draw(Protocol):
    """A distribution of a parameter."""

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw a float32 array of the site's shape."""
        ...


@runtime_checkable
class Demanding(Protocol):
    """A draw that not every shape suits."""

    def check_site(self, site: Site) -> None:
        """Raise a UserError for a site that does not suit."""
        ...


@dataclasses.dataclass(frozen=True)
class Constant:
    """Every entry the same."""

    value: float

    def __call__(self, key: Array, site: Site) -> Array:
        """Fill the shape; the key is not used."""
        return jnp.full(site.shape, self.value, jnp.float32)


ZERO, ONE = Constant(0.0), Constant(1.0)


@dataclasses.dataclass(frozen=True)
class Normal:
    """N(0, std**2)."""

    std: float

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw from N(0, std**2)."""
        return self.std * jax.random.normal(key, site.shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class FanInNormal:
    """N(0, gain**2 / n) (He et al. 2015 for gain**2 = 2)."""

    gain: float = 1.0

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw from N(0, gain**2 / n)."""
        return Normal(self.gain / math.sqrt(site.fan_in))(key, site)


@dataclasses.dataclass(frozen=True)
class WidthNormal:
    """N(0, variance / d), d the width of the residual stream."""

    variance: float

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw from N(0, variance / d)."""
        return Normal(math.sqrt(self.variance / site.width))(key, site)


@dataclasses.dataclass(frozen=True)
class ResidualNormal:
    """N(0, std**2 / 2L): the 2L residual outputs add up to one (Radford et al. 2019)."""

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
        """Draw all gates at once; n does not depend on their number."""
        return nn.initializers.lecun_normal()(key, site.shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class EmbeddingNormal:
    """N(0, 1/d), d the width of an embedding: `nn.Embed`'s own."""

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw from N(0, 1/d)."""
        return Normal(1 / math.sqrt(site.shape[-1]))(key, site)


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """Variance gain**2 / n ("fan_in") or 2 gain**2 / (n + m) ("fan_avg"), gate by gate.

    Attributes:
      mode: which.
      distribution: normal (whole) or uniform.
      gain: None: that of the site's activation.
    """

    mode: Literal["fan_in", "fan_avg"]
    distribution: Literal["normal", "uniform"]
    gain: float | None = 1.0

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw by `flax.linen.initializers.variance_scaling` over the labelled axes."""
        parameter = site.parameter
        gain = gain_of(parameter.activation) if self.gain is None else self.gain
        draw = nn.initializers.variance_scaling(
            gain**2,
            self.mode,
            self.distribution,
            in_axis=parameter.fan_in,
            out_axis=parameter.fan_out,
        )
        return _by_gate(draw, key, site)


@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """An orthogonal matrix for each gate, times a gain (Saxe et al. 2014)."""

    gain: float = 1.0

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw every gate's matrix separately; the vectors along its longer side are orthogonal."""
        return _by_gate(nn.initializers.orthogonal(self.gain), key, site, in_turn=True)


@dataclasses.dataclass(frozen=True)
class Identity:
    """The identity, in every gate (Le et al. 2015)."""

    def __call__(self, key: Array, site: Site) -> Array:
        """Build the identities; the key is not used."""
        rows, columns = site.shape[0], site.shape[1] // site.parameter.gates
        return jnp.tile(jnp.eye(rows, columns, dtype=jnp.float32), (1, site.parameter.gates))


@dataclasses.dataclass(frozen=True)
class GateFilled:
    """A draw, but a constant in one gate's part of the first bias of a cell.

    Attributes:
      draw: what is drawn.
      gate: the gate; a cell that has none of this name is drawn whole.
      value: the constant.
    """

    draw: Draw
    gate: str
    value: float

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw all gates, then fill one."""
        drawn = self.draw(key, site)
        names = site.parameter.gate_names
        if self.gate not in names or site.parameter.second:
            return drawn
        width = site.shape[0] // site.parameter.gates
        start = names.index(self.gate) * width
        return drawn.at[start : start + width].set(self.value)


@dataclasses.dataclass(frozen=True)
class OfKernel:
    """A draw for biases that are added to a product; those of norms are 0."""

    draw: Draw

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw, or fill with 0."""
        return (ZERO if site.beside is None else self.draw)(key, site)


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A draw times coefficient * L**exponent, L the model's depth.

    Attributes:
      draw: what is drawn.
      coefficient: see above.
      exponent: see above.
      gate: the one gate to multiply; unset: the whole.
    """

    draw: Draw
    coefficient: float
    exponent: float = 0.0
    gate: str | None = None

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw and multiply."""
        factor = self.coefficient * max(1, site.depth) ** self.exponent
        drawn = self.draw(key, site)
        if self.gate is None:
            return factor * drawn
        names = site.parameter.gate_names
        parts = jnp.split(drawn, site.parameter.gates, axis=-1)
        chosen = zip(names, parts, strict=True)
        return jnp.concatenate([factor * p if n == self.gate else p for n, p in chosen], axis=-1)


@dataclasses.dataclass(frozen=True)
class OfAttention:
    """One draw for queries, keys and values (side by side or apart), another for other kernels."""

    attention: Draw
    other: Draw

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw by the names of the gates."""
        is_attention = bool({"query", "value"} & set(site.parameter.gate_names))
        return (self.attention if is_attention else self.other)(key, site)


@dataclasses.dataclass(frozen=True)
class LogUnigram:
    """The logarithms of the symbols' frequencies in the training text."""

    def __call__(self, key: Array, site: Site) -> Array:
        """Return the logarithms; the key is not used."""
        if site.log_unigram_V is None:
            raise ValueError("a scheme that reads the text's frequencies got none")
        return jnp.asarray(site.log_unigram_V, jnp.float32)


def _by_gate(
    draw: nn.initializers.Initializer, key: Array, site: Site, *, in_turn: bool = False
) -> Array:
    """Draw each gate's matrix from a separate key, side by side."""
    gates = site.parameter.gates
    rows, columns = site.shape[0], site.shape[1] // gates
    parts: list[Array] = []
    for k in jax.random.split(key, gates):
        k = after(k, parts[-1]) if in_turn and parts else k
        parts.append(draw(k, (rows, columns), jnp.float32))
    return jnp.concatenate(parts, axis=1)


def factorises(draw: Any) -> bool:
    """Return true for a draw that factorises a matrix."""
    if isinstance(draw, Orthogonal) or getattr(draw, "is_factorised", False):
        return True
    inner = (getattr(draw, name, None) for name in ("draw", "attention", "other"))
    return any(part is not None and factorises(part) for part in inner)


def after(key: Array, earlier: Array) -> Array:
    """Return the key, made to depend on `earlier`.

    A factorisation of several matrices at once hands them to XLA's threads on a CPU, and one of
    these waits for it. As many at a time as there are threads wait for ever (jaxlib 0.10.2 hung so
    when runs started on two cores); so they go in turn.
    """
    # The compiler cannot know that this is 0: every draw is finite.
    nothing = jnp.isnan(earlier.reshape(-1)[0]).astype(jnp.uint32)
    data = jax.random.key_data(key) + nothing
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
