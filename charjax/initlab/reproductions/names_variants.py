"""Number 8: five initialisations of the names MLP, trained in full (Building makemore Part 3).

Seed k has the same batches in every variant, so variants are compared by their differences, seed
by seed. Letters: S seeds.
"""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from charjax.config import load_config
from charjax.initlab.statistics import Comparison, compare, correct
from charjax.reproduction.checks import (
    Check,
    Poll,
    Progress,
    Tier,
    mean_of,
    near,
    shown,
    stated,
)
from charjax.training.seeds import Replicas
from charjax.training.session import open_session

# By variant, the configuration and the dev loss of the one run that is published.
_VARIANTS = {
    1: ("names-mlp-naive", 2.168),
    2: ("names-mlp-readout", 2.131),
    3: ("names-mlp-hidden", 2.103),
    4: ("names-mlp-kaiming", 2.107),
    5: ("names-mlp-batchnorm", 2.105),
}
_ORDERINGS = ((1, 2), (2, 3))
_SIMILAR = (3, 4, 5)
_SEEDS: dict[Tier, int] = {"cpu": 8, "gpu": 64}
_STEPS = 200_000


def run(tier: Tier, progress: Progress, poll: Poll) -> list[Check]:
    """Train every variant; the tiers differ in the number of seeds."""
    return measure(_SEEDS[tier], _STEPS, progress, poll)


def measure(seeds: int, steps: int, progress: Progress, poll: Poll) -> list[Check]:
    """Return the checks, from so many seeds of each variant."""
    of = f"the mean of {seeds} seeds after {steps:,} steps"
    losses: dict[int, NDArray[np.float64]] = {}
    checks = []
    total = len(_VARIANTS) * seeds * steps
    for variant, (config, published) in _VARIANTS.items():

        def part_done(done: int, before: int = len(losses) * seeds * steps) -> None:
            progress(min(before + done, total), total)

        losses[variant] = _dev_losses(config, seeds, steps, part_done, poll)
        part_done(seeds * steps)
        mean = mean_of(losses[variant])
        what = f"variant {variant}, {config}: dev loss"
        checks.append(near(what, mean, published, within=0.02, of=of, unit="nats"))
    return checks + _orderings(losses) + _differences(losses)


def _dev_losses(
    config: str, seeds: int, steps: int, progress: Callable[[int], None], poll: Poll
) -> NDArray[np.float64]:
    """Return exact dev losses (S,) after the last step."""
    words = [f"train.steps={steps}", f"eval.every={steps}"]
    plan = Replicas.plan(open_session(load_config(config, words)), tuple(range(seeds)))
    done = 0

    def add_steps(steps_per_seed: int) -> None:
        nonlocal done
        done += steps_per_seed * min(plan.at_once, seeds)
        progress(min(done, seeds * steps))

    groups = plan.train(frozenset({"final"}), add_steps, poll)
    return np.array([outcome.losses["final"] for group in groups for outcome in group])


def _orderings(losses: dict[int, NDArray[np.float64]]) -> list[Check]:
    """Check that variant 1 is worse than 2, and 2 worse than 3."""
    found = correct([compare(losses[worse], losses[better]) for worse, better in _ORDERINGS])
    return [
        shown(
            f"variant {worse} > variant {better}: difference, seed by seed",
            comparison.verdict == "worse",
            mean_of(losses[worse] - losses[better]),
            of="shown: interval and p agree, corrected for the number of comparisons",
            unit="nats",
            note=_in_words(comparison),
        )
        for (worse, better), comparison in zip(_ORDERINGS, found, strict=True)
    ]


def _differences(losses: dict[int, NDArray[np.float64]]) -> list[Check]:
    """Compare the three variants that are published within 0.004 of each other."""
    pairs = list(itertools.combinations(_SIMILAR, 2))
    found = correct([compare(losses[a], losses[b]) for a, b in pairs])
    checks = []
    for (a, b), comparison in zip(pairs, found, strict=True):
        verdict = comparison.verdict
        if verdict in ("better", "worse"):
            verdict = f"variant {a} is {verdict}"
        checks.append(
            stated(
                f"variant {a} - variant {b}: difference, seed by seed",
                mean_of(losses[a] - losses[b]),
                f"{verdict} ({_in_words(comparison)})",
                of="",
                unit="nats",
            )
        )
    return checks


def _in_words(found: Comparison) -> str:
    return f"95 % {found.low:.4f} to {found.high:.4f}, p {found.adjusted_p:.3g}"
