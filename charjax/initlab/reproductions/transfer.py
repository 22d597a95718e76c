"""Number 10: the best learning rate of a transformer as a function of its width.

Yang et al. 2022 (arXiv:2203.03466): in the standard parametrisation it falls as the width grows;
in muP it stays, so that a rate found on a small model serves a large one. "Standard" is the scheme
`zero_readout`: kernels of variance 1/fan_in, embeddings 1/d, a readout of 0, and one learning rate
for everything. muP is the scheme `mup` with the smallest width as its base, where it draws from
the same distributions (but for the truncation of `nn.Dense`'s) and has the same learning rates.

The loss of a run is its training loss over the last tenth of its steps. Every rate of a seed sees
the same batches, and so does every width and parametrisation. Letters: L learning rates, S seeds,
R = L S runs, W widths.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charjax import hardware
from charjax.config import Config, load_config
from charjax.initlab.probes.coordinates import at_width
from charjax.initlab.statistics import argmin_interval
from charjax.reproduction.checks import (
    Check,
    Mean,
    Poll,
    Progress,
    Tier,
    at_least,
    at_most,
    stated,
)
from charjax.training.ensemble import (
    MEMORY_SHARE,
    Ensemble,
    EnsembleTraining,
    as_many_as_fit,
)
from charjax.training.session import open_session

_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of an experiment.

    Attributes:
      widths: from the base on.
      head: width of a head.
      rates: exponents of 2, evenly spaced.
      seeds: how many.
      steps: of a run.
      words: the rest of the configuration.
      drift: least number of octaves that the standard parametrisation has to drift.
    """

    widths: tuple[int, ...]
    head: int
    rates: tuple[float, ...]
    seeds: int
    steps: int
    words: tuple[str, ...]
    drift: float


SIZES: dict[Tier, Size] = {
    "cpu": Size(
        widths=(32, 64, 128, 256),
        head=16,
        rates=tuple(range(-12, -2)),
        seeds=3,
        steps=120,
        words=("train.batch_size=8", "model.context_length=32"),
        drift=2.0,
    ),
    "gpu": Size(
        widths=(256, 512, 1024, 2048),
        head=64,
        rates=tuple(range(-18, -6)),
        seeds=3,
        steps=122,
        words=("train.batch_size=32", "model.context_length=256"),
        drift=3.0,
    ),
}
PARAMETRISATIONS = {"standard": "zero_readout", "muP": "mup"}


def run(tier: Tier, progress: Progress, poll: Poll) -> list[Check]:
    """Train both parametrisations at every width and learning rate."""
    return measure(SIZES[tier], progress, poll)


def measure(size: Size, progress: Progress, poll: Poll) -> list[Check]:
    """Return the checks, from runs of a size."""
    checks: list[Check] = []
    # A step's time grows at least as the width does.
    runs = len(size.rates) * size.seeds
    done, total = 0, len(PARAMETRISATIONS) * sum(size.widths) * size.steps * runs
    for name, scheme in PARAMETRISATIONS.items():
        losses = []
        for width in size.widths:

            def add_steps(steps: int, width: int = width) -> None:
                nonlocal done
                done += steps * width
                progress(min(done, total), total)

            config = config_of(size, scheme, width)
            losses.append(train_rates(config, _rates(size), size.seeds, add_steps, poll))
        checks += _checks(name, size, np.stack(losses))
    return checks


def config_of(size: Size, scheme: str, width: int) -> Config:
    """Return the configuration at a width; its learning rate is set by `train_rates`."""
    words = [
        "data.name=shakespeare",
        "model.kind=transformer",
        "model.n_layer=2",
        "model.tie_embeddings=false",
        f"model.d_model={size.head}",
        "model.n_head=1",
        f"init.scheme={scheme}",
        f"train.steps={size.steps}",
        *([f"init.base_width={size.widths[0]}"] if scheme == "mup" else []),
        *size.words,
    ]
    return at_width(load_config(None, words), width)


def train_rates(
    config: Config,
    rates: NDArray[np.float64],
    seeds: int,
    progress: Callable[[int], None],
    poll: Callable[[], None],
) -> NDArray[np.float64]:
    """Train every rate with every seed, as many at once as memory allows.

    Args:
      config: of all runs but for the rate and the seed.
      rates: (L,) learning rates.
      seeds: S; they are 0, 1, ...
      progress: called with the steps done since its last call, of all runs together.
      poll: called between chunks; may raise to stop.

    Returns:
      (L, S) losses; infinite where a run diverged.
    """
    session = open_session(config)
    total = len(rates) * seeds
    budget = MEMORY_SHARE * hardware.available_memory(session.devices)
    ensemble = as_many_as_fit(functools.partial(Ensemble, session), total, budget)
    count, steps = ensemble.count, config.train.steps
    losses_R = np.empty(total)
    for first in range(0, total, count):
        # The last group is padded with runs from the beginning.
        place = np.arange(first, first + count) % total
        losses = _train(ensemble, steps, place % seeds, rates[place // seeds], progress, poll)
        fresh = min(count, total - first)
        losses_R[first : first + fresh] = losses[:fresh]
    return losses_R.reshape(len(rates), seeds)


def _train(
    ensemble: Ensemble,
    steps: int,
    seeds: Any,
    rates: Any,
    report_progress: Callable[[int], None],
    poll: Callable[[], None],
) -> NDArray[np.float64]:
    """Return losses (R,) of the last tenth of the steps; infinite where a run diverged."""

    def report_steps(steps: int, seconds: float) -> None:
        report_progress(steps * ensemble.count)

    training = EnsembleTraining(ensemble, *ensemble.start(seeds, rates), report_steps, poll)
    for goal in (steps - max(1, steps // 10), steps):
        training.pop_sums()
        training.advance(goal)
        poll()
    losses_R, targets_R = training.pop_sums()
    diverged_R = np.asarray(training.state.diverged)
    finite_R = (diverged_R < 0) & (targets_R > 0) & np.isfinite(losses_R)
    return np.where(finite_R, losses_R / np.maximum(targets_R, 1.0), np.inf)


def best_rate(log_rates_L: NDArray[np.float64], losses_L: NDArray[np.float64]) -> float:
    """Return the exponent of the best rate: of the parabola through the lowest loss.

    At the edge of the grid, or beside a run that diverged, it is that of the lowest loss itself.
    """
    best = int(np.argmin(losses_L))
    near = slice(best - 1, best + 2)
    if best in (0, len(losses_L) - 1) or not np.all(np.isfinite(losses_L[near])):
        return float(log_rates_L[best])
    below, at, above = losses_L[near]
    bend = below - 2 * at + above
    step = float(log_rates_L[best + 1] - log_rates_L[best])
    shift = 0.5 * (below - above) / bend if bend > 0 else 0.0
    return float(log_rates_L[best] + step * shift)


def drift_of(
    log_rates_L: NDArray[np.float64], losses_WLS: NDArray[np.float64]
) -> tuple[Mean, NDArray[np.float64]]:
    """Return the octaves from the narrowest to the widest model's best rate, and all (W,).

    The best rate is that of the mean loss over seeds; the standard error is that of bootstrap
    samples of the seeds, the same ones at every width.
    """

    def best(seeds: Any) -> NDArray[np.float64]:
        mean_WL = losses_WLS[:, :, seeds].mean(axis=-1)
        return np.array([best_rate(log_rates_L, row) for row in mean_WL])

    count = losses_WLS.shape[-1]
    everyone = best(np.arange(count))
    rng = np.random.default_rng(0)
    samples = [best(rng.integers(0, count, count)) for _ in range(_RESAMPLES)]
    drifts = np.array([sample[-1] - sample[0] for sample in samples])
    # The bootstrap's variance of few seeds is too small by the factor (n - 1) / n.
    error = float(drifts.std() * np.sqrt(count / max(1, count - 1)))
    return Mean(float(everyone[-1] - everyone[0]), count, error), everyone


def _rates(size: Size) -> NDArray[np.float64]:
    return np.exp2(np.asarray(size.rates, np.float64))


def _checks(name: str, size: Size, losses_WLS: NDArray[np.float64]) -> list[Check]:
    log_rates_L = np.asarray(size.rates, np.float64)
    drift, best_W = drift_of(log_rates_L, losses_WLS)
    fall = Mean(-drift.value, drift.n, drift.standard_error)
    size_of_drift = Mean(abs(drift.value), drift.n, drift.standard_error)
    times = size.widths[-1] // size.widths[0]
    of = f"the mean loss of {size.seeds} seeds, a parabola through its minimum"
    places = [
        stated(
            f"{name}, width {width}: best learning rate",
            Mean(float(best), size.seeds),
            _in_words(size, losses_WL),
            of=of,
            unit="log2",
        )
        for width, best, losses_WL in zip(size.widths, best_W, losses_WLS, strict=True)
    ]
    what = f"{name}: the best learning rate's way over {times} x the width"
    if name == "standard":
        return [*places, at_least(f"{what}, downwards", fall, size.drift, of=of, unit="octaves")]
    return [*places, at_most(what, size_of_drift, 1.0, of=of, unit="octaves")]


def _in_words(size: Size, losses_LS: NDArray[np.float64]) -> str:
    found = argmin_interval(_rates(size), losses_LS)
    edge = "; at the edge of the grid" if found.at_edge else ""
    mean = float(np.min(losses_LS.mean(axis=-1)))
    low, high = np.log2(found.low), np.log2(found.high)
    return f"loss {mean:.3f}; of the grid's rates, between 2^{low:g} and 2^{high:g} (95 %){edge}"
