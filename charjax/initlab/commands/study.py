"""`python -m charjax.initlab study`: answer questions on initialisation, with a page each."""

import dataclasses
import datetime
import functools
import shlex
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charjax import cli
from charjax.initlab import studies
from charjax.initlab.studies.study import TIERS, Study, Tier, as_json
from charjax.reproduction import output
from charjax.reproduction.checks import Poll, Progress

if TYPE_CHECKING:
    from rich.console import Console

    from charjax.initlab.studies.pieces import Pieces
    from charjax.signals import Signals

_PROGRAM = "charjax.initlab study"


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    args = _arguments(argv)
    if args.list:
        for each in studies.STUDIES:
            sys.stdout.write(f"{each.number:>2}  {each.name:<16} {each.question}\n")
        return 0
    chosen = studies.select(args.names)
    output.check_resume(args.out, args.resume)
    from charjax.signals import Signals

    with Signals() as signals:
        return _study(args, argv, chosen, signals)


def _arguments(argv: list[str]) -> Namespace:
    parser = cli.Parser(
        prog="charjax initlab study",
        usage="%(prog)s [NAME|all ...] [options]",
        description="Answer questions on initialisation by experiments whose settings are fixed.\n"
        "Each ends in NAME.html, a self-contained page, and its numbers in results.json.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="which, by name or number; see --list (all)"
    )
    parser.add_argument(
        "--tier",
        choices=TIERS,
        default="cpu",
        help="cpu: the experiment, up to half an hour each on two cores; trial: the same on "
        "a tiny grid, in seconds, which answers nothing (default: cpu)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where the results go (a new directory in runs/)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep what --out already has, run the rest"
    )
    parser.add_argument("--list", action="store_true", help="print the questions, and stop")
    return parser.parse_intermixed_args(argv)


def _study(args: Namespace, argv: list[str], chosen: tuple[Study, ...], signals: "Signals") -> int:
    from charjax import backend
    from charjax.config import DataConfig, RuntimeConfig
    from charjax.data.corpora import load_corpus

    backend.make_device_of_every_core()
    backend.start_backend(RuntimeConfig(device="cpu"))
    for name in sorted({name for each in chosen for name in each.corpora}):
        load_corpus(DataConfig.model_validate({"name": name}))
    command = f"python -m {_PROGRAM} {shlex.join(cli.without_out(argv))}".strip()
    by_name = {each.name: each for each in studies.STUDIES}

    def start(out: Path, results: output.Results, console: "Console") -> None:
        if not results:
            # A study that is stopped in its pieces is resumed, too.
            _write_results(out / "results.json", results, command)

    def save(out: Path, results: output.Results, result: output.Result) -> None:
        _write_page(out, by_name[result["name"]], result)
        _write_results(out / "results.json", results, command)

    def finish(out: Path, results: output.Results, console: "Console") -> list[str]:
        for each in chosen:
            output.say(console, f"{each.number}. {each.question}")
            for sentence in results[each.name]["answer"]:
                output.say(console, f"   {sentence}")
            output.say(console, f"   page: {out / f'{each.name}.html'}")
        return []

    jobs = [
        output.Job(
            name=each.name,
            unit="pieces",
            is_current=functools.partial(_is_current, each, args.tier),
            measure=functools.partial(_measure, each, args.tier),
            describe=lambda result: f"measured in {result['seconds']:,.0f} s",
        )
        for each in chosen
    ]
    this = output.Command(
        program=_PROGRAM,
        kind="initlab-study",
        key="studies",
        start=start,
        save=save,
        finish=finish,
    )
    return output.run(this, args, argv, jobs, signals)


def _is_current(study: Study, tier: Tier, result: output.Result) -> bool:
    settings = as_json(dataclasses.asdict(study.load().SETTINGS[tier]))
    return result["tier"] == tier and result["settings"] == settings and output.is_from_here(result)


def _measure(study: Study, tier: Tier, out: Path, progress: Progress, poll: Poll) -> output.Result:
    """Run a study; return its entry of results.json."""
    from charjax.hardware import machine_facts
    from charjax.initlab.studies.pieces import Pieces

    module = study.load()
    settings = module.SETTINGS[tier]
    facts = machine_facts()
    basis = [study.name, dataclasses.asdict(settings), facts["versions"], facts["processor"]]
    pieces = Pieces(out / "pieces", basis)
    began, cpu_began = time.perf_counter(), time.process_time()
    data = as_json(module.measure(settings, pieces, progress, poll))
    seconds = _seconds(pieces, time.perf_counter() - began, time.process_time() - cpu_began)
    found = module.conclude(settings, data)
    return {
        "name": study.name,
        "number": study.number,
        "title": study.title,
        "question": study.question,
        "sources": list(study.sources),
        "tier": tier,
        "settings": as_json(dataclasses.asdict(settings)),
        "rules": module.rules(settings),
        "command": f"python -m {_PROGRAM} {study.name} --tier {tier}",
        **seconds,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": facts,
        "answer": list(found.answer),
        "checks": [check.as_data() for check in found.checks],
        "data": data,
    }


def _seconds(pieces: "Pieces", seconds: float, cpu_seconds: float) -> dict[str, float]:
    """Return the time of the whole, with that of pieces which were made before."""
    return {
        "seconds": round(seconds + pieces.seconds_before, 1),
        "cpu_seconds": round(cpu_seconds + pieces.cpu_seconds_before, 1),
    }


def _write_page(out: Path, study: Study, result: output.Result) -> None:
    from charjax import files
    from charjax.initlab.studies import page

    pictures = page.pictures_of(study, result)
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    for picture in pictures:
        files.replace(figures / f"{picture.name}.png", picture.png)
    files.replace(out / f"{study.name}.html", page.html(study, result, pictures))


def _write_results(path: Path, results: output.Results, command: str) -> None:
    from charjax.hardware import machine_facts

    ordered: list[Any] = sorted(results.values(), key=lambda result: result["number"])
    output.write_results(path, command, {"hardware": machine_facts(), "studies": ordered})
