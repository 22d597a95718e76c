"""Schemes for residual networks: the size of each block's contribution to the stream."""

import dataclasses

from jax import Array

from charjax.config import InitConfig
from charjax.init.draws import (
    ZERO,
    Constant,
    EmbeddingNormal,
    Normal,
    OfAttention,
    ResidualNormal,
    Scaled,
    TorchUniform,
    Uniform,
    VarianceScaling,
    WidthNormal,
)
from charjax.init.scheme import Scheme, rules_for
from charjax.init.site import Site
from charjax.models.roles import Role

_BLOCKS = "has_residual_blocks"
_CELLS = (Role.RECURRENT, Role.GATE_BIAS)
_XAVIER_NORMAL = VarianceScaling("fan_avg", "normal")
_XAVIER_UNIFORM = VarianceScaling("fan_avg", "uniform")


def gpt2(_: InitConfig) -> Scheme:
    """N(0, 0.02), residual outputs smaller by depth."""
    return Scheme(
        "Radford et al. 2019; nanoGPT (github.com/karpathy/nanoGPT): N(0, 0.02), residual outputs "
        "/ sqrt(2L)",
        rules_for(Normal(0.02), residual_output=ResidualNormal(0.02)),
    )


def small_init(_: InitConfig) -> Scheme:
    """N(0, 2 / 5d) throughout."""
    return Scheme(
        "Nguyen and Salazar 2019 (arXiv:1910.05895), SmallInit: N(0, 2 / (d + 4d)), d the stream's "
        "width",
        rules_for(WidthNormal(2 / 5), without=_CELLS),
        trait=_BLOCKS,
    )


def tfixup(_: InitConfig) -> Scheme:
    """Xavier, with everything but queries and keys smaller by depth; no norms, no warm-up.

    A decoder without cross-attention has the residual branches of the paper's encoder, so it is
    the encoder's factor 0.67 L^(-1/4) that holds for them. Embeddings have the factor (9L)^(-1/4),
    and the symbols' are multiplied by sqrt(d) in the forward pass (model.scale_embeddings); a tied
    readout is the table without sqrt(d). All this as in layer6ai-labs/T-Fixup,
    fairseq/models/transformer.py, whose positions are sinusoids: a learned table of positions is
    drawn like the symbols', and is not multiplied. Queries and keys are Xavier's, as the paper has
    them; that code draws them smaller by sqrt(2).
    """
    factor, power = 0.67, -0.25
    smaller = Scaled(_XAVIER_UNIFORM, factor, power)
    rules = rules_for(
        _XAVIER_UNIFORM,
        embedding=Scaled(EmbeddingNormal(), 9**power, power),
        residual_output=smaller,
        hidden=OfAttention(Scaled(_XAVIER_UNIFORM, factor, power, "value"), smaller),
        without=_CELLS,
    )
    return Scheme(
        "Huang et al. 2020 (github.com/layer6ai-labs/T-Fixup): Xavier; values, outputs and MLP x "
        "0.67 L^(-1/4), embeddings x (9L)^(-1/4), and x sqrt(d) in the forward pass",
        rules,
        trait=_BLOCKS,
        changes_function=True,
        needs={"model.residual": ("plain",)},
        sets={"model.scale_embeddings": True},
    )


def deepnorm(_: InitConfig) -> Scheme:
    """Xavier with gain (8L)^(-1/4), but 1 for queries and keys."""
    beta, power = 8**-0.25, -0.25
    smaller = Scaled(_XAVIER_NORMAL, beta, power)
    rules = rules_for(
        _XAVIER_NORMAL,
        embedding=EmbeddingNormal(),
        residual_output=smaller,
        hidden=OfAttention(Scaled(_XAVIER_NORMAL, beta, power, "value"), smaller),
        without=_CELLS,
    )
    return Scheme(
        "Wang et al. 2022 (arXiv:2203.00555), DeepNorm, decoder: alpha = (2L)^(1/4), Xavier gain "
        "beta = (8L)^(-1/4)",
        rules,
        trait=_BLOCKS,
        changes_function=True,
        needs={"model.residual": ("deepnorm",)},
    )


def rezero(_: InitConfig) -> Scheme:
    """Every block is the identity at first."""
    return Scheme(
        "Bachlechner et al. 2020 (arXiv:2003.04887), ReZero: residual gains 0, Xavier kernels",
        rules_for(_XAVIER_UNIFORM, embedding=EmbeddingNormal(), residual_gain=ZERO, without=_CELLS),
        trait=_BLOCKS,
        needs={"model.residual": ("rezero",)},
        about=(Role.RESIDUAL_GAIN,),
    )


def layerscale(init: InitConfig) -> Scheme:
    """Every block is nearly the identity at first."""
    gain = Constant(init.epsilon) if init.epsilon else _ByDepth()
    return Scheme(
        "Touvron et al. 2021 (arXiv:2103.17239), LayerScale: residual gains epsilon, kernels "
        "N(0, 0.02)",
        rules_for(Normal(0.02), residual_gain=gain, without=_CELLS),
        trait=_BLOCKS,
        needs={"model.residual": ("layerscale",)},
        about=(Role.RESIDUAL_GAIN,),
    )


def fixup(_: InitConfig) -> Scheme:
    """Xavier smaller by depth, the last kernel of every branch 0; no norms.

    A branch of m layers has the factor L^(-1/(2m - 2)), L the number of branches, here two per
    block: m is 4 for attention and 2 for the MLP, in which the code has ReLU. A step of SGD then
    moves the function by as much at any depth through the MLPs, and by more the deeper through
    attention, of which queries and keys are no factors. Embeddings are multiplied by sqrt(d) in
    the forward pass (model.scale_embeddings), and a readout of its own begins at 0. All this as in
    fairseq/models/transformer_zero.py of that repository, whose queries, keys and values are drawn
    as one matrix, smaller by sqrt(2). Its script for CIFAR trains biases and gains at a tenth of
    the learning rate, with SGD; so does this scheme.
    """
    return Scheme(
        "Zhang et al. 2019 (arXiv:1901.09321; github.com/hongyi-zhang/Fixup), Fixup: L branches, "
        "their last kernels 0, attention x L^(-1/6), MLP x L^(-1/2); SGD: rates of biases and "
        "gains / 10",
        rules_for(
            _XAVIER_UNIFORM,
            embedding=EmbeddingNormal(),
            hidden=OfAttention(
                Scaled(_XAVIER_UNIFORM, 2 ** (-1 / 6), -1 / 6),
                Scaled(_XAVIER_UNIFORM, 2 ** (-1 / 2), -1 / 2),
            ),
            residual_output=ZERO,
            readout=ZERO,
            without=_CELLS,
        ),
        trait=_BLOCKS,
        changes_function=True,
        needs={"model.residual": ("fixup",), "model.activation": ("gelu", "gelu_tanh")},
        sets={"model.scale_embeddings": True},
        rates={"sgd": lambda optim: _tenth_of_scalars},
    )


def zero_output(_: InitConfig) -> Scheme:
    """PyTorch's defaults, the last kernel of every branch and the readout 0.

    A tied table is drawn as the readout that it is in the first of those records, which has the
    zeros in its branches; a readout of its own is 0 since the record of 2024-12-04.
    """
    uniform = TorchUniform()
    return Scheme(
        "modded-nanogpt (github.com/KellerJordan/modded-nanogpt), records of 2024-10-14 and "
        "2024-12-04: torch.nn's defaults, residual outputs 0, readout 0",
        rules_for(
            uniform,
            embedding=_TiedOrNot(),
            residual_output=ZERO,
            readout=ZERO,
            without=_CELLS,
        ),
        trait=_BLOCKS,
        about=(Role.RESIDUAL_OUTPUT,),
    )


def _tenth_of_scalars(site: Site) -> float:
    return 0.1 if site.parameter.role in (Role.BIAS, Role.RESIDUAL_GAIN) else 1.0


@dataclasses.dataclass(frozen=True)
class _TiedOrNot:
    """U(1/sqrt(d)) for a table that is the readout too (`torch.nn.Linear`'s), else N(0, 1)."""

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw a table."""
        draw = Uniform(site.width**-0.5) if site.tied else Normal(1.0)
        return draw(key, site)


@dataclasses.dataclass(frozen=True)
class _ByDepth:
    """0.1 up to 18 blocks, 1e-5 up to 24, 1e-6 beyond (Touvron et al. 2021)."""

    def __call__(self, key: Array, site: Site) -> Array:
        epsilon = 0.1 if site.depth <= 18 else 1e-5 if site.depth <= 24 else 1e-6
        return Constant(epsilon)(key, site)
