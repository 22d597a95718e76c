"""Result 2: which initialisation schemes still matter under Muon.

Muon orthogonalises the momentum of every hidden matrix, so that all its singular directions move
by as much at each step, whatever the matrix began with (Jordan et al. 2024,
github.com/KellerJordan/Muon); all else is trained by AdamW. That initialisation matters less under
it is a conjecture: no publication was found that compares schemes under Muon. Here schemes are
ranked by their loss at their best rate under AdamW, Muon and SGD, and the rankings are compared,
with each other and with themselves on other seeds.

The parts: `muon_settings` (what is fixed), `muon_runs` (training), `muon_ranks` and `muon_ranking`
(statistics), `muon_result` (conclusion) and `muon_pictures`.
"""

import functools
import math
from typing import Any

from charjax.initlab.studies.muon_pictures import draw
from charjax.initlab.studies.muon_result import conclude
from charjax.initlab.studies.muon_runs import SchemeTraining
from charjax.initlab.studies.muon_settings import SETTINGS, Settings, rules
from charjax.initlab.studies.pieces import Pieces
from charjax.initlab.studies.study import Data
from charjax.reproduction.checks import Poll, Progress

__all__ = ["SETTINGS", "conclude", "draw", "measure", "rules"]

# Digits after the point of the losses in results.json.
_DIGITS = 6


def measure(settings: Settings, pieces: Pieces, progress: Progress, poll: Poll) -> Data:
    """Train every scheme under every optimiser, rate and seed.

    Returns:
      uniform: by network, the loss of a uniform guess; losses: by network and optimiser,
      (C, L, S), not finite where a run diverged.
    """
    done = 0
    total = sum(len(network.schemes) * len(network.rates) for network in settings.networks)
    data: Data = {"uniform": {}, "losses": {}}
    for network in settings.networks:
        runs = SchemeTraining(settings, network)
        losses: dict[str, Any] = {optimiser: [] for optimiser, _ in network.rates}
        for optimiser in losses:
            for scheme in network.schemes:
                train = functools.partial(runs.train, optimiser, scheme, poll)
                name = f"{network.name}-{optimiser}-{scheme}"
                losses[optimiser].append(pieces.get(name, train)["losses"].round(_DIGITS))
                done += 1
                progress(done, total)
                poll()
        data["losses"][network.name] = losses
        data["uniform"][network.name] = math.log(runs.vocabulary)
    return data
