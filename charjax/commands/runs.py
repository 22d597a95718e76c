"""`charjax runs`: list the runs of a directory, and free the space of old checkpoints.

charjax runs [DIR] [--prune] [--json]
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from charjax import cli
from charjax.errors import printable
from charjax.units import shown_bytes

if TYPE_CHECKING:
    from charjax.run.listing import ListedRun


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = cli.Parser(
        prog="charjax runs",
        usage="%(prog)s [DIR] [options]",
        description="List the runs of a directory: state, step, best validation loss (nats per "
        "character), size.",
    )
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", default="runs", help="where to look (runs)"
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove the checkpoints of each run but for the best and the latest one",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    from charjax.run.listing import describe_run, list_runs, prune_run

    runs, pruned = list_runs(Path(args.directory)), []
    if args.prune:
        for run in runs:
            freed, reason = prune_run(run)
            pruned.append({"directory": str(run.directory), "bytes": freed, "skipped": reason})
        runs = [describe_run(run.directory) for run in runs]
    if args.json:
        tree = {"runs": [run.to_json() for run in runs]} | ({"pruned": pruned} if pruned else {})
        sys.stdout.write(json.dumps(tree, allow_nan=False) + "\n")
        return 0
    _print(runs, args.directory)
    for each in pruned:
        if each["skipped"]:
            cli.remark(f"{each['directory']}: nothing removed: {each['skipped']}")
    if pruned:
        freed = sum(each["bytes"] for each in pruned)  # type: ignore[misc]
        print(f"freed {shown_bytes(freed)} of old checkpoints")
    return 0


def _print(runs: list["ListedRun"], directory: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from charjax.run.display import Display

    if not runs:
        print(f"no runs in {printable(directory)}")
        return
    table = Table(box=None, pad_edge=False)
    for name, side in (
        ("run", "left"), ("state", "left"), ("model", "left"), ("step", "right"),
        ("best val", "right"), ("at step", "right"), ("size", "right"),
    ):  # fmt: skip
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for run in runs:
        best = run.best_val_loss
        table.add_row(
            printable(str(run.directory)),
            run.state,
            run.kind,
            f"{run.step:,}/{run.steps:,}" if run.state != "damaged" else "",
            "" if best is None else f"{best:.4f}",
            "" if run.best_step is None else f"{run.best_step:,}",
            shown_bytes(run.size),
        )
    Display(Console()).table(table)
