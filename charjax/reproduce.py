"""`python -m charjax.reproduce`: measure what is published, and say whether it was reproduced.

python -m charjax.reproduce [--tier cpu|gpu] [--only NAME] [--seeds N] [--out DIR] [--resume]
                            [--list]
"""

import argparse
import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charjax import cli, reproduce
from charjax.errors import UserError
from charjax.reproduction import output
from charjax.reproduction.published import ORDERINGS, ROWS, select
from charjax.reproduction.rows import Row

if TYPE_CHECKING:
    from charjax.reproduction.measure import Result
    from charjax.signals import Signals


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    args = reproduce.reproduce_arguments(argv)
    if args.list:
        _list()
        return 0
    chosen = select(args.only) if args.only else ()
    from charjax.signals import Signals

    with Signals() as signals:
        return _reproduce(args, argv, chosen, signals)


def _list() -> None:
    for row in ROWS:
        sys.stdout.write(f"{row.name:<34} {row.tier:<5} {row.text}: {row.title}\n")


def _reproduce(
    args: Namespace, argv: list[str], chosen: tuple[Row, ...], signals: "Signals"
) -> int:
    from charjax import backend
    from charjax.config import RuntimeConfig
    from charjax.reproduction import report
    from charjax.reproduction.measure import compare, failures, row_config
    from charjax.run.lock import Lock
    from charjax.signals import Interrupted

    backend.make_device_of_every_core()
    devices = backend.start_backend(RuntimeConfig())
    has_gpu = devices[0].platform == "gpu"
    rows, runnable = _plan(args, chosen, has_gpu)
    for row in runnable:
        row_config(row)
    out = output.results_directory(args.out, args.resume, "reproduce")
    lock = Lock(out)
    lock.acquire()
    path = out / "results.json"
    results = report.read_results(path) if path.exists() else {}
    console = output.make_console()
    output.say(console, f"results: {out}")
    command = f"python -m charjax.reproduce {shlex.join(argv)}".strip()

    def orders() -> list[dict[str, Any]]:
        pairs = [o for o in ORDERINGS if o.worse in results and o.better in results]
        return [compare(order, results) for order in pairs]

    if not runnable:
        print(
            "note: nothing to run: these rows need a GPU, and JAX finds none here", file=sys.stderr
        )
    try:
        report.write_results(path, list(results.values()), orders(), command)
        for number, row in enumerate(runnable, start=1):
            seeds = args.seeds or row.seeds
            if row.name in results and _same(results[row.name], row, seeds):
                continue
            results[row.name] = _measure(row, seeds, f"{number}/{len(runnable)}", console, signals)
            # Row by row, so that a run that is stopped has kept what it finished.
            report.write_results(path, list(results.values()), orders(), command)
            _draw(out, results[row.name])
        page = report.document(rows, results, orders(), command)
        (out / "RESULTS.md").write_text(page, encoding="utf-8")
        report.show(console, rows, results, orders())
    except Interrupted as stop:
        output.say_how_to_go_on(stop, "charjax.reproduce", argv, "rows", out, args.out is not None)
        return stop.status
    finally:
        lock.release()
    failed = failures([results[row.name] for row in runnable], orders())
    if failed:
        cli.complain(f"out of tolerance: {', '.join(failed)}")
    output.say(console, f"results: {out}")
    return 1 if failed else 0


def _plan(
    args: Namespace, chosen: tuple[Row, ...], has_gpu: bool
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The rows of the table, and those of them that are run here."""
    tier = args.tier or ("gpu" if has_gpu else "cpu")
    if chosen:
        rows = tuple(row for row in chosen if args.tier in (None, row.tier))
        runnable = rows
        if not rows:
            raise UserError(
                f"--only: no row of that name is in --tier {tier}; leave out --tier to run it "
                "wherever it is"
            )
    else:
        rows = tuple(row for row in ROWS if tier == "cpu" or row.tier != "cpu")
        runnable = tuple(row for row in rows if row.tier == tier)
    # A row of the GPU's is never given a number that was made without one.
    return rows, tuple(row for row in runnable if has_gpu or row.tier != "gpu")


def _same(result: "Result", row: Row, seeds: int) -> bool:
    """Whether a result is of this row as it stands, from this machine and these versions."""
    from charjax.hardware import machine_facts
    from charjax.reproduction.measure import row_config

    config = row_config(row)
    fitted = config.model.kind == "ngram"
    here = machine_facts() | {"date": result["hardware"]["date"]}
    return (
        result["config_digest"] == config.digest()
        and len(result["runs"]) == (1 if fitted else seeds)
        and result["hardware"] == here
        and {f["quantity"] for f in result["figures"]} == {f.quantity for f in row.figures}
    )


def _measure(row: Row, seeds: int, place: str, console: Any, signals: "Signals") -> "Result":
    """Run a row with a bar, and print its line."""
    from charjax.reproduction.measure import run_row

    with output.progress_bar(console, f"{place} {row.name}", "steps") as bar:

        def report_progress(done: int, total: int) -> None:
            bar.update(completed=done, total=total)

        result = run_row(row, seeds, report_progress, signals.poll)
    figure = result["figures"][0]
    console.print(
        f"{place} {row.name}: {figure['measured']['mean']:.4f}, {figure['verdict']} "
        f"({len(result['runs'])} x {result['steps']} steps, {result['seconds']:.0f} s)",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    return result


def _draw(out: Path, result: "Result") -> None:
    """The validation curves of a row's seeds."""
    from charjax.reproduction.curves import draw_row

    if any(len(run["curve"]) > 1 for run in result["runs"]):
        (out / "curves").mkdir(exist_ok=True)
        draw_row(result, out / "curves" / f"{result['name']}.png")


def reproduce_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse `charjax.reproduce`'s; `tier`, `seeds` and `out` are None unless given."""
    parser = cli.Parser(
        prog="python -m charjax.reproduce",
        usage="%(prog)s [options]",
        description="Measure what is published, and say whether it was reproduced. The exit "
        "status is 1 if a row is out of its tolerance.",
    )
    parser.add_argument(
        "--tier",
        choices=("cpu", "gpu"),
        help="cpu: what two cores finish in 40 minutes; gpu: what needs one (what there is)",
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help="this row, of any tier; several times for several; patterns as in 'names-mlp-*'",
    )
    parser.add_argument(
        "--seeds", metavar="N", type=cli.whole_number(1, 10_000), help="runs a row (each row's own)"
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
