"""The coordinate check of muP: activations must move as far in a wide model as in a narrow one.

Yang et al. 2022 (Tensor Programs V): train a few steps at several widths, and measure how far the
coordinates of every activation have moved from their initial values. In a correct parametrisation
that distance does not depend on the width: the slope of log size against log width is 0. The size
of coordinates x is the mean of |x|, as in the authors' package `mup`.

Letters: W widths, R seeds, T steps + 1.
"""

import bisect
import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax import parallel
from charjax.config import Config
from charjax.data.batches import BatchSource
from charjax.errors import UserError
from charjax.initlab.activations.intercept import record
from charjax.initlab.activations.layers import find_layers
from charjax.initlab.sizes import size_of, with_size
from charjax.models.contract import CharModel
from charjax.models.taps import Recording
from charjax.random_streams import purpose_key
from charjax.statistics import mean_interval, student_quantile
from charjax.training.ensemble import check_config
from charjax.training.program import make_advance
from charjax.training.session import Session, open_session, seed_state
from charjax.training.state import Scales, TrainState, variables_of

# A slope up to this size counts as 0.
LIMIT = 0.1
# The most that `probe --seeds` accepts.
MOST_SEEDS = 1024
_MOST_DOUBLINGS = 5
# All networks are measured on the batch of this step, which no seed reaches.
_FIXED_STEP = 2**30

_FLAGS = ("--coordinates", "--coordinates")

# By layer: (R, T) sizes, or (W, R, T).
Sizes = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Slope:
    """Slope of log size against log width.

    Attributes:
      slope: mean over the seeds.
      low: lower end of Student's 95 % interval over the seeds.
      high: upper end.
      standard_error: of the mean.
      seeds: number of seeds.
    """

    slope: float
    low: float
    high: float
    standard_error: float
    seeds: int

    def verdict(self, layers: int = 1) -> str:
        """Return `pass`, `fail` or `unclear`.

        A slope passes where its 95 % interval lies within LIMIT of 0. All layers must pass, so that
        a slope beyond LIMIT passes in at most 2.5 % of checks, whatever the number of layers. It
        fails where the interval at 95 % of all `layers` together (Bonferroni) lies beyond LIMIT.
        """
        return _verdict(self.slope, self.standard_error, self.seeds, layers)

    def seeds_needed(self, layers: int = 1) -> int | None:
        """Return the fewest seeds that decide at this slope and spread; None above 1,024."""
        spread = self.standard_error * math.sqrt(self.seeds)

        def is_decided(seeds: int) -> bool:
            verdict = _verdict(self.slope, spread / math.sqrt(seeds), seeds, layers)
            return verdict != "unclear"

        # Intervals only become narrower.
        seeds = 2 + bisect.bisect_left(range(2, MOST_SEEDS + 1), True, key=is_decided)
        return seeds if seeds <= MOST_SEEDS else None

    def widths_needed(self, widths: tuple[int, ...], layers: int = 1) -> tuple[int, ...] | None:
        """Return widths that decide with as many seeds: the largest is doubled repeatedly."""
        narrow = _spread_of_logs(widths)
        for _ in range(_MOST_DOUBLINGS):
            error = self.standard_error * narrow / _spread_of_logs(widths)
            if _verdict(self.slope, error, self.seeds, layers) != "unclear":
                return widths
            widths = (*widths, 2 * max(widths))
        return None


def _verdict(slope: float, error: float, seeds: int, layers: int) -> str:
    half, corrected = (student_quantile(seeds, 0.05 / m) * error for m in (1, layers))
    if abs(slope) + half <= LIMIT:
        return "pass"
    return "fail" if abs(slope) - corrected > LIMIT else "unclear"


def _spread_of_logs(widths: tuple[int, ...]) -> float:
    logs_W = np.log(widths)
    return float(np.sqrt(np.sum((logs_W - logs_W.mean()) ** 2)))


def check_coordinates(
    config: Config,
    widths: tuple[int, ...],
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 10,
    report_progress: Callable[[int], None] = lambda width: None,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train at every width, and fit how the sizes of coordinates depend on it.

    Args:
      config: of the run at any of the widths; a transformer keeps the width of its heads, and
        layers with a width of their own (the embedding of an MLP or a recurrent network) keep it.
      widths: at least two.
      seeds: of initialisation and batches, at least two; trained together.
      steps: of training, with the config's optimiser.
      report_progress: called with each width once it is trained.
      poll: called between steps; may raise to stop.

    Returns:
      Plain data for JSON: the settings, and for every layer the `change` since step 0 and the
      `value`, each with the sizes (by width and step, mean over the seeds) and the slope at the
      last step with its interval and verdict (see `Slope.verdict`; "still": a layer that does not
      move at all). `verdict`: "passed" where every layer that moves passes, the logits included;
      "failed" where one fails; else "cannot tell", with the `seeds_needed` that would decide every
      layer, or the `places_needed` (widths; null: no feasible number), on the condition
      `needed_if`. `passed`: true if the verdict is "passed".

    Raises:
      UserError: fewer than two widths or seeds, or a width that the family cannot have.
    """
    _refuse_too_few(widths, seeds)
    # All are built before the first is trained, so that a mistake is reported at once.
    configs = [at_width(config, width) for width in widths]
    changes, values = [], []
    for width, one in zip(widths, configs, strict=True):
        change, value = measure_sizes(open_session(one), seeds, steps, poll)
        changes.append(change)
        values.append(value)
        report_progress(width)
    changes_WRT = {name: np.stack([x[name] for x in changes]) for name in changes[0]}
    values_WRT = {name: np.stack([x[name] for x in values]) for name in values[0]}
    return report_check(config, "width", widths, seeds, steps, changes_WRT, values_WRT)


def report_check(
    config: Config,
    axis: str,
    widths: tuple[int, ...],
    seeds: tuple[int, ...],
    steps: int,
    changes_WRT: Sizes,
    values_WRT: Sizes,
) -> dict[str, Any]:
    """Return the result of a check, as `check_coordinates` describes it.

    Args:
      config: of the run.
      axis: "width" or "depth".
      widths: the sizes compared; W of them.
      seeds: R of them.
      steps: of training.
      changes_WRT: by layer, its changes since step 0.
      values_WRT: by layer, its values.
    """
    moving = sum(bool(np.any(x[:, :, -1])) for x in changes_WRT.values())
    return {
        "axis": axis,
        "places": list(widths),
        "seeds": list(seeds),
        "steps": steps,
        "scheme": config.init.scheme,
        "learning_rate": config.optim.learning_rate,
        "limit": LIMIT,
        "moving_layers": moving,
        "layers": [
            {
                "layer": name,
                "change": _describe(changes_WRT[name], widths, moving),
                "value": _describe(values_WRT[name], widths, moving),
            }
            for name in changes_WRT
        ],
        **judge_slopes({name: x[:, :, -1] for name, x in changes_WRT.items()}, widths),
    }


def _refuse_too_few(widths: tuple[int, ...], seeds: tuple[int, ...]) -> None:
    if len(set(widths)) < 2:
        raise UserError(
            f"--coordinates: width {', '.join(map(str, widths)) or 'none'} given; a slope needs "
            "at least two that differ"
        )
    if len(set(seeds)) < 2:
        raise UserError(
            f"seeds: {len(seeds)} given; an interval needs at least 2: give more of them"
        )


def at_width(config: Config, width: int) -> Config:
    """Return the config with every hidden layer this wide; see `with_size`."""
    return with_size(config, size_of(config)[0], width, _FLAGS)


def at_depth(config: Config, depth: int) -> Config:
    """Return the config with this many blocks; see `with_size`."""
    return with_size(config, depth, size_of(config)[1], _FLAGS)


def _describe(sizes_WRT: np.ndarray, widths: tuple[int, ...], layers: int) -> dict[str, Any]:
    """Return sizes, and the last step's slope with its verdict."""
    last = fit_slope(sizes_WRT[:, :, -1], widths)
    verdict = last.verdict(layers) if last else "fail"
    if not np.any(sizes_WRT[:, :, -1]):
        verdict = "still"
    return {
        "sizes": sizes_WRT.mean(axis=1).tolist(),
        "slope": last and last.slope,
        "interval": last and [last.low, last.high],
        "standard_error": last and last.standard_error,
        "verdict": verdict,
    }


def fit_slope(sizes_WR: Any, widths: tuple[int, ...]) -> Slope | None:
    """Fit log size against log width, seed by seed; None where a size is not above 0."""
    sizes_WR = np.asarray(sizes_WR, np.float64)
    if not np.all(np.isfinite(sizes_WR)) or np.any(sizes_WR <= 0):
        return None
    found = mean_interval(np.polyfit(np.log(widths), np.log(sizes_WR), 1)[0])
    assert found.standard_error is not None
    half = student_quantile(found.n) * found.standard_error
    return Slope(found.mean, found.mean - half, found.mean + half, found.standard_error, found.n)


def judge_slopes(last: dict[str, np.ndarray], widths: tuple[int, ...]) -> dict[str, Any]:
    """Return the verdict over all layers, and without one the seeds or widths that would decide.

    Args:
      last: by layer its change at the last step, (W, R).
      widths: W of them.

    Returns:
      `verdict`, `passed`, `seeds_needed`, `places_needed` and `needed_if` of `check_coordinates`.
    """
    slopes = {name: fit_slope(x, widths) for name, x in last.items() if np.any(x)}
    verdicts = {
        name: slope.verdict(len(slopes)) if slope else "fail" for name, slope in slopes.items()
    }
    unclear: list[Slope] = []
    verdict = "failed" if "fail" in verdicts.values() else "passed"
    if verdict == "passed" and "unclear" in verdicts.values():
        verdict = "cannot tell"
        unclear = [slope for name, slope in slopes.items() if slope and verdicts[name] == "unclear"]
    needed, assumed = _needed(unclear, widths, len(slopes)), "slopes and spread stay as they are"
    if unclear and needed == (None, None):
        # No number of seeds decides a slope close to the limit: assume slopes of 0 instead.
        flat = [dataclasses.replace(slope, slope=0.0) for slope in unclear]
        needed, assumed = _needed(flat, widths, len(slopes)), "the slopes are 0"
    return {
        "verdict": verdict,
        "passed": verdict == "passed",
        "seeds_needed": needed[0],
        "places_needed": needed[1],
        "needed_if": assumed if unclear else None,
    }


def _needed(
    unclear: list[Slope], widths: tuple[int, ...], layers: int
) -> tuple[int | None, list[int] | None]:
    """Return the seeds, and the widths, that would decide all of these slopes."""
    seeds = [slope.seeds_needed(layers) for slope in unclear]
    wider = [slope.widths_needed(widths, layers) for slope in unclear]
    known_seeds = [n for n in seeds if n is not None]
    known_widths = [each for each in wider if each is not None]
    # Each list of widths is a prefix of the next.
    return (
        max(known_seeds) if seeds and len(known_seeds) == len(seeds) else None,
        list(max(known_widths)) if wider and len(known_widths) == len(wider) else None,
    )


def measure_sizes(
    session: Session, seeds: tuple[int, ...], steps: int, poll: Callable[[], None]
) -> tuple[Sizes, Sizes]:
    """Return each layer's changes since step 0 and its values, (R, T) each."""
    source = session.source
    assert source is not None
    check_config(session.config)
    mesh = parallel.make_mesh(session.devices[:1], 1)
    advance = make_advance(session.model, session.config, mesh)
    seeds_R = jnp.asarray(seeds, jnp.uint32)
    products = functools.partial(layer_products, session.model)

    @jax.jit
    def start(source: BatchSource) -> tuple[TrainState, dict[str, Array]]:
        def one(seed: Array) -> tuple[TrainState, dict[str, Array]]:
            seeded = dataclasses.replace(source, key=purpose_key(seed, "batches"))
            state = seed_state(session, purpose_key(seed, "init"), seeded)
            return state, products(state, fixed_inputs(source))

        return jax.vmap(one)(seeds_R)

    @jax.jit
    def step(
        states: TrainState, first: dict[str, Array], source: BatchSource
    ) -> tuple[TrainState, dict[str, Array], dict[str, Array]]:
        def one(state: TrainState, first: dict[str, Array], seed: Array) -> Any:
            seeded = dataclasses.replace(source, key=purpose_key(seed, "batches"))
            state, _ = advance(state, seeded, purpose_key(seed, "dropout"))
            now = products(state, fixed_inputs(source))
            return state, jax.tree.map(lambda a, b: _size(a - b), now, first), _sizes(now)

        return jax.vmap(one)(states, first, seeds_R)

    states, first = start(source)
    value = jax.vmap(_sizes)(first)
    changes, values = [jax.tree.map(jnp.zeros_like, value)], [value]
    for _ in range(steps):
        states, change, value = step(states, first, source)
        changes.append(change)
        values.append(value)
        poll()
    names = [layer.name for layer in find_layers(session.model)]
    return _by_layer(names, changes), _by_layer(names, values)


def fixed_inputs(source: BatchSource) -> Array:
    """Return inputs (B, S) int32 that are equal for every width and seed."""
    fixed = dataclasses.replace(source, key=purpose_key(0, "batches"))
    return fixed.draw(jnp.int32(_FIXED_STEP)).inputs


def layer_products(model: CharModel, state: TrainState, inputs_BS: Array) -> dict[str, Array]:
    """Return every layer's pre-activations by name; the readout's are the logits.

    Where a scheme applies the readout's multiplier to the norm before it (a tied readout has no
    parameters of its own), the norm's output is divided by it.
    """
    taps, variables = model.taps(), variables_of(state)
    points = frozenset(point for tap in taps for point in tap.points)
    outputs = inputs_BS.shape[1] - model.lookback
    _, arrays = record(model, variables, inputs_BS, outputs, points, train=False)
    recording = Recording(variables, inputs_BS, outputs, arrays)
    return {
        tap.layer.name: tap.preactivation(recording).astype(jnp.float32)
        / _multiplier_before_readout(model, state, tap.layer.name)
        for tap in taps
    }


def _multiplier_before_readout(model: CharModel, state: TrainState, name: str) -> Array | float:
    is_before_readout = any(
        parameter.before_readout and re.fullmatch(pattern, f"{name}/scale")
        for pattern, parameter in model.roles
    )
    if is_before_readout and isinstance(state.scales, Scales):
        multiplier: Array = state.scales.multipliers[name]["scale"]
        return multiplier
    return 1.0


def _size(x: Array) -> Array:
    return jnp.mean(jnp.abs(x))


def _sizes(outputs: dict[str, Array]) -> dict[str, Array]:
    return {name: _size(x) for name, x in outputs.items()}


def _by_layer(names: list[str], steps: list[dict[str, Array]]) -> Sizes:
    """Stack the steps, in the order of computation, which a dictionary loses under jit."""
    return {name: np.stack([np.asarray(step[name]) for step in steps], axis=1) for name in names}
