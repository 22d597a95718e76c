"""Number 9: the transformer's stream by depth, and its coordinates by width.

GPT-2 (Radford et al. 2019) divides the residual outputs by sqrt(2 L), so that what the
2 L sublayers of a model of L blocks add up to does not depend on L; without that it grows as L,
and a little faster, as the more alike a deep stream's positions are, the less attention averages
away. Then the coordinate check of muP (Yang et al. 2022), against the standard
parametrisation: the same distributions with a readout of 0, but one learning rate for everything.
The rate is small enough that the logits of the widest standard model are still growing after ten
steps: once the loss is fitted they stop growing in either parametrisation.

Letters: B batch, T time, R networks, L depths.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax.config import Config, load_config
from charjax.initlab.activations.intercept import record
from charjax.initlab.probes.coordinates import (
    LIMIT,
    at_depth,
    check_coordinates,
    fixed_inputs,
)
from charjax.initlab.reproductions.nets import measure_nets
from charjax.models.taps import input_of, output_of
from charjax.reproduction.checks import (
    Check,
    Mean,
    Poll,
    Progress,
    Tier,
    at_least,
    mean_of,
    near,
    stated,
)
from charjax.training.feed import device_source
from charjax.training.session import open_session
from charjax.training.state import create_state, variables_of


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of a measurement.

    Attributes:
      depths: numbers of blocks of the models whose stream is measured.
      width: of these models.
      nets: networks per depth.
      widths: of the coordinate check, from the base on.
      seeds: its seeds.
      words: the rest of the configuration.
    """

    depths: tuple[int, ...]
    width: int
    nets: int
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    words: tuple[str, ...]


SIZES: dict[Tier, Size] = {
    "cpu": Size(
        depths=(2, 4, 8, 16),
        width=64,
        nets=16,
        widths=(64, 128, 256),
        seeds=(0, 1, 2),
        words=("train.batch_size=8", "model.context_length=32"),
    ),
    "gpu": Size(
        depths=(2, 4, 8, 16, 32, 64),
        width=768,
        nets=16,
        widths=(128, 256, 512, 1024, 2048),
        seeds=(0, 1, 2, 3),
        words=("train.batch_size=16", "model.context_length=128"),
    ),
}
_HEAD = 16
_STEPS, _RATE = 10, 3e-4
# By scheme: description, expected slope, tolerance.
_STREAMS = {
    "gpt2": ("GPT-2's scaling of residual outputs", 0.0, 0.05),
    "normal": ("no scaling, N(0, 0.02) throughout", 1.0, 0.12),
}
_PARAMETRISATIONS = {"muP": "mup", "standard": "zero_readout"}


def run(tier: Tier, progress: Progress, poll: Poll) -> list[Check]:
    """Measure the streams and the coordinates."""
    return measure(SIZES[tier], progress, poll)


def measure(size: Size, progress: Progress, poll: Poll) -> list[Check]:
    """Return the checks, from networks of a size."""
    total = len(_STREAMS) * len(size.depths) + len(_PARAMETRISATIONS) * len(size.widths)
    done = 0

    def step_done(_: Any = None) -> None:
        nonlocal done
        done += 1
        progress(done, total)

    checks = [_stream(scheme, size, step_done, poll) for scheme in _STREAMS]
    for name, scheme in _PARAMETRISATIONS.items():
        base = [f"init.base_width={size.widths[0]}"] if scheme == "mup" else []
        config = config_of(size, scheme, f"optim.learning_rate={_RATE}", *base)
        found = check_coordinates(config, size.widths, size.seeds, _STEPS, step_done, poll)
        checks += _coordinates(name, found)
    return checks


def config_of(size: Size, scheme: str, *words: str) -> Config:
    """Return a transformer on Shakespeare with two blocks and heads of width 16."""
    start = [
        "data.name=shakespeare",
        "model.kind=transformer",
        "model.n_layer=2",
        f"model.d_model={size.width}",
        f"model.n_head={size.width // _HEAD}",
        "model.tie_embeddings=false",
        f"init.scheme={scheme}",
    ]
    return load_config(None, [*start, *size.words, *words])


def _stream(scheme: str, size: Size, step_done: Any, poll: Poll) -> Check:
    """Check the slope, over depths, of the log variance that the blocks add to the stream."""
    words = ["init.std=0.02"] if scheme == "normal" else []
    config = config_of(size, scheme, *words)
    added = []
    for depth in size.depths:
        added.append(added_variance(at_depth(config, depth), depth, size.nets, poll))
        step_done()
    slopes_R = np.polyfit(np.log(size.depths), np.log(np.stack(added)), 1)[0]
    what, expected, within = _STREAMS[scheme]
    return near(
        f"{what}: slope of the log variance that all blocks add, against log depth",
        mean_of(slopes_R),
        expected,
        within=within,
        of=f"{size.nets} nets of width {size.width}, depths {size.depths[0]}-{size.depths[-1]}",
    )


def added_variance(config: Config, depth: int, nets: int, poll: Poll) -> np.ndarray:
    """Return the variance (R,) of what all `depth` blocks of networks at step 0 add to the stream.

    It is the mean square, over a batch's positions and coordinates, of the stream behind the last
    block less the one before the first.
    """
    session = open_session(config)
    model, source = session.model, device_source(session.source)
    first, last = input_of("block_0"), output_of(f"block_{depth - 1}")

    def one(key: Array) -> Array:
        inputs_BT = fixed_inputs(source)
        variables = variables_of(create_state(model, config, key))
        look = functools.partial(record, model, variables, inputs_BT, inputs_BT.shape[1])
        _, arrays = look(frozenset({first, last}), train=False)
        added_BTD = arrays[last] - arrays[first]
        return jnp.mean(jnp.square(added_BTD)) - jnp.square(jnp.mean(added_BTD))

    with jax.default_device(session.devices[0]):
        measured: np.ndarray = measure_nets(one, 90, nets, lambda done, total: None, poll)
    return measured[:nets]


def _coordinates(name: str, found: dict[str, Any]) -> list[Check]:
    """Check a parametrisation's slope of the logits, and for muP that of the steepest layer."""
    layers = {layer["layer"]: layer["change"] for layer in found["layers"]}
    seeds, widths = len(found["seeds"]), found["places"]
    of = f"{seeds} seeds, widths {widths[0]}-{widths[-1]}, {_STEPS} steps at rate {_RATE:g}"
    logits = _slope(layers["readout"], seeds)
    what = f"{name}: slope of the logits' log move against log width"
    if name == "standard":
        return [at_least(what, logits, 0.8, of=of)]
    moving = {layer: change for layer, change in layers.items() if change["verdict"] != "still"}
    worst = max(moving, key=lambda layer: abs(moving[layer]["slope"] or np.inf))
    checks = [near(what, logits, 0.0, within=LIMIT, of=of)]
    what = f"{name}: the same of the layer where it is steepest, {worst}"
    checks.append(near(what, _slope(moving[worst], seeds), 0.0, within=LIMIT, of=of))
    rest = ", ".join(f"{layer} {change['slope']:+.3f}" for layer, change in moving.items())
    return [*checks, stated(f"{name}: layers", Mean(float(len(moving))), rest, of="how many")]


def _slope(change: dict[str, Any], seeds: int) -> Mean:
    """Return a slope and its standard error."""
    return Mean(change["slope"], seeds, change["standard_error"])
