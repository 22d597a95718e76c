"""The files of a finished sweep, or of a finished part of one.

`sweep.json` is written last: a directory that has it is complete. A part has `part.json` in its
place. Both hold the same facts; those of `TIMED` describe the machine and the time, all others
depend on the grid, the text and the versions alone.
"""

import datetime
import json
from pathlib import Path
from typing import Any

from charjax.config import Config
from charjax.errors import UserError
from charjax.hardware import machine_facts
from charjax.initlab.activations.layers import find_layers
from charjax.initlab.sweeps.axes import Axes
from charjax.initlab.sweeps.record import recorded_steps
from charjax.initlab.sweeps.runner import Sweep, open_group
from charjax.initlab.sweeps.tables import hidden_activation, unigram_entropy

WHOLE, PART = "sweep.json", "part.json"
TIMED = ("hardware", "seconds", "run_steps_per_second", "finished")
_FORMAT = 1


def describe_results(sweep: Sweep, command: str, base: Config, axes: Axes) -> dict[str, Any]:
    """Return the facts of a grid, or of a part of it; both of the whole grid."""
    points = [point for group in sweep.groups for point in group.points]
    first = open_group(sweep.groups[0], sweep.dataset, sweep.devices)
    settings = [[name, list(values)] for name, values in axes.settings]
    return {
        "format": _FORMAT,
        "command": command,
        "config": base.model_dump(mode="json"),
        "config_toml": base.to_toml(),
        "arch": base.model.kind,
        "activation": None
        if "model.activation" in axes.names
        else hidden_activation(find_layers(first.model)),
        "schemes": list(axes.schemes),
        "gains": list(axes.gains),
        "depths": sorted({point.depth for point in points}),
        "widths": sorted({point.width for point in points}),
        "learning_rates": sorted({point.rate for point in points}),
        "seeds": list(axes.seeds),
        "steps": base.train.steps,
        "recorded": list(recorded_steps(base.train.steps)),
        "vocabulary": sweep.dataset.tokenizer.vocab_size,
        "unit": sweep.dataset.tokenizer.unit,
        "unigram_entropy": unigram_entropy(sweep.dataset),
        **({"settings": settings} if settings else {}),
        **({"kernels": kernels} if (kernels := sweep.plan.tree.get("kernels")) else {}),
        **({"measured": sweep.measuring.described()} if sweep.measuring else {}),
        **timed(machine_facts(), sweep.seconds, sweep.run_steps),
    }


def timed(hardware: dict[str, Any], seconds: float, run_steps: float) -> dict[str, Any]:
    """Return the facts of `TIMED`."""
    return {
        "hardware": hardware,
        "seconds": round(seconds, 1),
        "run_steps_per_second": run_steps / max(seconds, 1e-9),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def combined(facts: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Return facts with the times of several machines: seconds are added up, and run-steps too."""
    seconds = sum(other["seconds"] for other in others)
    run_steps = sum(other["seconds"] * other["run_steps_per_second"] for other in others)
    return facts | timed(others[0]["hardware"], seconds, run_steps)


def read_results(path: Path, remedy: str) -> dict[str, Any]:
    """Read `sweep.json` or `part.json`.

    Raises:
      UserError: there is none, or it is damaged.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        known = {"format", "command", "seconds", "run_steps_per_second", "hardware"} <= set(facts)
    except FileNotFoundError:
        raise UserError(f"{str(path.parent)!r} has no {path.name}: {remedy}") from None
    except (OSError, ValueError, TypeError):
        known = False
    if not known or facts["format"] != _FORMAT:
        raise UserError(f"{str(path)!r} is not of a sweep of this version: {remedy}")
    result: dict[str, Any] = facts
    return result
