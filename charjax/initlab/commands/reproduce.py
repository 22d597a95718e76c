"""`python -m charjax.initlab reproduce`: published numbers on initialisation, with verdicts.

python -m charjax.initlab reproduce [NAME|all ...] [--tier cpu|gpu] [--out DIR] [--resume] [--list]
"""

import shlex
import sys
import time
from argparse import Namespace
from typing import TYPE_CHECKING

from charjax import cli
from charjax.errors import UserError
from charjax.initlab import reproductions
from charjax.reproduction import output
from charjax.reproduction.checks import Check, Reproduction, Tier, not_run

if TYPE_CHECKING:
    from rich.console import Console

    from charjax.reproduction.check_report import Result
    from charjax.signals import Signals


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    args = _arguments(argv)
    if args.list:
        for each in reproductions.REPRODUCTIONS:
            sys.stdout.write(f"{each.number:>2}  {each.name:<20} {each.title}\n")
        return 0
    chosen = reproductions.select(args.names)
    if args.resume and args.out is None:
        raise UserError("--resume: no --out given; name the directory of the results to go on with")
    from charjax.signals import Signals

    with Signals() as signals:
        return _reproduce(args, argv, chosen, signals)


def _arguments(argv: list[str]) -> Namespace:
    parser = cli.Parser(
        prog="python -m charjax.initlab reproduce",
        usage="%(prog)s [NAME|all ...] [options]",
        description="Measure what is published on initialisation, and say whether it was "
        "reproduced. The\nexit status is 1 if a number is out of its tolerance.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="which, by name or number; see --list (all)"
    )
    parser.add_argument(
        "--tier",
        choices=("cpu", "gpu"),
        help="cpu: all in 30 minutes on two cores; gpu: more seeds, wider nets (what there is)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where results.json goes (a new directory in runs/)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep what --out already has, run the rest"
    )
    parser.add_argument("--list", action="store_true", help="print the names, and stop")
    return parser.parse_intermixed_args(argv)


def _reproduce(
    args: Namespace, argv: list[str], chosen: tuple[Reproduction, ...], signals: "Signals"
) -> int:
    from charjax import backend
    from charjax.config import DataConfig, RuntimeConfig
    from charjax.data.corpora import load_corpus
    from charjax.reproduction import check_report as report
    from charjax.run.lock import Lock
    from charjax.signals import Interrupted

    backend.make_device_of_every_core()
    has_gpu = backend.start_backend(RuntimeConfig())[0].platform == "gpu"
    tier: Tier = args.tier or ("gpu" if has_gpu else "cpu")
    for name in sorted({name for each in chosen for name in each.corpora}):
        load_corpus(DataConfig.model_validate({"name": name}))
    out = output.results_directory(args.out, args.resume, "initlab-reproduce")
    lock = Lock(out)
    lock.acquire()
    path, console = out / "results.json", output.make_console()
    command = f"python -m {report.PROGRAM} {shlex.join(cli.without_out(argv))}".strip()
    try:
        results = report.read_results(path) if path.exists() else {}
        output.say(console, f"results: {out}")
        for place, each in enumerate(chosen, start=1):
            if each.name in results and report.is_current(results[each.name], tier):
                continue
            told = f"{place}/{len(chosen)} {each.name}"
            results[each.name] = _measure(each, tier, has_gpu, told, console, signals)
            # One by one, so that a run that is stopped has kept what it finished.
            report.write_results(path, list(results.values()), command)
            page = report.document(list(results.values()), command)
            (out / "RESULTS.md").write_text(page, encoding="utf-8")
    except Interrupted as stop:
        output.say_how_to_go_on(
            stop, report.PROGRAM, argv, "reproductions", out, args.out is not None
        )
        return stop.status
    finally:
        lock.release()
    asked = [results[each.name] for each in chosen]
    report.show(console, asked)
    failed = report.failures(asked)
    if failed:
        cli.complain(f"out of tolerance: {', '.join(failed)}")
    output.say(console, f"results: {out}")
    return 1 if failed else 0


def _measure(
    each: Reproduction,
    tier: Tier,
    has_gpu: bool,
    place: str,
    console: "Console",
    signals: "Signals",
) -> "Result":
    """Run a reproduction with a bar, and print its line."""
    from charjax.reproduction import check_report as report

    began = time.perf_counter()
    with output.progress_bar(console, place, "pieces") as bar:

        def report_progress(done: int, total: int) -> None:
            bar.update(completed=done, total=total)

        checks: list[Check]
        if tier == "gpu" and each.larger_on_gpu and not has_gpu:
            why = "the GPU tier's size needs a GPU, and JAX finds none here"
            checks = [not_run(each.title, why)]
        else:
            checks = list(each.run(tier, report_progress, signals.poll))
    result = report.result_of(each, tier, checks, time.perf_counter() - began)
    verdicts = [check.verdict for check in checks]
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    output.say(console, f"{place}: {words} ({result['seconds']:.0f} s)")
    return result
