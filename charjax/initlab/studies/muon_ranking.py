"""Rankings of a network's schemes at their best rates, and the agreement of two rankings.

Letters: C schemes, L learning rates, S seeds, B resamples of the seeds.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from charjax.initlab.report.swaps import compare_all
from charjax.initlab.statistics import LEVEL, Comparison
from charjax.initlab.studies.muon_ranks import (
    Array,
    Estimate,
    all_seeds,
    capped,
    estimate,
    reliability,
    resamples,
    spreads,
    tau_b,
    tuned,
)
from charjax.initlab.studies.muon_settings import Network, Settings
from charjax.initlab.studies.study import Data


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The schemes of a network under one optimiser.

    Attributes:
      network: the network.
      optimiser: its name.
      matters: nats by which a scheme has to be worse than the best.
      losses_CLS: of every run, at most that of a uniform guess.
      worthless_CLS: runs that diverged, or ended above a uniform guess.
      samples_BS: weights of resampled seeds.
    """

    network: Network
    optimiser: str
    matters: float
    losses_CLS: Array
    worthless_CLS: Any
    samples_BS: Array

    @property
    def seeds(self) -> int:
        """S."""
        return int(self.losses_CLS.shape[-1])

    @functools.cached_property
    def tuned_losses(self) -> Array:
        """Mean loss (C,) of each scheme at its best rate."""
        loss_C: Array = tuned(self.losses_CLS, all_seeds(self.seeds))[0]
        return loss_C

    @functools.cached_property
    def resampled(self) -> Array:
        """Loss (B, C) of each resample of the seeds, the best rates chosen anew."""
        return tuned(self.losses_CLS, self.samples_BS)

    @property
    def best(self) -> int:
        """Place of the best scheme; the first of equal ones."""
        return int(np.argmin(self.tuned_losses))

    @functools.cached_property
    def best_rates(self) -> Any:
        """Place (C,) of each scheme's best rate; the lowest of equal ones."""
        return self.losses_CLS.mean(-1).argmin(-1)

    @property
    def at_edge(self) -> Any:
        """True (C,) where the best rate is the first or the last of the grid."""
        last = self.losses_CLS.shape[1] - 1
        return (self.best_rates == 0) | (self.best_rates == last)

    @property
    def worthless(self) -> Any:
        """Number (C,) of seeds that diverged at the best rate, or ended above a uniform guess."""
        return self.worthless_CLS[np.arange(len(self.best_rates)), self.best_rates].sum(-1)

    @functools.cached_property
    def behind(self) -> list[Comparison | None]:
        """Each scheme against the best one, in the family of all pairs; None for the best."""
        if self.seeds < 2:
            return [None] * len(self.tuned_losses)
        (found,) = compare_all([self.losses_CLS])
        return [self._against_best(found, place) for place in range(len(self.tuned_losses))]

    def _against_best(
        self, found: dict[tuple[int, int], Comparison], place: int
    ) -> Comparison | None:
        if place == self.best:
            return None
        if place < self.best:
            return found[place, self.best]
        one = found[self.best, place]
        return dataclasses.replace(one, mean=-one.mean, low=-one.high, high=-one.low)

    @property
    def worse(self) -> list[int]:
        """Places of the schemes that are distinguishable from the best one."""
        return [c for c, one in enumerate(self.behind) if one and one.verdict == "worse"]

    @property
    def mattering(self) -> list[int]:
        """Places of those whose interval lies beyond `matters`, the worst first."""
        beyond = [
            c
            for c, one in enumerate(self.behind)
            if one and one.adjusted_p < LEVEL and one.low > self.matters
        ]
        return sorted(beyond, key=lambda c: -self.tuned_losses[c])

    def spread(self, which: int) -> Estimate:
        """Return the worst less the best scheme (0), or the median less the best (1)."""
        value = float(spreads(self.tuned_losses[None])[which][0])
        return estimate(value, spreads(self.resampled)[which], self.seeds)

    @functools.cached_property
    def reliability(self) -> float:
        """Mean tau-b of rankings from two halves of the seeds."""
        return reliability(self.losses_CLS, self.losses_CLS)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Two rankings of one network's schemes.

    Attributes:
      one: under an optimiser.
      other: under another.
    """

    one: Ranking
    other: Ranking

    @functools.cached_property
    def tau(self) -> Estimate:
        """Kendall's tau-b of the two."""
        value = float(tau_b(self.one.tuned_losses[None], self.other.tuned_losses[None])[0])
        samples_B = tau_b(self.one.resampled, self.other.resampled)
        return estimate(value, samples_B, self.one.seeds, limit=1.0)

    @functools.cached_property
    def of_halves(self) -> float:
        """Mean tau-b of the one ranking from half of the seeds, the other from the other half."""
        return reliability(self.one.losses_CLS, self.other.losses_CLS)

    @property
    def reliability(self) -> float:
        """The lower one of the two rankings' own."""
        return float(np.min([self.one.reliability, self.other.reliability]))

    def verdict(self, least: float) -> str:
        """Return "differ", "differ no more than noise explains" or "unclear"."""
        if not math.isfinite(self.reliability) or self.reliability < least:
            return "unclear"
        if not math.isfinite(self.tau.high):
            return "unclear"
        differ = self.tau.high < self.reliability
        return "differ" if differ else "differ no more than noise explains"

    def less_spread(self, which: int) -> Estimate:
        """Return the second one's spread less the first one's; `which` as of `spread`."""
        value = self.other.spread(which).value - self.one.spread(which).value
        samples_B = spreads(self.other.resampled)[which] - spreads(self.one.resampled)[which]
        return estimate(value, samples_B, self.one.seeds)


def rankings_of(settings: Settings, data: Data, network: Network) -> dict[str, Ranking]:
    """Return the rankings of a network by optimiser."""
    uniform = data["uniform"][network.name]
    samples_BS = resamples(settings.seeds, settings.resamples)
    found = {}
    for optimiser, _ in network.rates:
        raw = np.asarray(data["losses"][network.name][optimiser], np.float64)
        worthless = ~(np.isfinite(raw) & (raw < uniform))
        losses_CLS = capped(raw, uniform)
        found[optimiser] = Ranking(
            network, optimiser, settings.matters, losses_CLS, worthless, samples_BS
        )
    return found
