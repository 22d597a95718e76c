"""A benchmark as a command: a process per device, one JSON, a table and a picture.

Each device is measured in a separate process, which sees that device alone: what charjax compiles
depends on the device that JAX starts on, and a device that is missing or runs out of memory does
not affect the others.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import processes, results_file, resuming
from benchmarks.results_file import RESULTS
from benchmarks.section import LIMIT_SECONDS, Heap, Row, Section
from charjax import cli
from charjax.errors import UserError
from charjax.performance import show, workers
from charjax.performance.failures import LeftOut

DEVICES = ("cpu", "gpu")
# A process needs this to report what it has no time for.
_LEAST_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark's measurement, table and picture.

    Attributes:
      name: of the module.
      title: of its table and picture.
      doc: the module's docstring, for --help.
      measure: fills a section.
      columns: of the table.
      draw: draws the rows of all devices into matplotlib's axes.
      extra: returns further tables from the rows of all devices.
      has_roofline: whether the machine's peak rates are measured before and after.
      packages: whose versions are recorded if they are installed.
      environment: variables of each device's process, unless they are set already.
      heaps: malloc arenas of a CPU's processes, one process after the other: "own", one per
        thread; "one" for all, as in training runs with large steps (see `Section.has_heap_for`).
    """

    name: str
    title: str
    doc: str | None
    measure: Callable[[Section], None]
    columns: tuple[show.Column, ...]
    draw: Callable[[Any, list[Row]], None]
    extra: Callable[[list[Row]], list[Any]] = lambda rows: []
    has_roofline: bool = True
    packages: tuple[str, ...] = ()
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    heaps: tuple[Heap, ...] = ("own",)


def start(benchmark: Benchmark) -> None:
    """Run a benchmark's command, and exit."""
    cli.run(lambda argv: main(benchmark, argv))


def main(benchmark: Benchmark, argv: list[str]) -> int:
    """Run the command; 0, or 1 where something failed or nothing at all was measured."""
    args = _arguments(benchmark, argv)
    if args.part is not None:
        return _measure_here(benchmark, args)
    sections, left_out, status = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        parts = {device: _part(args, device, Path(folder)) for device in args.devices}
        for device, part in parts.items():
            section, missing, status = _measure_in_processes(benchmark, device, args, part)
            sections += [section] if section else []
            left_out += missing
            if status:
                break
        command = (
            f"python -m benchmarks.{benchmark.name} {shlex.join(cli.without_out(argv))}".strip()
        )
        _print_tables(benchmark, sections, left_out)
        for path, chosen in _targets(benchmark, args, sections):
            lost = [each for each in left_out if args.out or each["device"] == chosen[0]["device"]]
            tree = results_file.document(benchmark.name, command, args.quick, chosen, lost)
            results_file.write(path, tree)
            draw(benchmark, path.with_suffix(".png"), tree)
            print(f"written: {path}", file=sys.stderr)
        for part in parts.values():
            part.unlink(missing_ok=True)
    failed = any(each["failed"] for each in left_out)
    nothing = not any(section["rows"] for section in sections)
    return status or (1 if failed or nothing else 0)


def draw(benchmark: Benchmark, path: Path, tree: dict[str, Any]) -> None:
    """Draw a result's picture, unless it has no row."""
    if rows := [row for section in tree["devices"] for row in section["rows"]]:
        title = f"{benchmark.title}{' (--quick)' if tree['quick'] else ''}"
        show.picture(path, title, benchmark.draw, rows)


def _part(args: argparse.Namespace, device: str, folder: Path) -> Path:
    """Return the file that a device's process writes after each row, with what is resumed."""
    if args.out is None:
        return folder / f"{device}.json"
    path: Path = args.out.with_name(f"{args.out.stem}-{device}{resuming.PART}")
    earlier = resuming.earlier(args.out, path, device) if args.resume else None
    path.unlink(missing_ok=True)
    if earlier is not None:
        results_file.write(path, earlier)
    return path


def _arguments(benchmark: Benchmark, argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser(
        prog=f"python -m benchmarks.{benchmark.name}",
        usage="%(prog)s [--devices cpu,gpu] [--quick] [--out FILE.json] [--only PATTERN] "
        "[--seconds N] [--resume]",
        description=benchmark.doc or benchmark.title,
    )
    parser.add_argument(
        "--devices", metavar="LIST", help="cpu, gpu or cpu,gpu (all that JAX finds)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats: a trial")
    parser.add_argument(
        "--out",
        metavar="FILE.json",
        type=Path,
        help="the result, and its picture beside it (benchmarks/results/NAME-DEVICE.json for each "
        "device; a trial is not saved)",
    )
    parser.add_argument("--only", metavar="PATTERN", help="only rows of such names: 'gpt*'")
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=cli.number_above_zero(100_000),
        default=LIMIT_SECONDS,
        help=f"for one device; what is not done by then is left out ({LIMIT_SECONDS:.0f})",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the rows that --out already has from this machine, measure the rest",
    )
    parser.add_argument("--part", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--heap", choices=("own", "one"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.devices = _devices(args.devices)
    if args.out is not None and args.out.suffix != ".json":
        raise UserError(f"--out: {str(args.out)!r} given; its name must end with .json")
    if args.resume and args.out is None:
        raise UserError("--resume: no --out given; name the file of the rows to keep")
    return args


def _devices(text: str | None) -> list[str]:
    if text is None:
        return [device for device in DEVICES if device == "cpu" or has_gpu()]
    names = [word.strip() for word in text.split(",")]
    unknown = [word for word in names if word not in DEVICES]
    if unknown:
        raise UserError(f"--devices: {unknown[0]!r} given; must be cpu, gpu or cpu,gpu")
    return list(dict.fromkeys(names))


def has_gpu() -> bool:
    """Return whether JAX starts on a GPU here, in a process of its own."""
    code = "import jax; raise SystemExit(jax.default_backend() != 'gpu')"
    return not subprocess.run(
        [sys.executable, "-c", code], env=_environment("gpu", {}), capture_output=True, check=False
    ).returncode


def _environment(device: str, defaults: dict[str, str]) -> dict[str, str]:
    """Return the environment of a process that sees this device alone."""
    environment = workers.device_environment(device, defaults)
    # Benchmarks are run from the root of the repository, and so are their processes.
    paths = [str(Path(__file__).resolve().parent.parent), environment.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def _measure_in_processes(
    benchmark: Benchmark, device: str, args: argparse.Namespace, part: Path
) -> tuple[dict[str, Any] | None, list[dict[str, Any]], int]:
    """Run a device's processes.

    Returns:
      Its section, if there is one; what was left out; and the exit status if SIGTERM came, else 0.
    """
    start, ended, status = time.monotonic(), [], 0
    for heap in benchmark.heaps if device == "cpu" else (None,):
        # Without time left it still reports what it leaves out.
        seconds = max(1.0, args.seconds - (time.monotonic() - start))
        command = [sys.executable, "-m", f"benchmarks.{benchmark.name}"]
        command += ["--devices", device, "--part", str(part), "--seconds", str(seconds)]
        command += ["--quick"] if args.quick else []
        command += ["--only", args.only] if args.only else []
        command += [] if heap is None else ["--heap", heap]
        limit = max(seconds, min(_LEAST_SECONDS, args.seconds))
        try:
            if why := _run(command, _environment(device, benchmark.environment), limit):
                ended.append(why)
        except processes.Stopped as stop:
            ended.append("stopped by SIGTERM")
            status = stop.status
            break
    section = json.loads(part.read_text(encoding="utf-8")) if part.exists() else None
    left_out = section.pop("left_out") if section else []
    if section and "hardware" not in section:
        # The device was not available.
        section = None
    else:
        left_out += [
            {"device": device, "what": resuming.REST, "why": why, "failed": True} for why in ended
        ]
    return section, left_out, status


def _run(command: list[str], environment: dict[str, str], seconds: float) -> str | None:
    """Run a process and end all that it has started; return what failed, or None."""
    status = processes.run(command, seconds, environment=environment)
    if status is None:
        return f"stopped after {seconds:.0f} s"
    return f"the process ended with status {status}" if status else None


def _measure_here(benchmark: Benchmark, args: argparse.Namespace) -> int:
    """Measure in the process of one device."""
    (device,) = args.devices
    section = Section(device, args.quick, args.only, args.part, args.seconds, args.heap)
    try:
        facts = _start_device(device, benchmark.packages, one_heap=args.heap == "one")
    except LeftOut as reason:
        section.leave_out("everything", str(reason))
        return 0
    section.load()
    if not resuming.is_same_machine(section.facts, facts):
        section.start_anew("earlier rows", "they are of another machine or other versions")
    section.facts |= facts
    from charjax.performance.rates import Roofline

    roofline = None
    if benchmark.has_roofline:
        earlier = section.facts.get("roofline", {}).get("start")
        roofline = Roofline(device, quick=args.quick, earlier=earlier)
        section.facts["roofline"] = {"start": roofline.start}
    benchmark.measure(section)
    if roofline is not None:
        section.facts["roofline"] = roofline.finish()
    section.save()
    return 0


def _start_device(device: str, packages: tuple[str, ...], *, one_heap: bool) -> dict[str, Any]:
    """Start JAX as `charjax.train` does; return facts of the device.

    Raises:
      LeftOut: it is not available.
    """
    import jax

    from charjax import backend
    from charjax.config import RuntimeConfig
    from charjax.hardware import flags, machine_facts

    try:
        config = RuntimeConfig(device=device)  # type: ignore[arg-type]
        devices = backend.start_backend(config, core_devices=True, large_calls=one_heap)
    except UserError as error:
        raise LeftOut(str(error)) from None
    facts = machine_facts()
    facts["device_kind"] = str(devices[0].device_kind)
    facts["versions"] |= results_file.optional_versions(*packages)
    return {"hardware": facts, "flags": flags(), "backend": jax.default_backend()}


def _targets(
    benchmark: Benchmark, args: argparse.Namespace, sections: list[dict[str, Any]]
) -> list[tuple[Path, list[dict[str, Any]]]]:
    """Return the files to write and the sections in them."""
    if args.out is not None:
        return [(args.out, sections)]
    if args.quick or args.only:
        return []
    return [(RESULTS / f"{benchmark.name}-{each['device']}.json", [each]) for each in sections]


def _print_tables(
    benchmark: Benchmark, sections: list[dict[str, Any]], left_out: list[dict[str, Any]]
) -> None:
    """Print the tables, the peak rates and what was left out."""
    from charjax.hardware import in_words

    console = show.make_console()
    for section in sections:
        title = f"{benchmark.title} ({section['device']}: {in_words(section['hardware'])})"
        console.print(show.make_table(title, benchmark.columns, section["rows"]))
        rates = section.get("roofline", {})
        if rates.get("start"):
            best = ", ".join(
                f"{name} {show.quantity(rate, unit)}"
                for name, unit in (("float32", "FLOP/s"), ("bfloat16", "FLOP/s"), ("copy", "B/s"))
                for rate in [rates["start"][name]]
            )
            console.print(f"best in this run: {best}", highlight=False)
        if rates.get("note"):
            console.print(f"note: {rates['note']}", highlight=False, style="bold")
    for table in benchmark.extra([row for section in sections for row in section["rows"]]):
        console.print(table)
    for each in left_out:
        text = f"left out: {each['device']}: {each['what']}: {each['why']}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
