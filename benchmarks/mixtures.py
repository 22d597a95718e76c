"""Losses of networks beside counts, by the commands: seeds, texts, each expert alone, bytes.

    python -m benchmarks.mixtures [--only NAME,...] [--seeds N] [--out FILE.json]

Every row is `python -m charjax.train CONFIG` and then `python -m charjax.evaluate RUN --json`, seed
by seed, in processes of their own; seconds are those of the training command, from its start to its
end. The recipes were chosen on the last 5 % of Tiny Shakespeare's training split
(benchmarks/NOTES.md); a split that is shown was looked at once for each seed. Rows that FILE has
are kept unless they are named.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.results_file import RESULTS
from charjax import cli, files
from charjax.errors import UserError, did_you_mean
from charjax.hardware import in_words, machine_facts
from charjax.run.display import shown_loss
from charjax.units import shown_bytes

OUT = RESULTS / "mixtures-cpu.json"
_HEADS = ("", "split", "mixture", "network alone", "counts alone", "parameters", "bytes", "time")


class Recipe(NamedTuple):
    """A configuration that is trained and scored.

    Attributes:
      name: of the row.
      text: for the table.
      config: a shipped configuration.
      overrides: settings on top of it.
      split: the one that is scored.
      seeds: how many, unless --seeds is given.
    """

    name: str
    text: str
    config: str
    overrides: tuple[str, ...] = ()
    split: str = "val"
    seeds: int = 3


RECIPES = (
    Recipe("minute", "Tiny Shakespeare", "shakespeare-mixture"),
    Recipe("best", "Tiny Shakespeare", "shakespeare-mixture-best"),
    Recipe(
        "warpeace",
        "War and Peace",
        "shakespeare-mixture",
        ("data.name=warpeace", "data.split=interleaved"),
        "test",
        1,
    ),
    Recipe(
        "stdlib",
        "Python's library",
        "shakespeare-mixture",
        ("data.name=stdlib", "data.split=tail"),
        seeds=1,
    ),
)


def main(argv: list[str]) -> int:
    """Run the recipes one by one, and merge the results into the file; returns 0."""
    args = _arguments(argv)
    for recipe in args.only:
        seeds = args.seeds or recipe.seeds
        rows = [_run(recipe, seed) for seed in range(seeds)]
        tree = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
        tree[recipe.name] = {
            "command": f"python -m benchmarks.mixtures --only {recipe.name} --seeds {seeds}",
            "train": " ".join(_words(recipe)),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "hardware": machine_facts(),
            "text": recipe.text,
            "split": recipe.split,
            "runs": rows,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        files.replace(args.out, json.dumps(tree, indent=1, sort_keys=True) + "\n")
    return 0


def table(folder: Path = RESULTS) -> str:
    """Return the rows of mixtures-cpu.json as a table, with what made them."""
    path = folder / OUT.name
    tree = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = [(recipe.name, tree[recipe.name]) for recipe in RECIPES if recipe.name in tree]
    if not rows:
        return "Not run yet; `python -m benchmarks.mixtures`."
    lines = [f"| {' | '.join(_HEADS)} |", f"|---|---|{'---:|' * (len(_HEADS) - 2)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for _, row in rows]
    lines.append("")
    for name, row in rows:
        lines.append(
            f"- {row['text']}, {name}: `{row['train']}`, {len(row['runs'])} seed"
            f"{'s' if len(row['runs']) > 1 else ''}, on {in_words(row['hardware'])}."
        )
    return "\n".join(lines)


def header(config: str, folder: Path = RESULTS) -> list[str]:
    """Return the header lines of a configuration that is a row as it is; [] for any other."""
    path = folder / OUT.name
    tree = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    plain = {recipe.config: recipe.name for recipe in RECIPES if not recipe.overrides}
    if (row := tree.get(plain.get(config, ""))) is None:
        return []
    seeds = len(row["runs"])
    cells = dict(zip(_HEADS, _cells(row), strict=True))
    return [
        f"# Measured: {row['command']}",
        f"# Measured: {row['split']} {cells['mixture']} ({seeds} seed{'s' if seeds > 1 else ''}); "
        f"{cells['time']} in all on",
        f"# Measured: {in_words(row['hardware'])}.",
    ]


def _cells(row: dict[str, Any]) -> list[str]:
    runs = row["runs"]
    experts = {name: [run["experts"][name] for run in runs] for name in runs[0]["experts"]}
    counts = [
        f"{shown_loss(values[0])} ({name.removeprefix('counts of ')})"
        for name, values in experts.items()
        if name != "network"
    ]
    sizes = runs[0]["model_bytes"]
    return [
        row["text"],
        row["split"],
        _losses([run["loss"] for run in runs]),
        _losses(experts["network"]),
        ", ".join(counts),
        f"{runs[0]['params']:,}",
        " and ".join(f"{shown_bytes(size)} of {name}" for name, size in sizes.items()),
        f"{statistics.median(run['seconds'] for run in runs):.0f} s",
    ]


def _losses(values: list[float]) -> str:
    """Return the median, and the range of several."""
    median = shown_loss(statistics.median(values))
    if len(values) == 1:
        return median
    return f"{median} ({shown_loss(min(values))} to {shown_loss(max(values))})"


def _words(recipe: Recipe) -> list[str]:
    return ["charjax", "train", recipe.config, *recipe.overrides]


def _run(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Train and score one seed."""
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        began = time.perf_counter()
        settings = (*recipe.overrides, f"train.seed={seed}")
        _command("charjax.train", recipe.config, *settings, "--workdir", run)
        seconds = time.perf_counter() - began
        summary = json.loads((Path(run) / "summary.json").read_text(encoding="utf-8"))
        flags = ("--split", recipe.split, "--checkpoint", "latest", "--json")
        score = json.loads(_command("charjax.evaluate", run, *flags))
    print(f"{recipe.name}, seed {seed}: {recipe.split} {score['loss']:.4f}, {seconds:.1f} s")
    shown = ("loss", "bpc", "tokens", "experts", "model_bytes", "step")
    return {
        "seed": seed,
        "seconds": seconds,
        "params": summary["params"],
        **{name: score[name] for name in shown},
    }


def _command(module: str, *words: str) -> str:
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser(
        prog="python -m benchmarks.mixtures",
        usage="%(prog)s [options]",
        description="Train and score networks beside counts, seed by seed.",
    )
    names = ", ".join(recipe.name for recipe in RECIPES)
    parser.add_argument(
        "--only", metavar="NAME,...", type=_recipes, default=RECIPES, help=f"of {names} (all)"
    )
    parser.add_argument("--seeds", metavar="N", type=cli.whole_number(1), help="(each row's own)")
    parser.add_argument(
        "--out", metavar="FILE.json", type=Path, default=OUT, help=f"({OUT.name} of the results)"
    )
    return parser.parse_args(argv)


def _recipes(text: str) -> tuple[Recipe, ...]:
    known = {recipe.name: recipe for recipe in RECIPES}
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"--only: {unknown[0]!r} given; allowed: {', '.join(known)}"
            f"{did_you_mean(unknown[0], known)}"
        )
    return tuple(known[name] for name in names)


if __name__ == "__main__":
    cli.run(main)
