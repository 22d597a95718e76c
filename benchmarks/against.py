"""This working tree and another commit: the same commands, in turns.

    python -m benchmarks.against COMMIT [--only NAME,...] [--turns N] [--quick] [--out FILE.json]

A clone of the commit and a copy of the working tree take turns: then, now, then, now, ... Each has
its own cache of compiled programs, which is filled before the clock starts. The two have the same
Python where they require the same packages; otherwise the commit gets a virtual environment, kept
in the user's cache for the next time, with the versions that are installed here.

A training command does so many steps that the slower side takes about 10 seconds; the clock runs
from a tenth of the steps to the last, through what the loop does between them. Samplers and sweeps
report their own time, without compilation. "Processor" is the time of all threads of the whole
command, its start included. Both are per unit of work; a ratio above 1 means that this tree is
faster, and is the median of the ratios of the turns.
"""

import argparse
import datetime
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from benchmarks import processes, results_file
from benchmarks.against_trees import Side, find_commit, make_sides
from benchmarks.against_workloads import WORKLOADS, Size, Time, Turn, Workload
from charjax import cli
from charjax.errors import UserError, did_you_mean
from charjax.hardware import flags, in_words, machine_facts
from charjax.performance.failures import LeftOut, first_line
from charjax.performance.show import Column, Row, make_console, make_table, quantity
from charjax.performance.timing import paired_ratio, summary

TURNS = 5
_SIZE, _QUICK_SIZE = Size(10.0, 1), Size(2.0, 16)


def main(argv: list[str]) -> int:
    """Measure, print, and write the result; 0, or 1 where a command of this tree failed."""
    args = _arguments(argv)
    workloads = select(args.only)
    commit = find_commit(args.commit)
    # Of a machine with a GPU, too, the facts are those of its processor.
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory(prefix="charjax-against-") as folder:
        sides = make_sides(commit, Path(folder))
        tree = {
            "benchmark": "against",
            "command": f"python -m benchmarks.against {shlex.join(cli.without_out(argv))}",
            "quick": args.quick,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "hardware": machine_facts(),
            "flags": flags(),
            "load": os.getloadavg()[0],
            "turns": args.turns,
            "sides": {name: side.facts for name, side in sides.items()},
            "rows": [],
        }
        try:
            for workload in workloads:
                row = measure(workload, sides, _QUICK_SIZE if args.quick else _SIZE, args.turns)
                tree["rows"].append(row)
                print(f"{workload.name}: {_in_words(row)}", file=sys.stderr, flush=True)
                if args.out:
                    results_file.write(args.out, tree)
        except processes.Stopped as stop:
            return stop.status
    _print(tree)
    if args.out is None and not (args.quick or args.only):
        args.out = results_file.RESULTS / "against-cpu.json"
        results_file.write(args.out, tree)
    if args.out:
        print(f"written: {args.out}", file=sys.stderr)
    return int(any("now" in row.get("why", {}) for row in tree["rows"]))


def measure(workload: Workload, sides: dict[str, Side], size: Size, turns: int) -> Row:
    """Return the row of a workload; "why" has a line for each side that cannot run it."""
    row: Row = {"name": workload.name, "title": workload.title, "unit": workload.unit}
    able, why = _prepare(workload, sides, size)
    found: dict[str, list[Time]] = {name: [] for name in able}
    for _ in range(turns):
        for name, turn in able.items():
            try:
                found[name].append(turn(sides[name]))
            except Exception as error:
                why[name] = _reason(error)
    for name in why.keys() & found.keys():
        del found[name]
    for name, times in found.items():
        row[name] = {
            "seconds": summary([time.seconds for time in times]),
            "processor_seconds": summary([time.processor_seconds for time in times]),
        }
    if len(found) == 2:
        row["ratio"], row["processor_ratio"] = (
            paired_ratio(row["now"][key]["repeats"], row["then"][key]["repeats"])
            for key in ("seconds", "processor_seconds")
        )
    return row | ({"why": why} if why else {})


def _prepare(
    workload: Workload, sides: dict[str, Side], size: Size
) -> tuple[dict[str, Turn], dict[str, str]]:
    """Return the turns of the sides that can run a workload, and why the others cannot."""
    try:
        turn = workload.prepare(sides, size)
        return dict.fromkeys(sides, turn), {}
    except processes.Stopped:
        raise
    except Exception:
        able, why = {}, {}
    # Each alone: the other is still measured.
    for name, side in sides.items():
        try:
            able[name] = workload.prepare({name: side}, size)
        except processes.Stopped:
            raise
        except Exception as error:
            why[name] = _reason(error)
    return able, why


def _reason(error: Exception) -> str:
    """Return one line on what stopped a workload; a signal is raised again."""
    if isinstance(error, processes.Stopped):
        raise error
    return str(error) if isinstance(error, LeftOut | UserError) else first_line(error)


def select(only: str | None) -> list[Workload]:
    """Return the workloads of --only, in their own order.

    Raises:
      UserError: there is none of such a name.
    """
    if only is None:
        return list(WORKLOADS)
    known = [workload.name for workload in WORKLOADS]
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in known:
            raise UserError(
                f"--only: {name!r} given; allowed: {', '.join(known)}{did_you_mean(name, known)}"
            )
    return [workload for workload in WORKLOADS if workload.name in names]


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser(
        prog="python -m benchmarks.against",
        usage="%(prog)s COMMIT [--only NAME,...] [--turns N] [--quick] [--out FILE.json]",
        description=__doc__ or "",
    )
    parser.add_argument("commit", metavar="COMMIT", help="a hash, a branch or a tag")
    names = ", ".join(workload.name for workload in WORKLOADS)
    parser.add_argument("--only", metavar="NAME,...", help=f"these workloads: {names}")
    parser.add_argument(
        "--turns",
        metavar="N",
        type=cli.whole_number(1, 1000),
        default=TURNS,
        help=f"of each side ({TURNS}; fewer are only a trial)",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: a trial")
    parser.add_argument(
        "--out",
        metavar="FILE.json",
        type=Path,
        help="the result (benchmarks/results/against-cpu.json; a trial, or a part, is not saved)",
    )
    args = parser.parse_args(argv)
    if args.out is not None and args.out.suffix != ".json":
        raise UserError(f"--out: {str(args.out)!r} given; its name must end with .json")
    return args


def _in_words(row: Row) -> str:
    if "why" in row:
        return "; ".join(f"{name}: {why}" for name, why in row["why"].items())
    return f"{row['ratio']['median']:.2f} x"


def side_in_words(facts: dict[str, Any]) -> str:
    """Return the commit of a side, and what it was run with."""
    changed = len(facts["changed"])
    differs = f" and {changed} changed file{'s' if changed > 1 else ''}" if changed else ""
    return f"{facts['commit'][:7]}{differs} ({facts['environment']})"


def _time(name: str, key: str) -> Column:
    def cell(row: Row) -> str:
        if name not in row:
            return f"not run: {row['why'][name]}" if key == "seconds" else ""
        unit = f" per {row['unit']}" if row["unit"] else ""
        return f"{quantity(row[name][key]['median'], 's')}{unit}"

    return f"{name}{', processor' if key != 'seconds' else ''}", cell


def _ratio(head: str, key: str) -> Column:
    def cell(row: Row) -> str:
        if key not in row:
            return ""
        low, mid, high = (row[key][each] for each in ("q1", "median", "q3"))
        return f"{mid:.2f} ({low:.2f} to {high:.2f})"

    return head, cell


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: f"{row['title']} ({row['name']})"),
    _time("then", "seconds"),
    _time("now", "seconds"),
    _ratio("times as fast", "ratio"),
    _time("then", "processor_seconds"),
    _time("now", "processor_seconds"),
    _ratio("times as little processor time", "processor_ratio"),
)


def _print(tree: dict[str, Any]) -> None:
    console = make_console()
    console.print(make_table(f"against ({in_words(tree['hardware'])})", COLUMNS, tree["rows"]))
    for name, facts in tree["sides"].items():
        print(f"{name}: {side_in_words(facts)}")


if __name__ == "__main__":
    cli.run(main)
