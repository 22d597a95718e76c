"""`python -m charjax.reproduce`: measure what is published, and report what was reproduced.

python -m charjax.reproduce [--tier cpu|cpu-long|gpu] [--only NAME] [--seeds N] [--out DIR]
                            [--resume] [--list]
"""

import dataclasses
import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charjax import cli
from charjax.errors import UserError
from charjax.reproduction import output
from charjax.reproduction.published import ORDERINGS, ROWS, select
from charjax.reproduction.rows import LONG, Row

if TYPE_CHECKING:
    from rich.console import Console

    from charjax.signals import Signals


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    args = _arguments(argv)
    if args.list:
        _list()
        return 0
    chosen = select(args.only) if args.only else ()
    from charjax.signals import Signals

    with Signals() as signals:
        return _reproduce(args, argv, chosen, signals)


def _list() -> None:
    for row in ROWS:
        tiers = f"{row.tier},{LONG}" if row.is_in(LONG) else row.tier
        sys.stdout.write(f"{row.name:<34} {tiers:<13} {row.text}: {row.title}\n")


def _reproduce(
    args: Namespace, argv: list[str], chosen: tuple[Row, ...], signals: "Signals"
) -> int:
    from charjax import backend
    from charjax.config import RuntimeConfig
    from charjax.reproduction import measure, report

    backend.make_device_of_every_core()
    devices = backend.start_backend(RuntimeConfig())
    rows, runnable = _plan(args, chosen, has_gpu=devices[0].platform != "cpu")
    for row in runnable:
        measure.row_config(row)
    command = f"python -m charjax.reproduce {shlex.join(cli.without_out(argv))}".strip()

    def orderings(results: output.Results) -> list[dict[str, Any]]:
        pairs = [pair for pair in ORDERINGS if {pair.worse, pair.better} <= results.keys()]
        return [measure.compare(pair, results) for pair in pairs]

    def start(out: Path, results: output.Results, console: "Console") -> None:
        if not runnable:
            cli.remark("nothing to run: these rows need an accelerator, and JAX finds none here")
        write(out, results)

    def write(out: Path, results: output.Results) -> None:
        content = {"rows": list(results.values()), "orders": orderings(results)}
        output.write_results(out / "results.json", command, content)

    def save(out: Path, results: output.Results, result: output.Result) -> None:
        write(out, results)
        if any(len(run["curve"]) > 1 for run in result["runs"]):
            (out / "curves").mkdir(exist_ok=True)
            report.draw_row(result, out / "curves" / f"{result['name']}.png")

    def finish(out: Path, results: output.Results, console: "Console") -> list[str]:
        page = report.document(rows, results, orderings(results), command)
        (out / "RESULTS.md").write_text(page, encoding="utf-8")
        report.show(console, rows, results, orderings(results))
        return measure.failures([results[row.name] for row in runnable], orderings(results))

    if args.tier == LONG:
        jobs = [_long_job(row, args.seeds or row.long_seeds, signals) for row in runnable]
    else:
        jobs = [_job(row, args.seeds or row.seeds) for row in runnable]
    also_saved = " and the run under way" if args.tier == LONG else ""
    this = output.Command("charjax.reproduce", "reproduce", "rows", start, save, finish, also_saved)
    return output.run(this, args, argv, jobs, signals)


def _plan(
    args: Namespace, chosen: tuple[Row, ...], *, has_gpu: bool
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Return the rows of the table, and those of them that are run here."""
    tier = args.tier or ("gpu" if has_gpu else "cpu")
    if chosen:
        rows = tuple(row for row in chosen if args.tier is None or row.is_in(args.tier))
        runnable = rows
        if not rows:
            raise UserError(
                f"--only: no row of that name is in --tier {tier}; leave out --tier to run it "
                "wherever it is"
            )
    else:
        rows = tuple(row for row in ROWS if tier != "gpu" or row.tier != "cpu")
        runnable = tuple(row for row in rows if row.is_in(tier))
    if tier == LONG:
        return rows, runnable
    # Without a GPU its rows are not run in their own tier.
    return rows, tuple(row for row in runnable if has_gpu or row.tier != "gpu")


def _job(row: Row, seeds: int) -> output.Job:
    """Return the job that measures a row with so many seeds."""
    from charjax.reproduction import measure

    def is_current(result: output.Result) -> bool:
        config = measure.row_config(row)
        is_fitted = config.model.fitted
        return (
            result["config_digest"] == config.digest()
            and len(result["runs"]) == (1 if is_fitted else seeds)
            and output.is_from_here(result)
            and {f["quantity"] for f in result["figures"]} == {f.quantity for f in row.figures}
        )

    def describe(result: output.Result) -> str:
        figure = result["figures"][0]
        return (
            f"{figure['measured']['mean']:.4f}, {figure['verdict']} "
            f"({len(result['runs'])} x {result['steps']} steps, {result['seconds']:.0f} s)"
        )

    def run(out: Path, progress: Any, poll: Any) -> output.Result:
        return measure.run_row(row, seeds, progress, poll)

    return output.Job(row.name, "steps", is_current, run, describe)


def _long_job(row: Row, seeds: int, signals: "Signals") -> output.Job:
    """Return the job that measures a row by runs with checkpoints."""
    from charjax.reproduction import long_runs

    def run(out: Path, progress: Any, poll: Any) -> output.Result:
        return long_runs.run_row(row, seeds, out / "runs", signals, progress)

    return dataclasses.replace(_job(row, seeds), measure=run)


def _arguments(argv: list[str]) -> Namespace:
    """Parse the command line; `tier`, `seeds` and `out` are None unless given."""
    parser = cli.Parser(
        prog="charjax reproduce",
        usage="%(prog)s [options]",
        description="Measure published figures, and report which are reproduced. The exit "
        "status is 1 if a row is out of its tolerance.",
    )
    parser.add_argument(
        "--tier",
        choices=("cpu", LONG, "gpu"),
        help="cpu: what two cores finish in 40 minutes; cpu-long: in 3 hours; gpu: what needs one "
        "(default: cpu or gpu, what the machine has)",
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help="this row, of any tier; several times for several; patterns as in 'names-mlp-*'",
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=cli.whole_number(1, 10_000),
        help="runs per row (each row's default)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where results.json goes (a new directory in runs/)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows that --out already has, run the rest"
    )
    parser.add_argument("--list", action="store_true", help="print the rows' names, and stop")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
