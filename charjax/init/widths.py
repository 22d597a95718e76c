"""Schemes under which the best learning rate stays the same as a network grows.

With the width: all five. With the depth: CompleteP, for a transformer. Depth-muP does so where each
residual block is one layer, as its abstract says (Yang et al. 2023, arXiv:2310.02244); a block of
several layers, as a transformer's, has no such parametrisation there, and its best rate may move.

r is the width over init.base_width, l the depth over init.base_depth. At r = l = 1 all factors
are 1, and learning rates are meant for that size. The width is that of the readout's input (in a
transformer the stream, grown by heads of one width); a kernel that reads embeddings of a fixed
width does not count as wide.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal

from jax import Array

from charjax.config import InitConfig, OptimConfig
from charjax.init.draws import (
    ONE,
    ZERO,
    EmbeddingNormal,
    FanInNormal,
    Normal,
    OfAttention,
    Scaled,
)
from charjax.init.scheme import Factor, Rule, Scheme, unit
from charjax.init.site import Site
from charjax.models.roles import MATRIX_ROLES, Role

_WIDE = {"optim.kind": ("adamw", "sgd", "muon")}
_ADAM = {"optim.kind": ("adamw",)}


def mup(init: InitConfig) -> Scheme:
    """Scale with the width alone.

    AdamW's epsilon as in EleutherAI/nanoGPT-mup; the rates of SGD as in the package `mup`. Its
    decays there grow as the rates shrink, so that a step takes the same part of a parameter at
    every width; so they do here, where the decay is not scaled by a rate's factor.
    """
    source = (
        "Yang et al. 2022 (arXiv:2203.03466), table 8: muP; readout x 1/r; Adam: hidden learning "
        "rates and epsilon x 1/r; SGD: rates of vectors x r; Muon: as spectral"
    )
    scales = Scales.of(init, alpha=None)
    scheme = _parametrised(source, scales, "has_readout", _WIDE, epsilon=scales.epsilon)
    return dataclasses.replace(scheme, rates=_rates(scales, readout="vector"))


def mup_zero_query(init: InitConfig) -> Scheme:
    """Scale as mup, with queries 0 at first and scores q k / K, K the width of a head.

    As examples/Transformer/model.py of microsoft/mup has it, whose README recommends both. The
    norm of queries that are 0 has no useful gradient, so there is none (model.qk_norm).
    """
    scheme = mup(init)
    hidden = scheme.rules[Role.HIDDEN]
    query = OfAttention(Scaled(FanInNormal(), 0.0, gate="query"), FanInNormal())
    return dataclasses.replace(
        scheme,
        source=f"{scheme.source}; queries 0 and scores q k / K (github.com/microsoft/mup)",
        rules={**scheme.rules, Role.HIDDEN: dataclasses.replace(hidden, draw=query)},
        trait="has_residual_blocks",
        changes_function=True,
        needs={
            **scheme.needs,
            "model.attention_scale": ("inverse",),
            "model.qk_norm": (False,),
        },
        sets={"model.attention_scale": "inverse"},
    )


def depth_mup(init: InitConfig) -> Scheme:
    """Scale with the width, and with the depth by residual branches x l^(-1/2).

    The decay of a block follows its rate with the depth, as in AdamW whose groups of parameters
    differ in their rates alone: in EleutherAI/nanoGPT-mup (branch completep) at alpha = 1/2 a
    block's rate has the factor l^(-1/2) / r and its decay the factor r, and a step takes their
    product.
    """
    source = (
        "Yang et al. 2023 (arXiv:2310.02244), for Adam: depth-muP; branches, their rates and "
        "decays x l^(-1/2)"
    )
    scales = Scales.of(init, alpha=0.5)
    return _parametrised(source, scales, "has_residual_blocks", _ADAM, decay=scales.decay)


def completep(init: InitConfig) -> Scheme:
    """Scale with the width, and with the depth by residual branches x 1/l.

    AdamW's epsilon as in EleutherAI/nanoGPT-mup (branch completep), by equation 40 of the paper.
    """
    source = (
        "Dey et al. 2025 (arXiv:2505.01618), table 1, alpha = 1: CompleteP; residual branches "
        "x 1/l, AdamW's epsilon x 1/r, in blocks x 1/(r l)"
    )
    scales = Scales.of(init, alpha=1.0)
    return _parametrised(source, scales, "has_residual_blocks", _ADAM, epsilon=scales.epsilon)


def spectral(init: InitConfig) -> Scheme:
    """Give initial values and steps a spectral norm of order sqrt(m / n).

    A gradient has spectral norm of order sqrt(m / n) / (m / n): SGD's rate is m / n. Muon's step
    has a norm that is known by its shape; AdamW trains its readout, gains and biases.
    """
    scales = Scales.of(init, alpha=None)
    # A step of Adam of size eta has spectral norm eta sqrt(n m): eta ~ 1/n.
    wide = Rule(SpectralNormal(), scales.learning_rate)
    rules = dict.fromkeys((Role.HIDDEN, Role.RECURRENT, Role.RESIDUAL_OUTPUT, Role.READOUT), wide)
    still = {Role.EMBEDDING: Rule(Normal(1.0)), Role.GAIN: Rule(ONE), Role.RESIDUAL_GAIN: Rule(ONE)}
    biases = dict.fromkeys((Role.BIAS, Role.GATE_BIAS), Rule(ZERO))
    return Scheme(
        "Yang, Simon and Bernstein 2023 (arXiv:2310.17813), spectral parametrisation: std "
        "min(1, sqrt(m/n)) / sqrt(n); rates of Adam 1/n, SGD m/n, Muon sqrt(m/n) / its step's norm",
        rules | still | biases,
        trait="has_readout",
        needs=_WIDE | {"model.tie_embeddings": (False,)},
        rates=_rates(scales, readout="matrix"),
    )


def _rates(
    scales: "Scales", readout: Literal["vector", "matrix"]
) -> dict[str, Callable[[OptimConfig], Factor]]:
    """Return the learning-rate factors of SGD and Muon, for a kind of readout."""
    return {
        "sgd": lambda optim: functools.partial(scales.of_sgd, readout=readout),
        "muon": lambda optim: functools.partial(
            scales.of_muon, consistent_rms=optim.consistent_rms is not None, readout=readout
        ),
    }


@dataclasses.dataclass(frozen=True)
class SpectralNormal:
    """N(0, s^2) with s = min(1, sqrt(m / n)) / sqrt(n): a spectral norm of order sqrt(m / n)."""

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw; m is one gate's."""
        oblong = min(1.0, math.sqrt(site.fan_out / site.fan_in))
        return FanInNormal(oblong)(key, site)


@dataclasses.dataclass(frozen=True)
class Scales:
    """The factors of Adam's parametrisations.

    Attributes:
      base_width: r = 1.
      base_depth: l = 1.
      alpha: residual branches are multiplied by l^-alpha; None: depth changes nothing.
    """

    base_width: int
    base_depth: int
    alpha: float | None

    @staticmethod
    def of(init: InitConfig, alpha: float | None) -> "Scales":
        """Read the base sizes from a config."""
        return Scales(init.base_width or 128, init.base_depth or 4, alpha)

    def learning_rate(self, site: Site) -> float:
        """1/r for a wide kernel; in a block, times l^(alpha - 1)."""
        kernel = bool(site.parameter.fan_in)
        width = 1 / self._r(site) if kernel and not site.parameter.reads_embedding else 1.0
        deep = self.alpha is not None and site.parameter.in_block
        return width * (self._l(site) ** ((self.alpha or 0.0) - 1.0) if deep else 1.0)

    def of_sgd(self, site: Site, readout: Literal["vector", "matrix"]) -> float:
        """SGD's: outputs over inputs, relative to the base; r of a vector, whose input is 1.

        A readout with a multiplier 1/r ("vector") has r, as in the package `mup`.
        """
        parameter = site.parameter
        if parameter.role is Role.READOUT:
            return self._r(site) if readout == "vector" else 1 / self._r(site)
        if parameter.fan_in:
            return self._r(site) if parameter.reads_embedding else 1.0
        fixed = site.beside is Role.READOUT or (parameter.role is Role.EMBEDDING and site.own_width)
        return 1.0 if fixed else self._r(site)

    def of_muon(
        self, site: Site, consistent_rms: bool, readout: Literal["vector", "matrix"]
    ) -> float:
        """Muon's of a hidden matrix: sqrt(m / n) over its step's norm, relative to the base.

        Of all others Adam's.
        """
        if site.parameter.role not in MATRIX_ROLES:
            is_vector = site.parameter.role is not Role.READOUT or readout == "vector"
            return 1.0 if is_vector else 1 / self._r(site)
        wide_inputs = 1.0 if site.parameter.reads_embedding else self._r(site)
        n, m = float(site.fan_in), float(site.fan_out)
        small = n / wide_inputs, m / self._r(site)
        norm, base = (_muon_norm(*shape, consistent_rms) for shape in ((n, m), small))
        return math.sqrt((m / n) / (small[1] / small[0])) * base / norm

    def multiplier(self, site: Site) -> float:
        """1/r on the readout, or on what a tied one reads; l^-alpha on residual branches."""
        parameter = site.parameter
        if parameter.role is Role.READOUT or (parameter.before_readout and site.tied):
            return 1 / self._r(site)
        branch = Role.RESIDUAL_OUTPUT in (parameter.role, site.beside)
        return self._l(site) ** -self.alpha if branch and self.alpha is not None else 1.0

    def epsilon(self, site: Site) -> float:
        """1/r; in a block, times l^-alpha: a gradient's size is multiplied by as much."""
        deep = self.alpha is not None and site.parameter.in_block
        return (self._l(site) ** -(self.alpha or 0.0) if deep else 1.0) / self._r(site)

    def decay(self, site: Site) -> float:
        """In a block l^(alpha - 1), the part of the learning rate that follows the depth."""
        deep = self.alpha is not None and site.parameter.in_block
        return self._l(site) ** ((self.alpha or 0.0) - 1.0) if deep else 1.0

    def _r(self, site: Site) -> float:
        return site.width / self.base_width

    def _l(self, site: Site) -> float:
        return max(1, site.depth) / self.base_depth


def _muon_norm(n: float, m: float, consistent_rms: bool) -> float:
    """Return the spectral norm of Muon's step of an n x m matrix, up to a constant; see optax."""
    return math.sqrt(max(n, m)) if consistent_rms else math.sqrt(max(1.0, m / n))


@dataclasses.dataclass(frozen=True)
class InputNormal:
    """N(0, s^2), where s does not depend on the width.

    A table of a fixed width: s^2 = 1/d, that width. A stream's: 1/base_width, which is
    1/d at the base. If it is the readout too, s = 0.02 (GPT-2's): the readout should begin at 0
    (one of the authors, github.com/microsoft/mup/issues/7), which this one cannot, for then
    all symbols would be alike. With s^2 = 1/base_width its logits at first would have the
    size sqrt(base_width / d): as large as what the first steps learn, meaning nothing, and falling
    with the width.
    """

    base_width: int

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw, whatever the width that grows."""
        if site.own_width:
            return EmbeddingNormal()(key, site)
        return Normal(0.02 if site.tied else 1 / math.sqrt(self.base_width))(key, site)


def _parametrised(
    source: str,
    scales: Scales,
    trait: str,
    needs: Mapping[str, tuple[str, ...]],
    epsilon: Factor = unit,
    decay: Factor = unit,
) -> Scheme:
    # Yang et al. 2022 write muP in several tables that are equivalent. The readout's rate stays,
    # and its multiplier is 1/r: that is table 8, which the package `mup` follows and which leaves
    # tied embeddings possible (github.com/microsoft/mup/issues/7). A readout of its own begins at
    # 0, as recommended there: a random one adds to the logits' moves a part that falls with
    # sqrt(r), and hides what is to be seen.
    wide = Rule(FanInNormal(), scales.learning_rate, scales.multiplier, epsilon, decay)
    others = {Role.GAIN: ONE, Role.RESIDUAL_GAIN: ONE, Role.BIAS: ZERO, Role.GATE_BIAS: ZERO}
    return Scheme(
        source,
        {
            Role.EMBEDDING: Rule(InputNormal(scales.base_width), epsilon=epsilon, decay=decay),
            Role.READOUT: Rule(ZERO, multiplier=scales.multiplier, epsilon=epsilon, decay=decay),
            **dict.fromkeys((Role.HIDDEN, Role.RECURRENT, Role.RESIDUAL_OUTPUT), wide),
            **{
                role: Rule(draw, scales.learning_rate, scales.multiplier, epsilon, decay)
                for role, draw in others.items()
            },
        },
        # What is tied is read through the last norm's gain, which only these forms have.
        trait=trait,
        needs={**needs, "model.residual": ("pre_norm", "layerscale")},
    )
