"""`charjax benchmark`: speed and memory of your model on your devices.

    charjax benchmark [CONFIG.toml] [section.key=value ...] [--devices cpu,gpu,tpu]
                      [--against torch] [--sweep batch=1,16,256] [--json] [--out FILE.json]
    charjax benchmark --calibrate [--devices cpu,gpu,tpu] [--out FILE.json]

Timed is the program that a run's loop calls, on the configuration's own text: compiled before, in
a process for each device, which sees that device alone; five repeats at least, in turns.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from charjax import cli, files
from charjax.config import Config, load_config
from charjax.errors import UserError, did_you_mean

DEVICES = ("cpu", "gpu", "tpu")
SWEEPS = {"batch": "train.batch_size", "context": "model.context_length"}
_SECONDS = 600.0
Sweep = tuple[str, tuple[int, ...]]


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    args = _arguments(argv)
    if args.calibrate:
        from charjax.commands.calibrating import calibrate

        return calibrate(args.devices or ("cpu",), args.out, args.seconds, _command(argv))
    config = load_config(args.config, args.overrides, note=cli.remark)
    if config.model.fitted:
        raise UserError(
            f"benchmark: model.kind={config.model.kind} counts and has no training step to time; "
            "`charjax train` prints how long it counts and scores"
        )
    points = list(_points(args, config))
    torch = _find_torch(args.against)
    devices = args.devices or _default_devices(config)
    benchmark = _Benchmark(args, config, _command(argv))
    with _stopping():
        return benchmark.run(points, devices, torch)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser(
        prog="charjax benchmark",
        usage="%(prog)s [CONFIG.toml] [section.key=value ...] [options]",
        description="Speed and memory of your model, with your settings and text, on your devices.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG.toml | section.key=value",
        help="a configuration (a file, or the name of one that is shipped), and settings of it",
    )
    parser.add_argument(
        "--devices", metavar="LIST", type=_devices, help="of cpu,gpu,tpu (all that JAX finds)"
    )
    parser.add_argument(
        "--against", metavar="torch", choices=("torch",), help="time PyTorch's model beside it"
    )
    parser.add_argument(
        "--sweep", metavar="NAME=N,N,...", type=_sweep, help="over batch or context"
    )
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=cli.number_above_zero(1_000_000),
        default=_SECONDS,
        help=f"what is not done by then is left out ({_SECONDS:.0f})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--out", metavar="FILE.json", type=Path, help="save it; of a sweep also FILE.png"
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="measure this machine's rates and the step times of every family, for `charjax plan`",
    )
    cli.add_code(parser, resumes=False)
    args = parser.parse_intermixed_args(argv)
    args.config, args.overrides = cli.config_words(args.words)
    if args.out is not None:
        if args.out.suffix != ".json":
            raise UserError(f"--out: {str(args.out)!r} given; its name must end with .json")
        files.check_directory(args.out.absolute().parent, "--out")
    if args.calibrate:
        chosen = {"a configuration": args.words, "--against": args.against, "--sweep": args.sweep}
        if wrong := [name for name, value in {**chosen, "--json": args.json}.items() if value]:
            raise UserError(
                f"--calibrate: given with {wrong[0]}; it measures every family: leave that out"
            )
    return args


def _devices(text: str) -> tuple[str, ...]:
    names = [word.strip() for word in text.split(",")]
    for name in names:
        if name not in DEVICES:
            raise argparse.ArgumentTypeError(
                f"{name!r} given; must be of {', '.join(DEVICES)}, separated by commas"
                f"{did_you_mean(name, DEVICES)}"
            )
    return tuple(dict.fromkeys(names))


def _sweep(text: str) -> Sweep:
    name, _, numbers = text.partition("=")
    if name not in SWEEPS:
        raise argparse.ArgumentTypeError(
            f"{text!r} given; must be batch=N,N,... or context=N,N,...{did_you_mean(name, SWEEPS)}"
        )
    parse = cli.whole_number(1)
    values = [word.strip() for word in numbers.split(",") if word.strip()]
    if not values:
        raise argparse.ArgumentTypeError(f"{text!r} given; no numbers: write {name}=16,64,256")
    return name, tuple(dict.fromkeys(map(parse, values)))


def _points(args: argparse.Namespace, config: Config) -> Iterator[Any]:
    """Yield the configurations; mistakes in any of them are found before the first is measured."""
    from charjax.performance.contest import Point

    if config.runtime.dtype == "auto":
        raise UserError(
            'runtime.dtype: "auto" given; a benchmark compares contestants in one dtype: give '
            '"float32" or "bfloat16"'
        )
    if args.sweep is None:
        yield Point(config, args.config, tuple(args.overrides))
        return
    name, values = args.sweep
    for value in values:
        words = (*args.overrides, f"{SWEEPS[name]}={value}")
        yield Point(load_config(args.config, words), args.config, words, f"{name}={value}")


def _find_torch(against: str | None) -> tuple[str, str] | None:
    if against is None:
        return None
    from charjax.performance.failures import LeftOut
    from charjax.performance.workers import find_torch

    try:
        return find_torch()
    except LeftOut as reason:
        raise UserError(f"--against torch: {reason}") from None


def _default_devices(config: Config) -> tuple[str, ...]:
    """Return the configuration's device, or the CPU and the accelerator that JAX finds."""
    from charjax.performance.workers import find_accelerator

    if config.runtime.device != "auto":
        return (config.runtime.device,)
    found = find_accelerator()
    return ("cpu", found) if found else ("cpu",)


def _command(argv: list[str]) -> str:
    return f"charjax benchmark {shlex.join(cli.without_out(argv))}".strip()


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does: what has been measured is saved."""
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


class _Benchmark:
    """The rows measured so far, saved after each point."""

    def __init__(self, args: argparse.Namespace, config: Config, command: str):
        self._args, self._config, self._command = args, config, command
        self._rows: list[dict[str, Any]] = []
        self._left_out: list[dict[str, str]] = []
        self._deadline = time.monotonic() + args.seconds
        self._torch: str | None = None
        # Others that run on the machine's cores make every figure worse.
        self._load = [os.getloadavg()[0]]

    def run(
        self, points: list[Any], devices: tuple[str, ...], torch: tuple[str, str] | None
    ) -> int:
        from charjax.performance.contest import Contest

        self._torch = None if torch is None else torch[1]
        contest = Contest(
            devices=devices,
            deadline=self._deadline,
            report=_report,
            leave_out=self._leave_out,
            torch=None if torch is None else torch[0],
            in_full=self._args.sweep is None,
        )
        try:
            for point in points:
                self._measure(contest, point)
                self._save()
        except (KeyboardInterrupt, SystemExit):
            if self._has_figures():
                self._save()
                self._show()
            raise
        self._show()
        if self._has_figures():
            return 0
        mistakes = {row["why"] for row in self._rows if "runtime.device" in row["why"]}
        return 2 if all(row["why"] in mistakes | {*contest.mistakes} for row in self._rows) else 1

    def _has_figures(self) -> bool:
        return any(row["why"] is None for row in self._rows)

    def _measure(self, contest: Any, point: Any) -> None:
        if contest.late():
            why = "the time was over; give more by --seconds"
            self._rows += [
                {"device": device, "point": point.name, "why": why} for device in contest.devices
            ]
            self._leave_out("all devices", point.name, why)
            return
        for row in contest.measure(point):
            self._rows.append(row)

    def _leave_out(self, device: str, what: str, why: str) -> None:
        self._left_out.append({"device": device, "what": what, "why": why})
        cli.remark(f"{device}: {what}: {why}")

    def _tree(self) -> dict[str, Any]:
        from charjax.hardware import flags
        from charjax.performance.report import document

        facts = {
            "flags": flags(),
            "torch": self._torch,
            "load_average": [*self._load, os.getloadavg()[0]],
        }
        return document(
            self._command, self._config, self._args.sweep, facts, self._rows, self._left_out
        )

    def _save(self) -> None:
        if self._args.out is None or not self._has_figures():
            return
        from charjax.performance.report import draw_sweep

        tree = self._tree()
        files.make_directory(self._args.out.absolute().parent, "--out")
        files.write_json(self._args.out, tree)
        if self._args.sweep is not None:
            with files.replacing(self._args.out.with_suffix(".png")) as temporary:
                draw_sweep(tree, temporary)

    def _show(self) -> None:
        tree = self._tree()
        if self._args.json:
            print(json.dumps(tree, allow_nan=False))
            return
        from charjax.hardware import in_words
        from charjax.performance import show
        from charjax.performance.report import tables

        console = show.make_console()
        for table in tables(tree) if self._has_figures() else ():
            console.print(table)
        for device, facts in tree["devices"].items():
            console.print(f"{device}: {in_words(facts['hardware'])}", highlight=False)
        if self._load[0] > 1:
            console.print(f"load average before: {self._load[0]:.1f}", highlight=False)
        if self._args.out is not None and self._args.out.exists():
            cli.remark(f"written: {self._args.out}")


_report: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
