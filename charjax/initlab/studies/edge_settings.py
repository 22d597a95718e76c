"""Settings of the study of the edge of stability: runs, thresholds and criterion."""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from charjax.initlab.studies.study import Tier

Kind = Literal["gradient descent", "momentum", "Adam"]


class Optimiser(NamedTuple):
    """An optimiser, and the curvature at which a quadratic becomes unstable under it.

    Attributes:
      words: its settings, without the rate.
      measurement: the curvature, of `charjax.initlab.measurements`.
      curvature: its name in a sentence.
      beta: of the momentum.
      is_averaged: the momentum is a weighted mean of gradients, not a sum.
      threshold: as a formula.
    """

    words: tuple[str, ...]
    measurement: str
    curvature: str
    beta: float
    is_averaged: bool
    threshold: str

    def threshold_at(self, rate: float) -> float:
        """Return the largest curvature at which a quadratic is stable.

        2 / rate without momentum (Cohen et al. 2021, arXiv:2103.00065), (2 + 2 beta) / rate with
        Polyak's (Andreyev et al. 2026, arXiv:2604.14108), and under Adam that over 1 - beta of the
        preconditioned curvature, 38 / rate at beta1 = 0.9 (Cohen et al. 2022, arXiv:2207.14484).
        """
        shrink = 1 - self.beta if self.is_averaged else 1.0
        return (2 + 2 * self.beta) / (shrink * rate)


OPTIMISERS: dict[str, Optimiser] = {
    "gradient descent": Optimiser(
        ("optim.kind=sgd",), "sharpness", "sharpness", 0.0, False, "2 / rate"
    ),
    "momentum": Optimiser(
        ("optim.kind=sgd", "optim.momentum=0.9"), "sharpness", "sharpness", 0.9, False, "3.8 / rate"
    ),
    "Adam": Optimiser(
        ("optim.kind=adamw", "optim.beta1=0.9", "optim.beta2=0.999", "optim.weight_decay=0.0"),
        "preconditioned_sharpness",
        "preconditioned sharpness",
        0.9,
        True,
        "38 / rate",
    ),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Networks, text and criterion of a tier.

    Attributes:
      schemes: C of them.
      optimisers: name of `OPTIMISERS` and L learning rates, ascending.
      seeds: S; they are 0, 1, ...
      steps: of a run.
      measurements: evenly spaced ones, besides those at 0, 1, 2, 4, ... 64.
      contexts: the most in the batch.
      context: characters of a context.
      embed: width of an embedding.
      hidden: widths of the tanh layers.
      reach: part of the threshold from which a measured value counts as reaching it.
      after: the first step at which it may.
      tail: part of the steps, the last ones, in which it settles.
      down: most times the threshold at which a run that began above it has come down.
      fitted: nats above the floor of the loss, below which a run has fitted its batch.
      percent: distance of the settled value from the threshold that a check allows.
      residual: most that an eigenvalue's residual may be, as a part of it.
      permutations: of the schemes, in the test of whether they differ.
    """

    schemes: tuple[str, ...]
    optimisers: tuple[tuple[Kind, tuple[float, ...]], ...]
    seeds: int
    steps: int
    measurements: int
    contexts: int
    context: int = 8
    embed: int = 10
    hidden: tuple[int, ...] = (64, 64)
    reach: float = 0.95
    after: int = 50
    tail: float = 1 / 3
    down: float = 1.25
    fitted: float = 0.05
    percent: float = 10.0
    residual: float = 0.02
    permutations: int = 9999

    @property
    def at(self) -> tuple[int, ...]:
        """The measured steps, ascending."""
        early = [0, *(2**k for k in range(7))]
        even = np.linspace(0, self.steps, self.measurements + 1)
        return tuple(sorted({*(s for s in early if s < self.steps), *map(int, np.rint(even))}))


SETTINGS: dict[Tier, Settings] = {
    "cpu": Settings(
        schemes=(
            "naive",
            "kaiming_tanh",
            "default",
            "pytorch",
            "lecun_normal",
            "orthogonal",
            "identity",
            "lsuv",
            "metainit",
            "small_readout",
            "zero_readout",
            "critical",
        ),
        optimisers=(
            ("gradient descent", (0.125, 0.25, 0.5)),
            ("momentum", (0.1, 0.2, 0.4)),
            ("Adam", (0.003, 0.01, 0.03)),
        ),
        seeds=4,
        steps=1600,
        measurements=32,
        contexts=512,
    ),
    "trial": Settings(
        schemes=("default", "zero_readout"),
        optimisers=(("gradient descent", (0.5,)), ("Adam", (0.03,))),
        seeds=2,
        steps=60,
        measurements=6,
        contexts=64,
        context=3,
        embed=4,
        hidden=(8,),
        after=10,
        permutations=99,
    ),
}


def rules(settings: Settings) -> list[str]:
    """Return sentences on what is fixed before a run."""
    grids = "; ".join(
        f"{name} at the rates {', '.join(f'{rate:g}' for rate in rates)}, the threshold of its "
        f"{OPTIMISERS[name].curvature} being {OPTIMISERS[name].threshold}"
        for name, rates in settings.optimisers
    )
    layers = " and ".join(map(str, settings.hidden))
    return [
        f"Network: the names MLP with {settings.context} characters of context, embeddings of "
        f"{settings.embed} and tanh layers of {layers}; no norm, no dropout, float32.",
        f"Batch: every context of the first names of the training split, {settings.contexts} at "
        "most; the same at every step, in another order. Cross-entropy in nats.",
        f"Schemes: {', '.join(settings.schemes)}. Seeds: 0 to {settings.seeds - 1}, which draw the "
        "parameters.",
        f"{grids}. The rate is constant: no warm-up, decay, clipping or weight decay; momentum is "
        "Polyak's, Adam has beta1 = 0.9, beta2 = 0.999 and both corrections of bias.",
        f"{settings.steps:,} steps; measured at 0, 1, 2, 4, ... 64 and at {settings.measurements} "
        "even distances: 32 products of Lanczos's method on the whole batch. A value whose "
        f"residual is over {100 * settings.residual:g} % of it does not count.",
        f"At the edge: a value of at least {settings.reach:g} of the threshold is measured in the "
        f"last {100 * settings.tail:.0f} % of the steps. It settles at the median of those steps. "
        f"Left the edge: at least {settings.reach:g} was measured at step {settings.after} or "
        "later, but not in those. Below: neither. Untrained: a loss that is not finite, or at the "
        "end not below that of a uniform guess.",
        "Adam's preconditioner is that of the step which follows, both corrections of bias in it: "
        "at step 0 the size of the gradient, times 1 - beta1.",
        "No level of the loss is asked: names share their beginnings, so the loss has a floor, at "
        "which the curvature does not vanish. A run within "
        f"{settings.fitted:g} nats of it has fitted its batch.",
        f"A run that begins above the threshold has come down if it settles at {settings.down:g} "
        "times the threshold at most, or ends below it.",
        "The settled value of an optimiser is the median over schemes and rates at the edge, of "
        "each seed; mean and 95 % interval (bootstrap, widened for few values) are over the seeds. "
        f"It agrees with the threshold if it lies within {settings.percent:g} %.",
        "Whether schemes differ: each run's settled value less the mean at its rate; the mean over "
        f"rates, of each scheme and seed; {settings.permutations:,} permutations of the schemes "
        "within the seeds, by the variance of the schemes' means; the optimisers are a family "
        "(Holm).",
        "Rates, steps and batch were chosen by about 65 pilot runs with seeds from 1000 on, of "
        "three to six schemes under each optimiser.",
    ]
