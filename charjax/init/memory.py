"""Schemes for recurrent networks: the time that a state persists at first."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from charjax.config import InitConfig
from charjax.init.draws import (
    EmbeddingNormal,
    Identity,
    LecunNormal,
    Normal,
    Orthogonal,
)
from charjax.init.scheme import Scheme, rules_for
from charjax.init.site import Site
from charjax.models.roles import Role

# The gate that keeps the state, of an LSTM or a GRU (whose z keeps), and the one that writes.
_KEEPS, _WRITES = ("forget", "update"), ("input",)


def irnn(_: InitConfig) -> Scheme:
    """Set the recurrent kernel to the identity, with ReLU."""
    return Scheme(
        "Le, Jaitly and Hinton 2015 (arXiv:1504.00941), IRNN: recurrent kernel the identity, other "
        "weights N(0, 0.001^2), biases 0",
        rules_for(Normal(0.001), recurrent=Identity()),
        trait="is_plain_recurrence",
        needs={"model.activation": ("relu",)},
    )


def forget_bias(init: InitConfig) -> Scheme:
    """Draw the default with a forget gate that is open at first."""
    bias = 1.0 if init.forget_bias is None else init.forget_bias
    return Scheme(
        "Gers et al. 2000 (doi.org/10.1162/089976600300015015); Jozefowicz et al. 2015 "
        "(proceedings.mlr.press/v37/jozefowicz15.html): the forget gate's bias 1 (a GRU's z)",
        _rules(KeepBias(bias)),
        trait="has_forget_gate",
        about=(Role.GATE_BIAS,),
    )


def chrono(init: InitConfig) -> Scheme:
    """Draw the default with forget gates that keep a state for 1 to longest_delay steps."""
    longest = init.longest_delay or 64
    return Scheme(
        "Tallec and Ollivier 2018 (arXiv:1804.11188): b_f = log U(1, T - 1), b_i = -b_f (a GRU's "
        "b_z = b_f)",
        _rules(ChronoBias(longest)),
        trait="has_forget_gate",
        about=(Role.GATE_BIAS,),
    )


@dataclasses.dataclass(frozen=True)
class KeepBias:
    """`bias` for the gate that keeps the state, else 0; the second of two biases is all 0."""

    bias: float

    def __call__(self, key: Array, site: Site) -> Array:
        """Fill the gates; the key is not used."""
        bias_H = jnp.full(_width(site), self.bias, jnp.float32)
        return _assemble(site, dict.fromkeys(_KEEPS, bias_H))


@dataclasses.dataclass(frozen=True)
class ChronoBias:
    """log U(1, T - 1) for the gate that keeps, its negative for the one that writes.

    Attributes:
      longest: T, in steps.
    """

    longest: int

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw once for the two gates."""
        delays = jax.random.uniform(key, (_width(site),), jnp.float32, 1.0, self.longest - 1.0)
        bias_H = jnp.log(delays)
        return _assemble(site, dict.fromkeys(_KEEPS, bias_H) | dict.fromkeys(_WRITES, -bias_H))


def _rules(gate_bias: KeepBias | ChronoBias) -> dict:
    return rules_for(
        LecunNormal(), embedding=EmbeddingNormal(), recurrent=Orthogonal(), gate_bias=gate_bias
    )


def _width(site: Site) -> int:
    return site.shape[0] // site.parameter.gates


def _assemble(site: Site, named: dict[str, Array]) -> Array:
    """Join the gates' biases, 0 where none is named."""
    zero = jnp.zeros(_width(site), jnp.float32)
    parts = [named.get(name, zero) for name in site.parameter.gate_names]
    return jnp.concatenate([zero] * len(parts) if site.parameter.second else parts)
