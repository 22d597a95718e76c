"""A finished sweep whose grid grows: runs that are there are kept, and their rows copied.

While new runs are trained, the old tables stand in `earlier/`, and the directory can still be read
as the old sweep. A directory that has `earlier/` is not finished.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charjax.config.values import value_text
from charjax.errors import UserError
from charjax.files import replacing
from charjax.initlab.sweeps import results
from charjax.initlab.sweeps.axes import Axes, read_axes
from charjax.initlab.sweeps.grid import Group, Point
from charjax.initlab.sweeps.merging import Source, merge_tables
from charjax.initlab.sweeps.plan import (
    FILE,
    Plan,
    check_kernels,
    check_measuring,
    difference,
    read_plan,
)
from charjax.initlab.sweeps.tables import MEASUREMENTS, TABLES

_FILES = (*TABLES, "histograms.npz", results.WHOLE, FILE)


def earlier_of(directory: Path) -> Path:
    """Return where the old tables of an extended sweep stand."""
    return directory / "earlier"


def is_finished(directory: Path) -> bool:
    """Return whether a directory holds a finished sweep, or a finished part of one."""
    names = (results.WHOLE, results.PART)
    there = any((directory / name).is_file() for name in names)
    return there and not earlier_of(directory).exists()


def extended_plan(directory: Path, tree: dict[str, Any]) -> Plan:
    """Return the plan of a directory whose sweep is to have the grid that `tree` describes.

    Raises:
      UserError: the sweep there is not finished, or is of other settings, texts or versions.
    """
    _forget_unused(directory)
    plan = read_plan(directory, "--extend")
    if plan.tree == tree:
        return plan
    if not is_finished(directory) or plan.tree.get("part") is not None:
        raise UserError(
            f"--extend: the sweep in {str(directory)!r} is not finished; continue it with --resume"
        )
    ours, theirs = (_names(each) for each in (plan.tree, tree))
    if ours != theirs:
        raise UserError(
            f"--extend: --axis was {ours} when the sweep was trained and is {theirs} now; give "
            "the same axes, or another --out"
        )
    check_measuring(plan.tree, tree, "--extend")
    for name in ("config", "text", "versions"):
        if plan.tree.get(name) != tree[name]:
            field, old, new = difference(name, plan.tree.get(name), tree[name])
            raise UserError(
                f"--extend: {field.removeprefix('config.')} was {old} when the sweep was trained "
                f"and is {new} now; its runs would not be those of one sweep: give another --out"
            )
    check_kernels(plan.tree, tree, "--extend")
    return Plan(directory, tree, {})


def _forget_unused(directory: Path) -> None:
    """Remove copies of the tables of a process that was killed before it had begun."""
    earlier = earlier_of(directory)
    plans = [path.read_bytes() for path in (directory / FILE, earlier / FILE) if path.is_file()]
    if len(plans) == 2 and plans[0] == plans[1]:
        shutil.rmtree(earlier)


def axes_of(directory: Path) -> Axes:
    """Return the axes of the grid in a directory."""
    return read_axes(read_plan(directory, "--extend").tree["axes"])


def _names(tree: dict[str, Any]) -> str:
    names = [name for name, _ in tree["axes"].get("settings", ())]
    return ", ".join(names) or "not given"


def check_grown(old: Sequence[Point], groups: Sequence[Group]) -> None:
    """Raise a UserError unless the new grid has all runs of the old one."""
    new = {point for group in groups for point in group.points}
    for point in old:
        if point not in new:
            gain = "" if point.gain is None else f", gain {point.gain:g}"
            settings = zip(groups[0].names, point.settings, strict=True)
            gain += "".join(f", {name}={value_text(value)}" for name, value in settings)
            raise UserError(
                f"--extend: the sweep has a run of {point.scheme}{gain}, depth {point.depth}, "
                f"width {point.width}, learning rate {point.rate:g}, seed {point.seed}, and "
                "the grid given has none; give all values of the sweep, and more"
            )


def keep_earlier(directory: Path) -> None:
    """Copy the finished sweep to `earlier/`, whole or not at all."""
    earlier = earlier_of(directory)
    if earlier.exists():
        return
    with replacing(earlier) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        measured = [MEASUREMENTS] * (directory / MEASUREMENTS).is_file()
        for name in (*_FILES, *measured):
            shutil.copyfile(directory / name, temporary / name)


def merge_earlier(
    directory: Path, old: Sequence[Point], groups: Sequence[Group], new: Path
) -> None:
    """Write the tables of the whole grid from the old ones and those of the new runs."""
    places = {point: (0, place) for place, point in enumerate(old)}
    order, count = [], 0
    for group in groups:
        for point in group.points:
            if point in places:
                order.append(places[point])
            else:
                order.append((1, count))
                count += 1
    sources = [Source(earlier_of(directory), len(old))]
    sources += [Source(new, count)] * bool(count)
    merge_tables(directory, sources, order)
