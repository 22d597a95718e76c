"""The rows of the GPU tiers at their smallest sizes, on a CPU: their path, not their figures.

    python -m benchmarks.gpu_trial charjax.reproduce|charjax.initlab ARGUMENTS

It runs that command with rows of a few steps and without published figures, and fails unless each
of them has a result.
"""

import dataclasses
import functools
import importlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from charjax import cli, reproduce
from charjax.config import load_config
from charjax.errors import UserError
from charjax.initlab import reproductions
from charjax.initlab.commands import reproduce as initlab_reproduce
from charjax.reproduction import output, published
from charjax.reproduction.checks import Check, Poll, Progress, Tier
from charjax.reproduction.rows import Row, nothing_published

_TRAINING = ("train.steps=2", "eval.every=2")
_WIDTHS: dict[str, tuple[str, ...]] = {
    "transformer": ("model.n_layer=1", "model.n_head=1", "model.d_model=8"),
    "gru": ("model.n_layer=1", "model.d_hidden=8"),
    "lstm": ("model.n_layer=1", "model.d_hidden=8"),
}
# Where the module of a reproduction has another name.
_MODULES = {"correlation-depth": "correlation", "names-arms": "names_variants"}
_SIZES: dict[str, dict[str, int]] = {
    "tanh-stack": {"nets": 2, "width": 32, "inputs": 8},
    "correlation-depth": {"nets": 2, "width": 32, "pairs": 4},
    "relu-stack": {"nets": 2, "width": 32},
    "zeros": {"steps": 20},
}


def main(argv: list[str]) -> int:
    """Run the command; return 0 if every row that it was asked for has a result."""
    if argv[:1] == ["charjax.reproduce"]:
        words, key = argv[1:], "rows"
        published.ROWS = reproduce.ROWS = small_rows()
        status = reproduce.main(words)
        patterns = [after for word, after in itertools.pairwise(words) if word == "--only"]
        names = {row.name for row in published.select(patterns)}
    elif argv[:2] == ["charjax.initlab", "reproduce"]:
        words, key = argv[2:], "reproductions"
        reproductions.REPRODUCTIONS = tuple(
            dataclasses.replace(each, run=functools.partial(_run_small, each.name))
            for each in reproductions.REPRODUCTIONS
        )
        # 1 is expected: so few and small networks are far from what is published.
        status = initlab_reproduce.main(words)
        names = {each.name for each in reproductions.select(words[: words.index("--tier")])}
    else:
        raise UserError(f"COMMAND: {' '.join(argv[:2])!r} given; must reproduce something")
    path = Path(words[words.index("--out") + 1]) / "results.json"
    lost = names - output.read_results(path, key).keys()
    if lost:
        cli.complain(f"no result of: {', '.join(sorted(lost))}")
    return status if status > 1 else 1 if lost else 0


def small_rows() -> tuple[Row, ...]:
    """Return the rows of the GPU tier, each with a few steps of a small network, not judged.

    Of those that become equal the first stands for all.
    """
    found: dict[tuple[Any, ...], Row] = {}
    for row in published.ROWS:
        if row.tier == "gpu":
            small = _small(row)
            found.setdefault((small.config, small.overrides), small)
    return tuple(found.values())


def _small(row: Row) -> Row:
    config = load_config(row.config, list(row.overrides))
    fewer = ["eval.batches=1"] if config.eval.protocol == "random" else []
    # The text has been cut into as many streams as there are rows.
    fewer += ["train.batch_size=2"] if config.data.sampling != "contiguous" else []
    small = (*row.overrides, *_TRAINING, *fewer, *_WIDTHS[config.model.kind])
    words = dict(word.split("=", 1) for word in small)
    return dataclasses.replace(
        row,
        overrides=tuple(f"{name}={value}" for name, value in words.items()),
        figures=tuple(nothing_published(figure.quantity) for figure in row.figures),
        seeds=min(2, row.seeds),
        tier="cpu",
    )


def _run_small(name: str, tier: Tier, progress: Progress, poll: Poll) -> Sequence[Check]:
    """Measure a reproduction of the initialisation laboratory with few, small networks."""
    module: Any = importlib.import_module(
        f"charjax.initlab.reproductions.{_MODULES.get(name, name.replace('-', '_'))}"
    )
    few = (progress, poll)
    match name:
        case "initial-loss":
            return [module.gaussian_logits(2, 256, *few)]
        case "gradients":
            stack = module.LayerStack("tanh", False, 3.0, 6, 32, 16)
            return [module.measure("a stack", stack, 1.0, 100.0, 2, *few)]
        case "jacobian":
            return [module.measure("orthogonal", 2, 16, 0.0683, 100.0, *few)]
        case "names-arms":
            return cast("list[Check]", module.measure(2, 20, *few))
        case "transformer":
            words = ("train.batch_size=2", "model.context_length=8")
            size = module.Size((1, 2), 16, 2, (16, 32), (0, 1), words)
            return cast("list[Check]", module.measure(size, *few))
        case "transfer":
            words = ("train.batch_size=2", "model.context_length=8")
            size = module.Size((16, 32), 16, (-8, -6, -4), 2, 10, words, 1.0)
            return cast("list[Check]", module.measure(size, *few))
    return cast("list[Check]", module.run(tier, *few, **_SIZES[name]))


if __name__ == "__main__":
    cli.run(main)
