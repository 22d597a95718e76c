"""u-muP: weights of size 1, and static multipliers that give activations size 1, too.

All numbers are those of graphcore-research/unit-scaling (unit_scaling/functional.py, optim.py and
core/functional.py), which is the paper's code. There a residual stream is divided by
sqrt(1 + tau^2) with each branch; behind a norm that division can be left out, and every branch
then has the one factor n_layer^(-1/2): embeddings, attention and MLPs contribute as much as one
another. Gradients are not multiplied: the size of AdamW's step does not depend on theirs.

Letters: n inputs, K width of a head, T context.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from charjax.config import InitConfig
from charjax.init.draws import ONE, ZERO, Normal
from charjax.init.scheme import Rule, Scheme
from charjax.init.site import Site
from charjax.models.roles import Role

# The scales there that give activations of N(0, 1) a standard deviation of about 1.
_GELU = 2**0.2 * (2 / (1 - 1 / math.pi)) ** 0.4
ACTIVATIONS = {"gelu": _GELU, "gelu_tanh": _GELU, "swiglu": 2**0.75}


def umup(_: InitConfig) -> Scheme:
    """Draw N(0, 1), and scale in the forward pass; scores are q k / K."""
    return Scheme(
        "Blake et al. 2024 (arXiv:2407.17465; github.com/graphcore-research/unit-scaling), u-muP: "
        "weights N(0, 1) x n^(-1/2), readout x 1/n, branches x L^(-1/2); AdamW's rates x n^(-1/2), "
        "embeddings' d^(-1/2), in blocks x L^(-1/2), readout's 1",
        _rules(UnitScales()),
        trait="has_residual_blocks",
        changes_function=True,
        needs={
            "optim.kind": ("adamw",),
            "model.attention_scale": ("inverse",),
            "model.residual": ("pre_norm",),
            "model.tie_embeddings": (False,),
            "model.activation": tuple(ACTIVATIONS),
            "model.dropout": (0.0,),
        },
        sets={"model.attention_scale": "inverse"},
        rules_of=lambda model: _rules(UnitScales.of(model)),
    )


@dataclasses.dataclass(frozen=True)
class UnitScales:
    """The multipliers and AdamW's learning-rate factors.

    Attributes:
      attention: of what attention gives.
      activation: of an MLP's units.
      embedding: of each table that is added to the stream.
    """

    attention: float = 1.0
    activation: float = 1.0
    embedding: float = 1.0

    @staticmethod
    def of(model: Any) -> "UnitScales":
        """Compute them from the settings of a transformer."""
        # A family of the user's own, which is refused later, may have none of these settings.
        T, K = max(2, model.context_length or 64), model.head_width or 1
        # Between an average of all positions and the choice of one, by the size of the scores.
        chosen = 1 / (1 + 4 * K)
        average = math.sqrt(math.log(T) / T)
        return UnitScales(
            attention=average ** (chosen - 1),
            activation=ACTIVATIONS.get(getattr(model, "activation", ""), 1.0),
            # Two vectors of size 1 are added.
            embedding=2**-0.5 if getattr(model, "positions", "") == "learned" else 1.0,
        )

    def multiplier(self, site: Site) -> float:
        """n^(-1/2) of a kernel and its bias; see the class for what it reads."""
        parameter = site.parameter
        if parameter.role is Role.EMBEDDING:
            return self.embedding
        if parameter.role is Role.READOUT:
            return 1 / site.fan_in
        if not parameter.fan_in and site.beside is None:
            return 1.0
        scale = site.fan_in**-0.5
        if Role.RESIDUAL_OUTPUT in (parameter.role, site.beside):
            scale *= max(1, site.depth) ** -0.5
        if parameter.role is Role.RESIDUAL_OUTPUT:
            scale *= self.attention if parameter.reads_attention else self.activation
        return scale

    def learning_rate(self, site: Site) -> float:
        """n^(-1/2) of a kernel, d^(-1/2) of a table; in a block, times L^(-1/2)."""
        parameter = site.parameter
        if parameter.role is Role.READOUT:
            return 1.0
        depth = max(1, site.depth) ** -0.5 if parameter.in_block else 1.0
        if parameter.role is Role.EMBEDDING:
            return site.shape[-1] ** -0.5
        return depth * (site.fan_in**-0.5 if parameter.fan_in else 1.0)


def _rules(scales: UnitScales) -> Mapping[Role, Rule]:
    normal = (Role.EMBEDDING, Role.HIDDEN, Role.RESIDUAL_OUTPUT, Role.READOUT)
    draws = dict.fromkeys(normal, Normal(1.0)) | {Role.GAIN: ONE, Role.BIAS: ZERO}
    return {
        role: Rule(draw, scales.learning_rate, scales.multiplier) for role, draw in draws.items()
    }
