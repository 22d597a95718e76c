"""`python -m charjax.initlab reproduce`: published numbers on initialisation, with verdicts.

python -m charjax.initlab reproduce [NAME|all ...] [--tier cpu|gpu] [--out DIR] [--resume] [--list]
"""

import datetime
import functools
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from charjax import cli
from charjax.initlab import reproductions
from charjax.initlab.reproductions import Reproduction
from charjax.reproduction import output
from charjax.reproduction.checks import Check, Poll, Progress, Tier, not_run

if TYPE_CHECKING:
    from rich.console import Console

    from charjax.signals import Signals

_PROGRAM = "charjax.initlab reproduce"


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    args = _arguments(argv)
    if args.list:
        for each in reproductions.REPRODUCTIONS:
            sys.stdout.write(f"{each.number:>2}  {each.name:<20} {each.title}\n")
        return 0
    chosen = reproductions.select(args.names)
    output.check_resume(args.out, args.resume)
    from charjax.signals import Signals

    with Signals() as signals:
        return _reproduce(args, argv, chosen, signals)


def _arguments(argv: list[str]) -> Namespace:
    parser = cli.Parser(
        prog="charjax initlab reproduce",
        usage="%(prog)s [NAME|all ...] [options]",
        description="Measure published numbers on initialisation, and report which are reproduced. "
        "The\nexit status is 1 if a number is out of its tolerance.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="which, by name or number; see --list (all)"
    )
    parser.add_argument(
        "--tier",
        choices=("cpu", "gpu"),
        help="cpu: all in 30 minutes on two cores; gpu: more seeds, wider nets (default: "
        "what the machine has)",
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

    backend.make_device_of_every_core()
    has_gpu = backend.start_backend(RuntimeConfig())[0].platform != "cpu"
    tier: Tier = args.tier or ("gpu" if has_gpu else "cpu")
    for name in sorted({name for each in chosen for name in each.corpora}):
        load_corpus(DataConfig.model_validate({"name": name}))
    command = f"python -m {_PROGRAM} {shlex.join(cli.without_out(argv))}".strip()

    def save(out: Path, results: output.Results, _: output.Result) -> None:
        _write_results(out / "results.json", results, command)
        page = report.document(list(results.values()), command)
        (out / "RESULTS.md").write_text(page, encoding="utf-8")

    def finish(out: Path, results: output.Results, console: "Console") -> list[str]:
        asked = [results[each.name] for each in chosen]
        report.show(console, asked)
        return report.failures(asked)

    jobs = [
        output.Job(
            name=each.name,
            unit="pieces",
            is_current=lambda result: result["tier"] == tier and output.is_from_here(result),
            measure=functools.partial(_measure, each, tier, has_gpu),
            describe=report.verdicts_in_words,
        )
        for each in chosen
    ]
    this = output.Command(
        program=_PROGRAM,
        kind="initlab-reproduce",
        key="reproductions",
        start=lambda out, results, console: None,
        save=save,
        finish=finish,
    )
    return output.run(this, args, argv, jobs, signals)


def _write_results(path: Path, results: output.Results, command: str) -> None:
    from charjax.hardware import machine_facts

    ordered = sorted(results.values(), key=lambda result: result["number"])
    content = {"hardware": machine_facts(), "reproductions": ordered}
    output.write_results(path, command, content)


def _measure(
    each: Reproduction, tier: Tier, has_gpu: bool, out: Path, progress: Progress, poll: Poll
) -> output.Result:
    """Run a reproduction; return its entry of results.json."""
    from charjax.hardware import machine_facts

    began = time.perf_counter()
    checks: Sequence[Check]
    if tier == "gpu" and each.larger_on_gpu and not has_gpu:
        why = "the GPU tier's size needs a GPU, and JAX finds none here"
        checks = [not_run(each.title, why)]
    else:
        checks = each.run(tier, progress, poll)
    return {
        "name": each.name,
        "number": each.number,
        "title": each.title,
        "source": each.source,
        "tier": tier,
        "command": f"python -m {_PROGRAM} {each.name} --tier {tier}",
        "seconds": round(time.perf_counter() - began, 1),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": machine_facts(),
        "checks": [check.as_data() for check in checks],
    }
