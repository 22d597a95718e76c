"""Result 3: where the sharpness settles, from each scheme, under each optimiser.

In full-batch training the sharpness, the largest eigenvalue of the loss's Hessian, rises to the
value at which the optimiser becomes unstable on a quadratic, and stays there (Cohen et al. 2021,
arXiv:2103.00065); Adam's preconditioned one does (Cohen et al. 2022, arXiv:2207.14484). Each scheme
begins elsewhere; does it end in the same place?

The parts: `edge_settings` (what is fixed), `edge_runs` (training), `edge_result` (conclusion) and
`edge_pictures`.

Letters: C schemes, L learning rates, S seeds, R = L S runs, M measured steps.
"""

import functools
import math
from typing import Any

import numpy as np

from charjax.initlab.studies.edge_pictures import draw
from charjax.initlab.studies.edge_result import conclude
from charjax.initlab.studies.edge_runs import SchemePrograms, loss_floor, open_sessions
from charjax.initlab.studies.edge_settings import OPTIMISERS, SETTINGS, Settings, rules
from charjax.initlab.studies.pieces import Arrays, Pieces
from charjax.initlab.studies.study import Data
from charjax.reproduction.checks import Poll, Progress

__all__ = ["SETTINGS", "conclude", "draw", "measure", "rules"]

# Digits of the measured values in results.json; Lanczos has about as many.
_DIGITS = 5


def measure(settings: Settings, pieces: Pieces, progress: Progress, poll: Poll) -> Data:
    """Train every scheme under every optimiser, rate and seed.

    Returns:
      at (M,), the steps; targets, the number of them in the batch; floor and uniform, losses; and
      runs: by optimiser, ratio (C, L, S, M), the measured values over the threshold, not finite
      where the residual is too large; dropped, the number of those; loss (C, L, S, M), the mean
      since the step before; diverged (C, L, S), the step or -1.
    """
    done, total = 0, len(settings.optimisers) * len(settings.schemes)
    data: Data = {"at": list(settings.at), "runs": {}}
    for name, rates in settings.optimisers:
        optimiser = OPTIMISERS[name]
        sessions = open_sessions(settings, optimiser)
        if not data["runs"]:
            data["targets"] = sessions[0].config.train.batch_size
            data["floor"] = loss_floor(sessions[0])
            data["uniform"] = math.log(sessions[0].model.vocab_size)
        programs = SchemePrograms(sessions, optimiser.measurement, rates, settings.seeds)
        found = []
        for place, scheme in enumerate(settings.schemes):
            train = functools.partial(programs.train, place, settings.at, poll)
            found.append(pieces.get(f"{name.replace(' ', '-')}-{scheme}", train))
            done += 1
            progress(done, total)
        thresholds_L = [optimiser.threshold_at(rate) for rate in rates]
        thresholds_R = np.repeat(thresholds_L, settings.seeds)
        data["runs"][name] = _together(settings, found, thresholds_R)
    return data


def _together(settings: Settings, found: list[Arrays], thresholds_R: Any) -> Data:
    """Return the runs of all schemes under one optimiser; arguments (R, M) for each scheme."""
    arrays = {name: np.stack([one[name] for one in found]) for name in found[0]}
    values_CRM, sizes_CRM = arrays["value"], np.abs(arrays["value"])
    is_bad_CRM = arrays["residual"] > settings.residual * sizes_CRM
    ratio_CRM = np.where(is_bad_CRM, np.nan, values_CRM / thresholds_R[:, None])

    def shaped(array: Any) -> Any:
        return array.reshape(len(found), -1, settings.seeds, *array.shape[2:])

    return {
        "ratio": shaped(_rounded(ratio_CRM)),
        "loss": shaped(_rounded(arrays["loss"])),
        "diverged": shaped(arrays["diverged"]),
        "dropped": int(is_bad_CRM.sum()),
    }


def _rounded(values: Any) -> Any:
    """Return values with few significant digits."""
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.floor(np.log10(np.abs(values)))
        scale = 10.0 ** (_DIGITS - 1 - np.where(np.isfinite(size), size, 0.0))
    return np.round(values * scale) / scale
