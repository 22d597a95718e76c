"""The measurements by name: what computes each, of which places, and in which runs."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
from jax import Array

from charjax.config import Config
from charjax.errors import UserError, did_you_mean
from charjax.initlab.activations.layers import find_layers
from charjax.initlab.measurements.curvature import preconditioned_sharpness, sharpness
from charjax.initlab.measurements.features import (
    attention_entropy,
    effective_rank,
    feature_change,
    units,
)
from charjax.initlab.measurements.gradients import matrices, noise_scale, update_ratio
from charjax.initlab.measurements.kernel import ntk
from charjax.initlab.measurements.moment import Moment
from charjax.models.contract import CharModel

Places = Literal["run", "layers", "matrices", "heads"]


class Measurement(NamedTuple):
    """A measurement.

    Attributes:
      compute: returns quantities by name, each a number for every place; for use in jit.
      quantities: their names.
      places: that have a number each.
    """

    compute: Callable[[Moment], dict[str, Array]]
    quantities: tuple[str, ...]
    places: Places = "run"


MEASUREMENTS: dict[str, Measurement] = {
    "sharpness": Measurement(sharpness, ("sharpness", "sharpness_residual")),
    "preconditioned_sharpness": Measurement(
        preconditioned_sharpness,
        ("preconditioned_sharpness", "preconditioned_sharpness_residual"),
    ),
    "noise_scale": Measurement(
        noise_scale, ("noise_scale", "gradient_variance", "gradient_square")
    ),
    "update_ratio": Measurement(update_ratio, ("update_ratio",), "matrices"),
    "ntk": Measurement(ntk, ("ntk_distance", "ntk_alignment")),
    "feature_change": Measurement(feature_change, ("feature_change",), "layers"),
    "units": Measurement(units, ("saturated", "dead"), "layers"),
    "effective_rank": Measurement(effective_rank, ("effective_rank",), "layers"),
    "attention_entropy": Measurement(attention_entropy, ("attention_entropy",), "heads"),
}


class Measuring(NamedTuple):
    """Measurements during training, and their steps.

    Attributes:
      names: of the measurements.
      at: the steps, ascending.
    """

    names: tuple[str, ...]
    at: tuple[int, ...]

    def described(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"names": list(self.names), "at": list(self.at)}


def parse_names(text: str) -> tuple[str, ...]:
    """Return the measurements of `A,B,...`.

    Raises:
      UserError: an unknown one, or one given twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in MEASUREMENTS:
            raise UserError(
                f"--measure: {name!r} given; must be of {', '.join(MEASUREMENTS)}"
                f"{did_you_mean(name, MEASUREMENTS)}"
            )
        if names.count(name) > 1:
            raise UserError(f"--measure: {name} given twice; give each measurement once")
    return names


def check_steps(at: Sequence[int], steps: int) -> tuple[int, ...]:
    """Return the steps of --measure-at in order.

    Raises:
      UserError: a run does not get so far.
    """
    if beyond := [step for step in at if step > steps]:
        raise UserError(
            f"--measure-at: {beyond[0]} given; a run ends at step {steps}: give steps from 0 to "
            f"{steps}"
        )
    return tuple(sorted(at))


def check_measurable(names: Sequence[str], model: CharModel, config: Config) -> None:
    """Raise a UserError for a measurement that a run does not have."""
    if orders := getattr(config.model, "counts", ()):
        raise UserError(
            f"--measure: given with model.counts={list(orders)}; measurements are of a network "
            "alone, and what is trained beside counts has another loss: leave one of the two out"
        )
    if "attention_entropy" in names and not model.has_attention:
        raise UserError(
            f"--measure: attention_entropy given; model.kind={config.model.kind} has no "
            "attention: leave it out"
        )
    if "preconditioned_sharpness" in names and config.optim.kind != "adamw":
        raise UserError(
            "--measure: preconditioned_sharpness given; it is that of optim.kind=adamw, and "
            f"optim.kind is {config.optim.kind}: leave it out, or give sharpness"
        )


def place_names(places: Places, model: CharModel, params: Any) -> list[str]:
    """Return the names of a measurement's places; one empty name for a number of the whole run.

    Args:
      places: of the measurement.
      model: of the run.
      params: its parameters, or their shapes.
    """
    if places == "layers":
        return [layer.name for layer in find_layers(model)]
    if places == "matrices":
        return list(matrices(params))
    if places == "heads":
        blocks = [
            layer.name.rpartition("/")[0]
            for layer in find_layers(model)
            if layer.name.endswith(("attention/qkv", "attention/query"))
        ]
        heads = getattr(model, "n_head", 1)
        return [f"{block}/head_{head}" for block in blocks for head in range(heads)]
    return [""]


def measure(names: Sequence[str], moment: Moment) -> dict[str, Array]:
    """Compute quantities by name, (places,) float32 each; for use in jit."""
    found: dict[str, Array] = {}
    for name in names:
        found |= MEASUREMENTS[name].compute(moment)
    return jax.tree.map(lambda x: x.reshape(-1), found)
