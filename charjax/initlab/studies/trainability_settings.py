"""Settings of the trainability map: cells, networks, training and criterion."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from charjax.initlab.studies.study import Tier


@dataclasses.dataclass(frozen=True)
class Grid:
    """The cells of a map.

    Attributes:
      activation: "tanh" or "relu".
      low: least σ_w².
      high: largest σ_w².
      columns: number of σ_w², evenly spaced.
      shallowest: least number of hidden layers.
      deepest: the largest.
      spacing: layers from one depth to the next.
      first_seed: seeds of the cells count from here; those of different maps do not meet.
    """

    activation: str
    low: float
    high: float
    columns: int
    shallowest: int
    deepest: int
    spacing: int
    first_seed: int

    def variances(self) -> NDArray[np.float64]:
        """Return σ_w² of each column."""
        return np.linspace(self.low, self.high, self.columns)

    def depths(self) -> list[int]:
        """Return the numbers of hidden layers, ascending."""
        return list(range(self.shallowest, self.deepest + 1, self.spacing))

    def buckets(self, size: int) -> list[tuple[int, ...]]:
        """Return the depths in groups of `size`, the last one smaller."""
        depths = self.depths()
        return [tuple(depths[i : i + size]) for i in range(0, len(depths), size)]

    @property
    def cells(self) -> int:
        """Number of networks."""
        return self.columns * len(self.depths())


@dataclasses.dataclass(frozen=True)
class Settings:
    """Networks, training and criterion of a tier.

    Attributes:
      grids: of tanh, and of ReLU.
      bias_variance: σ_b².
      width: of every hidden layer.
      context: characters of a context.
      embed: width of an embedding.
      lines: names that are the training text.
      rate: learning rate of gradient descent.
      steps: of a run.
      level: nats; a network whose loss at its last step is below has been trained.
      factor: of ξ_c, at which the boundary is expected (Schoenholz et al. 2017).
      percent: distance from the factor that the checks allow.
      exponent_within: distance of the boundary's exponent from 1 that the checks allow.
      together: networks that one program trains.
      bucket: depths that one program serves, and a piece of the study holds.
      resamples: of the bootstrap.
    """

    grids: tuple[Grid, ...]
    bias_variance: float = 0.05
    width: int = 64
    context: int = 3
    embed: int = 10
    lines: int = 5
    rate: float = 0.02
    steps: int = 80
    level: float = 2.0
    factor: float = 6.0
    percent: float = 25.0
    exponent_within: float = 0.25
    together: int = 50
    bucket: int = 10
    resamples: int = 10_000


SETTINGS: dict[Tier, Settings] = {
    "cpu": Settings(
        (
            Grid("tanh", 0.8, 4.0, 100, 1, 100, 1, 2**20),
            Grid("relu", 0.8, 1.98, 100, 2, 80, 3, 2**21),
        )
    ),
    "trial": Settings(
        (
            Grid("tanh", 0.6, 4.0, 6, 2, 17, 3, 2**22),
            Grid("relu", 0.8, 1.7, 4, 2, 17, 5, 2**23),
        ),
        steps=40,
        rate=0.2,
        width=16,
        together=12,
        resamples=200,
    ),
}
