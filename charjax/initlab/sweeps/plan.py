"""Checks before a sweep starts: memory, and the plan that a resumed directory holds."""

import json
from pathlib import Path
from typing import Any

import jax

from charjax import hardware
from charjax.config import Config
from charjax.config.values import format_value
from charjax.data.datasets import Dataset
from charjax.errors import UserError
from charjax.files import write_json
from charjax.initlab.activations.layers import find_layers
from charjax.initlab.measurements.catalogue import Measuring, check_measurable
from charjax.initlab.sweeps.axes import Axes
from charjax.initlab.sweeps.grid import Group
from charjax.initlab.sweeps.parts import Part
from charjax.initlab.sweeps.record import recorded_steps
from charjax.initlab.sweeps.settings import without_axes
from charjax.models import build_model
from charjax.ops.kernels import kernels_in_words
from charjax.training.cpu_plan import has_compiled_products
from charjax.training.ensemble import check_config
from charjax.training.ensemble_kernel import is_covered
from charjax.training.own_checks import check_own
from charjax.training.session import with_context
from charjax.training.state import state_shapes

FILE = "plan.json"
_FORMAT = 1
# Bytes per layer and recorded step while the tables are written: two histograms, two dozen numbers.
_BYTES_PER_LAYER = 2 * 64 * 4 + 24 * 8
# Beside its state a run needs gradients and updates, each as large as the parameters.
_BESIDE_STATE = 2


def check_tables(runs: int, layers: int, steps: int) -> None:
    """Refuse a grid whose results would not fit in memory.

    Raises:
      UserError: the message has the number of runs that would fit.
    """
    needed = runs * layers * len(recorded_steps(steps)) * _BYTES_PER_LAYER
    free = hardware.free_memory() / 2
    if needed > free:
        fit = int(free * runs / needed)
        raise UserError(
            f"the grid: {runs:,} runs given; their tables need {needed / 1e9:,.1f} GB and may take "
            f"{free / 1e9:.1f} GB: {fit:,} runs would fit; give fewer values or --seeds"
        )


def check_room(
    groups: list[Group],
    dataset: Dataset,
    devices: list[jax.Device],
    measuring: Measuring | None = None,
) -> None:
    """Refuse networks too large for even one run, before anything is compiled.

    Raises:
      UserError: the message says that 0 would fit; or a run does not have a measurement, or has
        settings that runs of one program cannot have.
    """
    layers = 0
    # Fewer runs than devices: each has a device, and all the memory of a CPU, to itself.
    free = hardware.available_memory(devices[:1])
    for group in groups:
        config = with_context(group.config, dataset)
        check_config(config)
        model = build_model(config, dataset.tokenizer)
        for each in group.configs.values():
            check_own(with_context(each, dataset), model)
        if measuring is not None:
            check_measurable(measuring.names, model, config)
        layers = max(layers, len(find_layers(model)))
        state = state_shapes(model, config)
        needed = _bytes(state) + _BESIDE_STATE * _bytes(state.params)
        if needed > free:
            raise UserError(
                f"--width: {group.width} given; a run of depth {group.depth} and this width needs "
                f"at least {needed / 1e9:,.1f} GB and {free / 1e9:.1f} GB are free: 0 of its "
                f"{len(group.points)} runs would fit; give a smaller --width or --depth"
            )
    if groups:
        runs = sum(len(group.points) for group in groups)
        check_tables(runs, layers, groups[0].config.train.steps)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Plan:
    """The grid of a directory, and the number of runs trained at once in each group."""

    def __init__(self, directory: Path, tree: dict[str, Any], at_once: dict[int, int]):
        """Describe a grid as `describe` does."""
        self.path, self.tree, self.at_once = directory / FILE, tree, at_once

    def write(self) -> None:
        """Replace the plan's file, in one move."""
        groups = [[index, count] for index, count in sorted(self.at_once.items())]
        write_json(self.path, self.tree | {"at_once": groups})


def describe(
    base: Config,
    axes: Axes,
    part: Part | None,
    dataset: Dataset,
    measuring: Measuring | None = None,
    kernels: str | None = None,
) -> dict[str, Any]:
    """Return what a directory's plan holds, and what all parts of a grid have in common.

    `kernels` is that of `kernels_of`.
    """
    tree = {
        "format": _FORMAT,
        "config": without_axes(base.model_dump(mode="json"), axes.names),
        "axes": axes.described(),
        "part": None if part is None else str(part),
        "text": dataset.digest,
        "versions": hardware.versions("jax", "jaxlib", "flax", "optax"),
    }
    if measuring is not None:
        tree["measure"] = measuring.described()
    if kernels is not None:
        tree["kernels"] = kernels
    # Through JSON, in which tuples are lists.
    read: dict[str, Any] = json.loads(json.dumps(tree))
    return read


def kernels_of(groups: list[Group], dataset: Dataset, devices: list[jax.Device]) -> str | None:
    """Return the compiled kernels that train runs of a grid, in words; None if none does."""
    used = kernels_in_words() if devices[0].platform == "cpu" else None
    for group in groups:
        config = with_context(group.config, dataset)
        is_whole = is_covered(build_model(config, dataset.tokenizer), config, group.traced)
        if used and (is_whole or has_compiled_products(config, 1)):
            return used
    return None


def read_plan(directory: Path, flag: str) -> Plan:
    """Read the plan of a directory.

    Raises:
      UserError: there is none.
    """
    try:
        held = json.loads((directory / FILE).read_text(encoding="utf-8"))
        at_once = {int(index): int(count) for index, count in held.pop("at_once")}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{flag}: {str(directory)!r} holds no sweep to continue; leave {flag} out"
        ) from None
    return Plan(directory, held, at_once)


def resumed_plan(directory: Path, tree: dict[str, Any]) -> Plan:
    """Read the plan of a directory, which must be of the grid that `tree` describes.

    Raises:
      UserError: there is none, or it is of another grid.
    """
    plan = read_plan(directory, "--resume")
    check_measuring(plan.tree, tree, "--resume")
    for name in ("format", "config", "axes", "part", "text"):
        # Directories that an earlier version began have fewer facts.
        if name in plan.tree and plan.tree[name] != tree[name]:
            field, old, new = difference(name, plan.tree[name], tree[name])
            raise UserError(
                f"--resume: {field.removeprefix('config.')} was {old} when the sweep was started "
                f"and is {new} now; repeat the command of the sweep with --resume, or give another "
                "--out"
            )
    return plan


def check_measuring(old: dict[str, Any], new: dict[str, Any], flag: str) -> None:
    """Raise a UserError unless two plans measure the same at the same steps during training."""
    before, after = (tree.get("measure") for tree in (old, new))
    if before != after:
        field, was, now = difference("measure", before or {}, after or {})
        raise UserError(
            f"{flag}: {field} was {was} when the sweep was started and is {now} now; repeat its "
            "--measure and --measure-at, or give another --out"
        )


def check_kernels(old: dict[str, Any], new: dict[str, Any], flag: str) -> None:
    """Raise a UserError unless two plans are trained by the same kernels, to the same bits."""
    before, after = (tree.get("kernels") or "XLA alone" for tree in (old, new))
    if before != after:
        raise UserError(
            f"{flag}: the sweep was trained by {before}, and would be continued by {after}; the "
            "last digits would not be those of one sweep: install or leave out charjax-kernels "
            "(CHARJAX_KERNELS=0) as it was, or give another --out"
        )


def difference(name: str, old: Any, new: Any) -> tuple[str, str, str]:
    """Return the name and both values, as text, of the first leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*new, *old)):
            if old.get(key) != new.get(key):
                return difference(f"{name}.{key}", old.get(key), new.get(key))
    return name, format_value(old), format_value(new)
