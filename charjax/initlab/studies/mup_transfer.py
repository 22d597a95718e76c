"""Study 4: how far the best learning rate moves with the width, under three optimisers.

Number 10 of the reproductions asks it of AdamW. Here muP and the standard parametrisation are
trained with AdamW, Muon and SGD, by the library's own schemes, optimisers and training step. What
muP changes under each optimiser is in `charjax.init.widths`: of Muon it is derived from the
condition of Yang, Simon and Bernstein 2023 (arXiv:2310.17813) that a step's spectral norm grows as
sqrt(outputs / inputs). A step of Muon has that norm by itself if both sides of a matrix grow alike.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from charjax.config import Config, load_config
from charjax.initlab.probes.coordinates import at_width
from charjax.initlab.reproductions.transfer import PARAMETRISATIONS, train_rates
from charjax.initlab.studies.pieces import Arrays, Pieces
from charjax.initlab.studies.study import Data
from charjax.initlab.studies.transfer_pictures import draw
from charjax.initlab.studies.transfer_result import conclude
from charjax.initlab.studies.transfer_settings import MUP, SETTINGS, Settings, rules
from charjax.reproduction.checks import Poll, Progress

__all__ = ["SETTINGS", "conclude", "draw", "measure", "rules"]


def measure(settings: Settings, pieces: Pieces, progress: Progress, poll: Poll) -> Data:
    """Train every optimiser, parametrisation, width, rate and seed.

    Returns:
      `losses`: for each grid of the settings, in their order, nested lists (W, L, S).
    """
    parts = [_parts(settings, width) for width in settings.widths]
    done, total = 0, len(settings.grids) * sum(parts)
    losses = []
    for optimiser, parametrisation, exponents in settings.grids:
        rates_L = np.exp2(np.asarray(exponents, np.float64))
        rows = []
        for width, count in zip(settings.widths, parts, strict=True):
            config, columns = config_of(settings, optimiser, parametrisation, width), []
            for part, some_L in enumerate(np.array_split(rates_L, count)):
                name = f"{optimiser}-{parametrisation}-{width}-{part}".lower()
                make = functools.partial(_train, config, some_L, settings.seeds, poll)
                columns.append(pieces.get(name, make)["losses"])
                done += 1
                progress(done, total)
                poll()
            rows.append(np.concatenate(columns))
        losses.append(np.stack(rows))
    return {"losses": losses}


def _parts(settings: Settings, width: int) -> int:
    return 2 if width >= settings.halved_from else 1


def _train(config: Config, rates_L: NDArray[np.float64], seeds: int, poll: Poll) -> Arrays:
    return {"losses": train_rates(config, rates_L, seeds, lambda steps: None, poll)}


def config_of(settings: Settings, optimiser: str, parametrisation: str, width: int) -> Config:
    """Return the configuration of runs; `train_rates` sets rate and seed."""
    base = [f"init.base_width={settings.widths[0]}"] if parametrisation == MUP else []
    words = [
        *settings.words,
        *settings.words_of(optimiser),
        f"init.scheme={PARAMETRISATIONS[parametrisation]}",
        f"train.steps={settings.steps}",
        f"model.d_model={settings.head}",
        "model.n_head=1",
        *base,
    ]
    return at_width(load_config(None, words), width)
