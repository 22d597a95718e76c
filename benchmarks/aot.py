"""Compile training loops for TPUs and GPUs that are not there, and check what came out.

    make aot [ARGS="--only PATTERN --devices v5e:1,h100:4 --minutes N --seconds N"]

Needs the extra "aot" (1.2 GB), and the corpora of the configurations. Each row is a process of its
own with a time limit. Rows that are in the file already, of the same versions, are kept; a row that
did not finish or is at fault is compiled again.
"""

import argparse
import contextlib
import datetime
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import results_file
from benchmarks.aot_row import Target, compile_row
from benchmarks.aot_workloads import Workload, words_of, workloads
from charjax import cli
from charjax.errors import UserError, printable

RESULT = Path(__file__).parent / "results" / "aot.json"
TARGETS = ("v5e:1", "h100:1", "v5e:4", "h100:4", "v6e:8", "h100:8", "v5e:256", "h200:1", "a100:1")
SECONDS = 150.0
_PACKAGES = ("libtpu", "jax-cuda12-plugin", "jax-cuda12-pjrt")


def main(argv: list[str]) -> int:
    """Run the command; 0 if every row that was asked for is there without a fault."""
    args = _arguments(argv)
    names = workloads()
    if args.row:
        return _row_here(names[args.row], _target(args.devices), args.out)
    chosen = [
        (workload, _target(target))
        for workload in names.values()
        for target in (args.devices or ",".join(TARGETS)).split(",")
        if fnmatch.fnmatchcase(workload.name, args.only)
    ]
    if not chosen:
        raise UserError(f"--only: {args.only!r} given; the rows are: {', '.join(names)}")
    _check_installed()
    tree = _load(args.out)
    until = time.monotonic() + 60 * args.minutes
    bad = 0
    for workload, target in chosen:
        row = next((row for row in tree["rows"] if _is_of(row, workload, target)), None)
        if row is None or row["faults"]:
            if time.monotonic() > until:
                print(f"{workload.name} {target}: left for another call", file=sys.stderr)
                bad += 1
                continue
            row = _row_in_process(workload, target, args.seconds)
            others = [each for each in tree["rows"] if not _is_of(each, workload, target)]
            tree["rows"] = sorted([*others, row], key=_place)
            tree["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            results_file.write(args.out, tree)
        bad += bool(row["faults"])
        print(_in_words(row), flush=True)
    return 1 if bad else 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser(
        prog="python -m benchmarks.aot",
        usage="%(prog)s [--only PATTERN] [--devices LIST] [--minutes N] [--seconds N] [--out FILE]",
        description=__doc__ or "",
    )
    parser.add_argument("--only", metavar="PATTERN", default="*", help="rows: 'tiny-*'")
    parser.add_argument(
        "--devices", metavar="LIST", help=f"devices and how many of them ({','.join(TARGETS)})"
    )
    parser.add_argument(
        "--minutes",
        metavar="N",
        type=cli.number_above_zero(100_000),
        default=1000.0,
        help="no row is begun after so many (1000)",
    )
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=cli.number_above_zero(100_000),
        default=SECONDS,
        help=f"limit of a row ({SECONDS:.0f})",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, default=RESULT, help="the result")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _target(text: str) -> Target:
    device, _, count = text.partition(":")
    if not count.isascii() or not count.isdigit():
        raise UserError(f"--devices: {text!r} given; must be like v5e:4 or v5e:1,h100:8")
    return Target(device, int(count))


def _check_installed() -> None:
    """Raise a UserError where the extra is missing, before the first row."""
    from charjax.performance import topology

    for device in ("h100", "v5e"):
        topology.check_installed(device)


def _load(path: Path) -> dict[str, Any]:
    """Return the result so far if it is of these versions, else an empty one."""
    from charjax import backend
    from charjax.config import RuntimeConfig
    from charjax.hardware import machine_facts

    backend.start_backend(RuntimeConfig(device="cpu"))
    hardware = machine_facts()
    hardware["versions"] |= results_file.optional_versions(*_PACKAGES)
    tree = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    if tree["rows"] and tree["hardware"]["versions"] != hardware["versions"]:
        print(f"{path}: of other versions, compiled anew", file=sys.stderr)
        tree["rows"] = []
    return {
        "benchmark": "aot",
        "command": "make aot",
        "limit_seconds": SECONDS,
        "hardware": hardware,
        "rows": tree["rows"],
    }


def _row_in_process(workload: Workload, target: Target, seconds: float) -> dict[str, Any]:
    """Compile a row in a process of its own; what did not end in time is a row that says so."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "row.json", Path(folder) / "log"
        command = [sys.executable, "-m", "benchmarks.aot", "--row", workload.name]
        command += ["--devices", str(target), "--out", str(out)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=file, start_new_session=True
            )
            earlier = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
            try:
                status = process.wait(seconds)
                why = f"the process ended with status {status}: {_last_line(log)}"
            except subprocess.TimeoutExpired:
                why = f"not done in {seconds:.0f} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                signal.signal(signal.SIGTERM, earlier)
        if out.exists():
            return json.loads(out.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
        return {**words_of(workload), "target": str(target), "faults": [why]}


def _row_here(workload: Workload, target: Target, out: Path) -> int:
    from charjax.performance.topology import DoesNotFitError

    try:
        row = compile_row(workload, target)
    except DoesNotFitError as error:
        # No fault of the program: the memory of so small a device is too small for the settings.
        sizes = {"needed": error.needed, "available": error.available}
        row = {**words_of(workload), "target": str(target), "does_not_fit": sizes, "faults": []}
    results_file.write(out, row)
    return 0


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return printable(lines[-1])[:300] if lines else "nothing said"


def _is_of(row: dict[str, Any], workload: Workload, target: Target) -> bool:
    found = (row["workload"], row["words"], row["target"])
    return found == (workload.name, list(workload.words), str(target))


def _place(row: dict[str, Any]) -> tuple[int, int]:
    names = list(workloads())
    name, target = row["workload"], row["target"]
    return (
        names.index(name) if name in names else len(names),
        TARGETS.index(target) if target in TARGETS else len(TARGETS),
    )


def _in_words(row: dict[str, Any]) -> str:
    name = f"{row['workload']} {row['target']}"
    if row["faults"]:
        return f"{name}: {'; '.join(row['faults'])}"
    if sizes := row.get("does_not_fit"):
        return f"{name}: does not fit: {sizes['needed']:,} bytes of {sizes['available']:,}"
    collectives = len([each for each in row["collectives"] if each["loops"]])
    return (
        f"{name}: {row['seconds']:.1f} s, {row['total'] / 1e6:.1f} MB, {collectives} collectives "
        "per step"
    )


if __name__ == "__main__":
    cli.run(main)
