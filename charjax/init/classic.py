"""Schemes for any family: libraries' defaults, variance scaling, the makemore lectures'."""

import functools
import math
from typing import Literal

from charjax.config import InitConfig
from charjax.errors import UserError
from charjax.init.draws import (
    ZERO,
    Draw,
    EmbeddingNormal,
    FanInNormal,
    GateFilled,
    LecunNormal,
    LogUnigram,
    Normal,
    OfKernel,
    Orthogonal,
    Scaled,
    TorchUniform,
    Uniform,
    VarianceScaling,
)
from charjax.init.lsuv import unit_variance
from charjax.init.metainit import STEPS, adjust_norms
from charjax.init.scheme import Rule, Scheme, rules_for
from charjax.models.roles import Role

# Default variance of the biases, as in Schoenholz et al. 2017.
_CRITICAL_B = math.sqrt(0.05)
_SMALL = Normal(0.01)
_DEFAULT = (
    "flax.linen (github.com/google/flax): LeCun normal kernels, N(0, 1/d) embeddings, orthogonal "
    "recurrent kernels"
)
# The notebooks of Karpathy's Neural Networks: Zero to Hero; part 3 is its lecture 4, part 5 its 6.
_NOTEBOOKS = "github.com/karpathy/nn-zero-to-hero"
_PART_3 = f"Building makemore Part 3 ({_NOTEBOOKS})"
_PART_5 = f"Building makemore Part 5 ({_NOTEBOOKS})"
_LECUN = "LeCun et al. 1998 (yann.lecun.com/exdb/publis/pdf/lecun-98b.pdf)"
_GLOROT = "Glorot and Bengio 2010 (proceedings.mlr.press/v9/glorot10a.html)"
_HE = "He et al. 2015 (arXiv:1502.01852)"


def default(_: InitConfig) -> Scheme:
    """Flax's defaults."""
    return _like_default(_DEFAULT)


def pytorch(_: InitConfig) -> Scheme:
    """PyTorch's defaults."""
    uniform = TorchUniform()
    return Scheme(
        "torch.nn (github.com/pytorch/pytorch): Linear U(1/sqrt(n)) with its bias, Embedding "
        "N(0, 1), RNN U(1/sqrt(width))",
        rules_for(uniform, OfKernel(uniform), embedding=Normal(1.0)),
    )


def normal(init: InitConfig) -> Scheme:
    """N(0, 1) or N(0, init.std**2)."""
    return Scheme(
        "weights N(0, init.std**2), biases zero; by default as a torch.nn.Embedding "
        "(github.com/pytorch/pytorch)",
        rules_for(Normal(_or(init.std, 1.0))),
    )


def zeros(_: InitConfig) -> Scheme:
    """Set all weights and biases to 0: only the readout's bias ever changes."""
    return Scheme(
        f"{_PART_3}: all weights 0, so that only the readout's bias learns",
        rules_for(ZERO),
        trait="learns_from_zeros",
    )


def uniform(init: InitConfig) -> Scheme:
    """U(-init.scale, init.scale), and 1 for the bias of an LSTM's forget gate.

    As train.lua of karpathy/char-rnn, which has a second bias of the gates too and leaves that one
    uniform. It reads symbols without an embedding of a width of their own.
    """
    draw = Uniform(_or(init.scale, 0.08))
    return Scheme(
        "char-rnn (github.com/karpathy/char-rnn): all U(-init.scale, init.scale), but an LSTM's "
        "forget bias 1",
        rules_for(draw, draw, gate_bias=GateFilled(draw, "forget", 1.0)),
    )


def lecun_normal(_: InitConfig) -> Scheme:
    """N(0, 1 / n)."""
    return _scaling(f"{_LECUN}: N(0, 1/n)", "fan_in", "normal", 1.0)


def lecun_uniform(_: InitConfig) -> Scheme:
    """U with variance 1 / n."""
    return _scaling(f"{_LECUN}: U of variance 1/n", "fan_in", "uniform", 1.0)


def glorot_normal(_: InitConfig) -> Scheme:
    """N(0, 2 / (n + m))."""
    source = f"{_GLOROT}: N(0, 2 / (n + m))"
    return _scaling(source, "fan_avg", "normal", 1.0)


def glorot_uniform(_: InitConfig) -> Scheme:
    """U(sqrt(6 / (n + m)))."""
    source = f"{_GLOROT}: U(sqrt(6 / (n + m)))"
    return _scaling(source, "fan_avg", "uniform", 1.0)


def he_normal(init: InitConfig) -> Scheme:
    """N(0, gain^2 / n), the gain by the activation."""
    source = f"{_HE}: N(0, gain^2 / n), the gain by the activation"
    return _scaling(source, "fan_in", "normal", _of_activation(init))


def he_uniform(init: InitConfig) -> Scheme:
    """U with variance gain^2 / n, the gain by the activation."""
    source = f"{_HE}, uniform: U(gain sqrt(3 / n)), the gain by the activation"
    return _scaling(source, "fan_in", "uniform", _of_activation(init))


def orthogonal(_: InitConfig) -> Scheme:
    """Orthogonal matrices, one per gate."""
    return Scheme(
        "Saxe et al. 2014 (arXiv:1312.6120): orthogonal kernels, embeddings N(0, 1/d)",
        rules_for(Orthogonal(), embedding=EmbeddingNormal()),
    )


def lsuv(_: InitConfig) -> Scheme:
    """Orthogonal, then every product's variance brought to 1 on a batch."""
    return Scheme(
        "Mishkin and Matas 2016 (arXiv:1511.06422), LSUV: orthonormal, then outputs of variance 1",
        rules_for(Orthogonal(), embedding=EmbeddingNormal(), without=(Role.RECURRENT,)),
        trait="is_linear_layers",
        adjust=unit_variance,
    )


def critical(init: InitConfig) -> Scheme:
    """N(0, sigma_w^2 / n) and N(0, sigma_b^2), by default on tanh's critical line."""
    sigma_b = _or(init.sigma_b, _CRITICAL_B)
    weights = FanInNormal(_or(init.sigma_w, _critical_sigma_w(sigma_b, "tanh")))
    biases = OfKernel(Normal(sigma_b))
    return Scheme(
        "Poole et al. 2016 (arXiv:1606.05340); Schoenholz et al. 2017 (arXiv:1611.01232): "
        "N(0, sigma_w^2 / n), N(0, sigma_b^2)",
        rules_for(weights, biases, embedding=Normal(1.0), readout=FanInNormal())
        | {Role.GATE_BIAS: Rule(biases)},
        readout_bias=Rule(ZERO),
    )


def critical_sigma_w(sigma_b: float | None, activation: str) -> float:
    """Return the sigma_w at which chi_1 = 1 for an activation of the user's own.

    Args:
      sigma_b: of the biases; None: that of `critical`.
      activation: its name.

    Raises:
      UserError: there is none at this sigma_b.
    """
    try:
        return _critical_sigma_w(_or(sigma_b, _CRITICAL_B), activation)
    except ValueError as error:
        raise UserError(
            f"init.scheme: 'critical' given; {error}: give init.sigma_w, or another init.sigma_b "
            "(0 for an activation such as ReLU)"
        ) from None


@functools.cache
def _critical_sigma_w(sigma_b: float, activation: str) -> float:
    """Return the sigma_w at which chi_1 = 1 (Schoenholz et al. 2017)."""
    # The theory imports scipy, which only this scheme needs.
    from charjax import theory

    point = theory.critical_point(theory.find_activation(activation), sigma_b**2)
    return math.sqrt(point.weight_variance)


def metainit(init: InitConfig) -> Scheme:
    """Draw the default, then find the norms at which gradients change least over a step."""
    return Scheme(
        f"{_DEFAULT}; then the norms by Dauphin and Schoenholz 2019 "
        "(papers.nips.cc/paper/9427), MetaInit: init.meta_steps of descent of the gradient "
        "quotient",
        rules_for(
            LecunNormal(), ZERO, embedding=EmbeddingNormal(), recurrent=Orthogonal(), without=()
        ),
        adjust=functools.partial(adjust_norms, steps=init.meta_steps or STEPS),
    )


def small_readout(_: InitConfig) -> Scheme:
    """Draw the default with a readout a hundredth as large."""
    return _like_default(
        f"{_DEFAULT}; readout x 0.01, as in {_PART_3}",
        readout=Scaled(LecunNormal(), 0.01),
        about=(Role.READOUT,),
    )


def zero_readout(_: InitConfig) -> Scheme:
    """Draw the default with a readout of zeros: the first loss is ln V exactly."""
    return _like_default(
        f"{_DEFAULT}; readout 0, as recommended in github.com/microsoft/mup/issues/7",
        readout=ZERO,
        about=(Role.READOUT,),
    )


def unigram_readout(_: InitConfig) -> Scheme:
    """Draw the default with a readout of zeros, its bias the text's log frequencies."""
    return _like_default(
        f"{_DEFAULT}; readout 0, its bias the log frequencies (Karpathy 2019, "
        "'init well', karpathy.github.io/2019/04/25/recipe)",
        readout=ZERO,
        readout_bias=LogUnigram(),
        about=(Role.READOUT,),
    )


def naive(_: InitConfig) -> Scheme:
    """Draw the first variant of the makemore lectures' part 3."""
    return Scheme(f"{_PART_3}, variant 1: everything N(0, 1)", rules_for(Normal(1.0), Normal(1.0)))


def naive_readout(_: InitConfig) -> Scheme:
    """Draw the second variant of part 3."""
    return Scheme(
        f"{_PART_3}, variant 2: readout x 0.01, its bias 0",
        rules_for(Normal(1.0), Normal(1.0), readout=_SMALL),
        readout_bias=Rule(ZERO),
    )


def naive_hidden(_: InitConfig) -> Scheme:
    """Draw the third variant of part 3."""
    return Scheme(
        f"{_PART_3}, variant 3: and hidden x 0.2, its bias x 0.01",
        rules_for(Normal(1.0), _SMALL, hidden=Normal(0.2), readout=_SMALL),
        readout_bias=Rule(ZERO),
    )


def kaiming_tanh(_: InitConfig) -> Scheme:
    """Draw the fourth and the fifth variants of part 3."""
    return Scheme(
        f"{_PART_3}, variants 4 and 5: hidden N(0, (5/3)**2 / n) ({_HE})",
        rules_for(Normal(1.0), _SMALL, hidden=FanInNormal(5 / 3), readout=_SMALL),
        readout_bias=Rule(ZERO),
    )


def lecun_readout(_: InitConfig) -> Scheme:
    """Draw the initialisation of the makemore lectures' part 5."""
    return Scheme(
        f"{_PART_5}: N(0, 1/n), readout x 0.1, embedding N(0, 1)",
        rules_for(FanInNormal(), embedding=Normal(1.0), readout=FanInNormal(0.1)),
    )


def _scaling(
    source: str,
    mode: Literal["fan_in", "fan_avg"],
    distribution: Literal["normal", "uniform"],
    gain: float | None,
) -> Scheme:
    """Variance scaling; embeddings N(0, 1/d) and the readout's gain 1 whatever the gain."""
    draw = VarianceScaling(mode, distribution, gain)
    readout = VarianceScaling(mode, distribution)
    return Scheme(
        f"{source}; embeddings N(0, 1/d)",
        rules_for(draw, embedding=EmbeddingNormal(), readout=readout),
    )


def _like_default(
    source: str,
    readout: Draw | None = None,
    readout_bias: Draw | None = None,
    about: tuple[Role, ...] = (),
) -> Scheme:
    special: dict[str, Draw] = {"embedding": EmbeddingNormal(), "recurrent": Orthogonal()}
    if readout is not None:
        special["readout"] = readout
    return Scheme(
        source,
        rules_for(LecunNormal(), ZERO, without=(), **special),
        readout_bias=Rule(readout_bias) if readout_bias else None,
        about=about,
        reads_text=isinstance(readout_bias, LogUnigram),
    )


def _of_activation(init: InitConfig) -> float | None:
    """Return None for the activation's gain, or 1 where init.gain takes its place."""
    return None if init.gain is None else 1.0


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
