"""The coordinate check of muP: whether activations move as much in a wide model as in a narrow one.

Yang et al. 2022 (Tensor Programs V), coordinate check: train a few steps at several widths, and
look at how far the coordinates of every activation have come from where they were at first. In a
parametrisation that is right, that does not depend on the width: the slope of log size against
log width is 0. The size of coordinates x is the mean of |x|, as in the authors' package `mup`.

Letters: W widths (or depths), R seeds, T steps + 1.
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
from charjax.data.batches import BatchSource, source_key
from charjax.errors import UserError
from charjax.initlab.activations.families import Pass, find_taps
from charjax.initlab.activations.intercept import see
from charjax.initlab.activations.layers import find_layers
from charjax.initlab.sizes import size_of, with_size
from charjax.models.contract import CharModel
from charjax.statistics import student_quantile
from charjax.training.program import make_advance
from charjax.training.session import Session, open_session, purpose_key, seed_state
from charjax.training.state import Scales, TrainState, variables_of

# A slope of at most this size is none.
LIMIT = 0.1
# As many as `probe --seeds` takes.
MOST_SEEDS = 1024
_MOST_DOUBLINGS = 5
# The batch on which everybody is measured: that of a step no seed comes to.
_FIXED_STEP = 2**30

_FLAGS = ("--coordinates", "--coordinates")

# By layer: (R, T) sizes.
Sizes = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Slope:
    """Slope of log size against log width.

    Attributes:
      slope: mean over the seeds.
      low: lower end of Student's 95 % interval over the seeds.
      high: upper end.
      standard_error: of the mean.
      seeds: how many there are.
    """

    slope: float
    low: float
    high: float
    standard_error: float
    seeds: int

    def verdict(self, layers: int = 1) -> str:
        """Return `pass`, `fail` or `unclear`.

        It passes where the 95 % interval lies within LIMIT of 0: all layers must, so that a slope
        beyond LIMIT passes in at most 2.5 % of checks, however many layers there are. It fails
        where the interval at 95 % of all `layers` together (Bonferroni) lies beyond LIMIT.
        """
        return _verdict(self.slope, self.standard_error, self.seeds, layers)

    def seeds_needed(self, layers: int = 1) -> int | None:
        """The fewest seeds that would decide if slope and spread stayed; None above 1,024."""
        spread = self.standard_error * math.sqrt(self.seeds)

        def is_decided(seeds: int) -> bool:
            verdict = _verdict(self.slope, spread / math.sqrt(seeds), seeds, layers)
            return verdict != "unclear"

        # Intervals only become narrower.
        seeds = 2 + bisect.bisect_left(range(2, MOST_SEEDS + 1), True, key=is_decided)
        return seeds if seeds <= MOST_SEEDS else None

    def widths_needed(self, widths: tuple[int, ...], layers: int = 1) -> tuple[int, ...] | None:
        """The widths that would decide with as many seeds, the largest doubled again and again."""
        narrow = _spread_of_logs(widths)
        for _ in range(_MOST_DOUBLINGS):
            error = self.standard_error * narrow / _spread_of_logs(widths)
            if _verdict(self.slope, error, self.seeds, layers) != "unclear":
                return widths
            widths = (*widths, 2 * max(widths))
        return None


def _verdict(slope: float, error: float, seeds: int, layers: int) -> str:
    half, sure = (student_quantile(seeds, 0.05 / m) * error for m in (1, layers))
    if abs(slope) + half <= LIMIT:
        return "pass"
    return "fail" if abs(slope) - sure > LIMIT else "unclear"


def _spread_of_logs(widths: tuple[int, ...]) -> float:
    logs_W = np.log(widths)
    return float(np.sqrt(np.sum((logs_W - logs_W.mean()) ** 2)))


def check_coordinates(
    config: Config,
    widths: tuple[int, ...],
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 10,
    progress: Callable[[int], None] = lambda width: None,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train at every width, and say how sizes depend on it.

    Args:
      config: of the run at any of the widths; a transformer keeps the width of its heads, and
        what has a width of its own (an MLP's or a recurrent network's embedding) keeps it.
      widths: at least two.
      seeds: of initialisation and batches, at least two; trained together.
      steps: of training, with the config's optimiser.
      progress: told each width when it is done.
      poll: called between steps; may raise to stop.

    Returns:
      Plain data for JSON: what was asked, and for every layer the `change` since step 0 and the
      `value`, each with the sizes (by width and step, mean over the seeds) and the slope at the
      last step with its interval and verdict (see `Slope.verdict`; "still": a layer that does not
      move at all). `verdict`: "passed" where every layer that moves passes, the logits included;
      "failed" where one fails; else "cannot tell", with the `seeds_needed` that would decide every
      layer, or the `places_needed` (null: none that can be had), `needed_if` something holds.
      `passed`: whether it is "passed".

    Raises:
      UserError: fewer than two widths or seeds, or a width that the family cannot have.
    """
    return _check(config, "width", widths, seeds, steps, progress, poll)


def check_depths(
    config: Config,
    depths: tuple[int, ...],
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 10,
    progress: Callable[[int], None] = lambda depth: None,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The same over depths (Dey et al. 2025, fig. 7), of what stands outside or behind the blocks.

    Within them a layer's place is another one at every depth: block 0 is half of a model of two
    blocks. "last_block" is the stream behind all of them.
    """
    return _check(config, "depth", depths, seeds, steps, progress, poll)


def at_width(config: Config, width: int) -> Config:
    """The config with every hidden layer this wide; see `with_size`."""
    return with_size(config, size_of(config)[0], width, _FLAGS)


def at_depth(config: Config, depth: int) -> Config:
    """The config with this many blocks; see `with_size`."""
    return with_size(config, depth, size_of(config)[1], _FLAGS)


def fit_slope(sizes_WR: Any, widths: tuple[int, ...]) -> Slope | None:
    """The slope of log size against log width, seed by seed; None where a size is not above 0."""
    sizes_WR = np.asarray(sizes_WR, np.float64)
    if not np.all(np.isfinite(sizes_WR)) or np.any(sizes_WR <= 0):
        return None
    slopes_R = np.polyfit(np.log(widths), np.log(sizes_WR), 1)[0]
    n = len(slopes_R)
    mean = float(slopes_R.mean())
    error = float(slopes_R.std(ddof=1)) / math.sqrt(n)
    half = student_quantile(n) * error
    return Slope(mean, mean - half, mean + half, error, n)


def _check(
    config: Config,
    axis: str,
    places: tuple[int, ...],
    seeds: tuple[int, ...],
    steps: int,
    progress: Callable[[int], None],
    poll: Callable[[], None],
) -> dict[str, Any]:
    _refuse_too_few(axis, places, seeds)
    resized = at_width if axis == "width" else at_depth
    # All of them before the first is trained, so that a mistake is told at once.
    configs = [resized(config, place) for place in places]
    changes, values = [], []
    for place, one in zip(places, configs, strict=True):
        change, value = measure_sizes(open_session(one), seeds, steps, poll)
        changes.append(change if axis == "width" else _around_blocks(change, place))
        values.append(value if axis == "width" else _around_blocks(value, place))
        progress(place)
    sizes = {
        name: {
            "change": np.stack([x[name] for x in changes]),
            "value": np.stack([x[name] for x in values]),
        }
        for name in changes[0]
    }
    moving = sum(bool(np.any(one["change"][:, :, -1])) for one in sizes.values())
    told: list[dict[str, Any]] = [
        {"layer": name, **{kind: _describe(x, places, moving) for kind, x in one.items()}}
        for name, one in sizes.items()
    ]
    return {
        "axis": axis,
        "places": list(places),
        "seeds": list(seeds),
        "steps": steps,
        "scheme": config.init.scheme,
        "learning_rate": config.optim.learning_rate,
        "limit": LIMIT,
        "moving_layers": moving,
        "layers": told,
        **judge_slopes({name: one["change"][:, :, -1] for name, one in sizes.items()}, places),
    }


def judge_slopes(last: dict[str, np.ndarray], places: tuple[int, ...]) -> dict[str, Any]:
    """The verdict over all layers, and what would decide where there is none.

    Args:
      last: by layer how far it has moved at the last step, (W, R).
      places: the widths or depths.

    Returns:
      `verdict`, `passed`, `seeds_needed`, `places_needed` and `needed_if` of `check_coordinates`.
    """
    slopes = {name: fit_slope(x, places) for name, x in last.items() if np.any(x)}
    verdicts = {
        name: slope.verdict(len(slopes)) if slope else "fail" for name, slope in slopes.items()
    }
    unclear: list[Slope] = []
    verdict = "failed" if "fail" in verdicts.values() else "passed"
    if verdict == "passed" and "unclear" in verdicts.values():
        verdict = "cannot tell"
        unclear = [slope for name, slope in slopes.items() if slope and verdicts[name] == "unclear"]
    needed = _needed(unclear, places, len(slopes))
    if unclear and needed == (None, None):
        # A slope beside the limit is never decided: what would be, if the slopes were 0.
        flat = [dataclasses.replace(slope, slope=0.0) for slope in unclear]
        needed, assumed = _needed(flat, places, len(slopes)), "the slopes are 0"
    else:
        assumed = "slopes and spread stay as they are"
    return {
        "verdict": verdict,
        "passed": verdict == "passed",
        "seeds_needed": needed[0],
        "places_needed": needed[1],
        "needed_if": assumed if unclear else None,
    }


def _needed(
    unclear: list[Slope], places: tuple[int, ...], layers: int
) -> tuple[int | None, list[int] | None]:
    """The seeds, or else the widths or depths, that would decide all of these slopes."""
    seeds = [slope.seeds_needed(layers) for slope in unclear]
    widths = [slope.widths_needed(places, layers) for slope in unclear]
    known_seeds = [n for n in seeds if n is not None]
    known_widths = [each for each in widths if each is not None]
    # Each list of widths is a beginning of the next.
    return (
        max(known_seeds) if seeds and len(known_seeds) == len(seeds) else None,
        list(max(known_widths)) if widths and len(known_widths) == len(widths) else None,
    )


def _around_blocks(sizes: Sizes, depth: int) -> Sizes:
    """Those of layers that have the same place in a model of any depth."""
    last = f"block_{depth - 1}"
    kept = {name: x for name, x in sizes.items() if name == last or "block_" not in name}
    return {"last_block" if name == last else name: x for name, x in kept.items()}


def _refuse_too_few(axis: str, places: tuple[int, ...], seeds: tuple[int, ...]) -> None:
    if len(set(places)) < 2:
        raise UserError(
            f"--coordinates: {axis} {', '.join(map(str, places)) or 'none'} given; a slope needs "
            "at least two that differ"
        )
    if len(set(seeds)) < 2:
        raise UserError(
            f"seeds: {len(seeds)} given; an interval needs at least 2: give more of them"
        )


def _describe(sizes_WRT: np.ndarray, places: tuple[int, ...], layers: int) -> dict[str, Any]:
    """Sizes, and the last step's slope with its verdict."""
    last = fit_slope(sizes_WRT[:, :, -1], places)
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


def measure_sizes(
    session: Session, seeds: tuple[int, ...], steps: int, poll: Callable[[], None]
) -> tuple[Sizes, Sizes]:
    """Changes since step 0 and values of each layer's coordinates, (R, T) each."""
    source = session.source
    assert source is not None
    mesh = parallel.make_mesh(session.devices[:1], 1)
    advance = make_advance(session.model, session.config, mesh)
    seeds_R = jnp.asarray(seeds, jnp.uint32)
    see = functools.partial(layer_products, session.model)

    @jax.jit
    def begin(source: BatchSource) -> tuple[TrainState, dict[str, Array]]:
        def one(seed: Array) -> tuple[TrainState, dict[str, Array]]:
            own = dataclasses.replace(source, key=source_key(seed))
            state = seed_state(session, purpose_key(seed, "init"), own)
            return state, see(state, fixed_inputs(source))

        return jax.vmap(one)(seeds_R)

    @jax.jit
    def go_on(
        states: TrainState, first: dict[str, Array], source: BatchSource
    ) -> tuple[TrainState, dict[str, Array], dict[str, Array]]:
        def one(state: TrainState, first: dict[str, Array], seed: Array) -> Any:
            own = dataclasses.replace(source, key=source_key(seed))
            state, _ = advance(state, own, purpose_key(seed, "dropout"))
            now = see(state, fixed_inputs(source))
            return state, jax.tree.map(lambda a, b: _size(a - b), now, first), _sizes(now)

        return jax.vmap(one)(states, first, seeds_R)

    states, first = begin(source)
    value = jax.vmap(_sizes)(first)
    changes, values = [jax.tree.map(jnp.zeros_like, value)], [value]
    for _ in range(steps):
        states, change, value = go_on(states, first, source)
        changes.append(change)
        values.append(value)
        poll()
    names = [layer.name for layer in find_layers(session.model)]
    return _by_layer(names, changes), _by_layer(names, values)


def fixed_inputs(source: BatchSource) -> Array:
    """Inputs (B, S) int32 that are the same for every width and seed."""
    fixed = dataclasses.replace(source, key=source_key(0))
    return fixed.draw(jnp.int32(_FIXED_STEP)).inputs


def layer_products(model: CharModel, state: TrainState, inputs_BS: Array) -> dict[str, Array]:
    """What every layer computes before its activation, by name; the readout's are the logits.

    Where a scheme's multiplier of the readout stands in the norm before it (a tied readout has no
    parameters of its own), the norm is told as it is without.
    """
    taps, variables = find_taps(model), variables_of(state)
    doors = frozenset(door for tap in taps for door in tap.doors)
    outputs = inputs_BS.shape[1] - model.lookback
    _, arrays = see(model, variables, inputs_BS, outputs, doors, train=False)
    seen = Pass(variables, inputs_BS, outputs, arrays)
    return {
        tap.layer.name: tap.preactivation(seen).astype(jnp.float32)
        / _multiplier_before_readout(model, state, tap.layer.name)
        for tap in taps
    }


def _multiplier_before_readout(model: CharModel, state: TrainState, name: str) -> Array | float:
    marked = any(
        parameter.before_readout and re.fullmatch(pattern, f"{name}/scale")
        for pattern, parameter in model.roles
    )
    if marked and isinstance(state.scales, Scales):
        multiplier: Array = state.scales.multipliers[name]["scale"]
        return multiplier
    return 1.0


def _size(x: Array) -> Array:
    return jnp.mean(jnp.abs(x))


def _sizes(outputs: dict[str, Array]) -> dict[str, Array]:
    return {name: _size(x) for name, x in outputs.items()}


def _by_layer(names: list[str], steps: list[dict[str, Array]]) -> Sizes:
    """In the order of computation, which a dictionary loses under jit."""
    return {name: np.stack([np.asarray(step[name]) for step in steps], axis=1) for name in names}
