"""`charjax compare`: the scores of several runs, the settings that differ, and a picture.

charjax compare RUN RUN [RUN ...] [--out FILE.png] [--json]
"""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charjax import cli
from charjax.config.values import value_text
from charjax.errors import UserError, printable

if TYPE_CHECKING:
    import pandas as pd


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = cli.Parser(
        prog="charjax compare",
        usage="%(prog)s RUN RUN [RUN ...] [options]",
        description="Compare runs on one text: scores (losses in nats per character) and the "
        "settings that differ.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="directories of runs")
    parser.add_argument(
        "--out", metavar="FILE.png", type=Path, help="draw training and validation losses there"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if args.out is not None:
        _check_out(args.out)
    from charjax.run.comparison import compare_runs, save_figure

    both = compare_runs([Path(run) for run in args.runs])
    if args.out is not None:
        save_figure(both.figure, args.out)
    if args.json:
        tree = {
            "scores": _tree(both.scores.T),
            "settings": _tree(both.settings),
            "notes": list(both.notes),
        }
        sys.stdout.write(json.dumps(tree, allow_nan=False) + "\n")
        return 0
    for note in both.notes:
        cli.remark(note)
    _print("losses: nats per character", both.scores.T, _score)
    print()
    if both.settings.empty:
        print("no setting differs")
    else:
        _print("settings that differ", both.settings, _setting)
    if args.out is not None:
        print(f"written: {printable(str(args.out))}")
    return 0


def _check_out(out: Path) -> None:
    """Raise a UserError unless a picture can be written to a file of this name."""
    if out.suffix != ".png":
        raise UserError(f"--out: {str(out)!r} given; its name must end with .png")
    if out.is_dir():
        raise UserError(f"--out: {str(out)!r} is a directory; give a file, as in curves.png")
    if not out.parent.is_dir():
        raise UserError(f"--out: there is no directory {str(out.parent)!r}; make it first")


def _tree(frame: "pd.DataFrame") -> dict[str, dict[str, Any]]:
    """Return {run: {name: value}}; None where a run has none."""
    return {
        str(run): {
            str(name): None if isinstance(value, float) and math.isnan(value) else _plain(value)
            for name, value in frame[run].items()
        }
        for run in frame.columns
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    return value.item() if hasattr(value, "item") else value


def _print(title: str, frame: "pd.DataFrame", show: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from charjax.run.display import Display

    table = Table(box=None, pad_edge=False)
    table.add_column(title, no_wrap=True)
    for run in frame.columns:
        table.add_column(printable(str(run)), justify="right", no_wrap=True)
    for name, row in frame.iterrows():
        table.add_row(str(name), *(printable(show(str(name), _plain(value))) for value in row))
    Display(Console()).table(table)


def _score(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.4f}" if name.endswith(("loss", "bpc", "bpb")) else f"{value:,.0f}"


def _setting(name: str, value: Any) -> str:
    return "" if isinstance(value, float) and math.isnan(value) else value_text(value)
