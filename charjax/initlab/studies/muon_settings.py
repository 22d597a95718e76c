"""Settings of the study of schemes under Muon: networks, schemes, rates and criterion."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from charjax.initlab.studies.study import Tier

# Momentum in all three, no clipping and no decay: they differ in how they precondition.
OPTIMISERS: dict[str, tuple[str, ...]] = {
    "AdamW": ("optim.kind=adamw", "optim.beta1=0.9", "optim.beta2=0.999"),
    "Muon": ("optim.kind=muon", "optim.momentum=0.95", "optim.beta1=0.9", "optim.beta2=0.999"),
    "SGD": ("optim.kind=sgd", "optim.momentum=0.9"),
}
PAIRS = (("AdamW", "Muon"), ("AdamW", "SGD"), ("Muon", "SGD"))


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, its text, and what it is trained with.

    Attributes:
      name: of its pieces and in sentences.
      words: its configuration, but for the optimiser, the scheme and the rate.
      described: in words.
      schemes: C of them.
      rates: by optimiser, exponents of 2, L of them, ascending.
      steps: of a run.
    """

    name: str
    words: tuple[str, ...]
    described: str
    schemes: tuple[str, ...]
    rates: tuple[tuple[str, tuple[int, ...]], ...]
    steps: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the runs, and of their judgement.

    Attributes:
      networks: one after the other.
      adam_ratio: under Muon, AdamW's rate (embeddings, readout, gains, biases) over Muon's.
      seeds: S; they are 0, 1, ...
      matters: nats by which a scheme has to be worse than the best.
      reliability: the least Kendall's tau of the rankings from two halves of the seeds.
      at_edge: the largest share of schemes whose best rate is at an end of its grid.
      resamples: of the seeds, for intervals.
    """

    networks: tuple[Network, ...]
    adam_ratio: float
    seeds: int
    matters: float = 0.05
    reliability: float = 0.5
    at_edge: float = 1 / 3
    resamples: int = 2000


_MLP = (
    "data.name=names",
    "data.layout=pairs",
    "model.kind=mlp",
    "model.context_length=3",
    "model.d_embed=10",
    "model.hidden=[64,64,64]",
    "model.activation=tanh",
    "train.batch_size=32",
)
_GPT = (
    "data.name=shakespeare",
    "model.kind=transformer",
    "model.n_layer=2",
    "model.n_head=4",
    "model.d_model=64",
    "model.tie_embeddings=false",
    "model.context_length=16",
    "train.batch_size=8",
)
# For any network: libraries' defaults, variances, orthogonal and identity matrices, data, zeros,
# and two that are bad: all weights much too small in a network without norms, and too large.
_SHARED = (
    *("default", "pytorch", "glorot_uniform", "he_normal", "orthogonal", "identity", "lsuv"),
    *("zero_readout", "gpt2", "naive"),
)

SETTINGS: dict[Tier, Settings] = {
    "cpu": Settings(
        networks=(
            Network(
                name="MLP",
                words=_MLP,
                described="an MLP on names: 3 characters, 3 tanh layers of 64, no norms, batch 32",
                schemes=(*_SHARED, "kaiming_tanh", "naive_readout"),
                rates=(
                    ("AdamW", (-11, -9, -7, -5, -3)),
                    ("Muon", (-9, -7, -5, -3, -1)),
                    ("SGD", (-7, -5, -3, -1, 1)),
                ),
                steps=1500,
            ),
            Network(
                name="GPT",
                words=_GPT,
                described="a GPT on shakespeare: 2 pre-norm blocks of width 64, 4 heads, context "
                "16, batch 8",
                schemes=(*_SHARED, "small_init", "zero_output"),
                rates=(
                    ("AdamW", (-11, -9, -7, -5, -3)),
                    ("Muon", (-9, -7, -5, -3, -1)),
                    ("SGD", (-8, -6, -4, -2, 0)),
                ),
                steps=250,
            ),
        ),
        adam_ratio=0.5,
        seeds=8,
    ),
    "trial": Settings(
        networks=(
            Network(
                name="MLP",
                words=(*_MLP[:-3], "model.hidden=[8,8]", "train.batch_size=8"),
                described="an MLP on names: 3 characters, 2 tanh layers of 8, batch 8",
                schemes=("default", "gpt2", "naive"),
                rates=(("AdamW", (-9, -5)), ("Muon", (-7, -3)), ("SGD", (-7, -3))),
                steps=60,
            ),
        ),
        adam_ratio=0.5,
        seeds=3,
        resamples=200,
    ),
}


def words_of(settings: Settings, network: Network, optimiser: str, scheme: str) -> list[str]:
    """Return the words of a configuration; its rates and seed are data of the program."""
    ratio = [f"optim.adam_learning_rate={settings.adam_ratio * 1e-3}"]
    return [
        *network.words,
        *OPTIMISERS[optimiser],
        *(ratio if optimiser == "Muon" else []),
        "optim.schedule=cosine",
        "optim.grad_clip=0.0",
        f"train.steps={network.steps}",
        # A run has diverged at its first step that is not finite.
        "train.max_skipped=1",
        f"init.scheme={scheme}",
    ]


def rates_of(network: Network, optimiser: str) -> NDArray[np.float64]:
    """Return the learning rates (L,) of an optimiser."""
    return np.exp2(np.asarray(dict(network.rates)[optimiser], np.float64))


def rules(settings: Settings) -> list[str]:
    """Return what is fixed before a run."""
    sentences = []
    for network in settings.networks:
        rates = "; ".join(
            f"{name} 2^{', 2^'.join(map(str, exponents))}" for name, exponents in network.rates
        )
        sentences += [
            f"{network.described}; {network.steps} steps. Learning rates: {rates}; a cosine from "
            "there to 0, no clipping, no decay.",
            f"Schemes of the {network.name}: {', '.join(network.schemes)}. They are libraries' "
            "defaults and published schemes that need no change of the architecture and no "
            "factors of learning rates, and some that are known to be bad.",
        ]
    return [
        *sentences,
        "SGD has a momentum of 0.9, AdamW betas of 0.9 and 0.999, Muon a momentum of 0.95. Muon "
        "trains hidden matrices; embeddings, readout, gains and biases are trained by AdamW, "
        f"whose rate goes along: {settings.adam_ratio:g} times Muon's.",
        f"{settings.seeds} seeds; a seed has the same batches under every scheme, rate and "
        "optimiser. The loss is the mean over the last tenth of the steps, of batches that few "
        "targets have been in before: less than one epoch is trained. A run that diverged, or "
        "ended above a uniform guess, counts as a uniform guess.",
        "A scheme is judged at the rate of its lowest mean loss. Pairs of schemes are compared by "
        "the swap test of the laboratory's reports, the choice of rate included, all pairs under "
        "one optimiser as one family; a scheme is distinguishable from the best one at an "
        "adjusted p below 0.05 and an interval without 0.",
        "A scheme matters if it is distinguishable from the best one and the 95 % interval of its "
        f"distance lies beyond {settings.matters:g} nats.",
        f"Intervals of spreads and of Kendall's tau-b: {settings.resamples} bootstrap samples of "
        "the seeds, the same for all schemes and optimisers, the best rates chosen anew in each; "
        "percentiles, widened for few seeds. Resampling adds noise to a ranking, so that an "
        "interval of tau reaches too low rather than too high.",
        "Two rankings differ if the interval of their tau lies below the lower of their two "
        "reliabilities, the mean tau of rankings from two halves of the seeds; below a "
        f"reliability of {settings.reliability:g} nothing is said.",
        '"Muon makes initialisation matter less" holds for a network if the interval of its '
        "spread less AdamW's lies below 0.",
        f"The grids are judged too narrow if more than {settings.at_edge:.0%} of the best rates "
        "are at an end of them. Rates, their ratio and the numbers of steps were chosen after "
        "pilot runs of 4 schemes per network at 7 rates, with 1 or 2 seeds from 1000 on.",
    ]
