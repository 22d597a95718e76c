"""Everything that waits for a GPU, in one call: `make gpu-bench`.

    python -m benchmarks.gpu [--out DIR] [--devices gpu,cpu] [--minutes N] [--only NAME]

In this order, each with a limit of its own, and going on after a failure: the tests of the
primitives and the models on the GPU; every benchmark, on the GPU first and then on the CPU beside
it; what `python -m charjax.initlab reproduce` and `python -m charjax.reproduce` measure on a GPU.
What fails or is stopped is said at the end. By default results go where $OUT says, else to
benchmarks/results/, with a log of each step. What is most wanted comes first: a machine that is
lent for ten minutes is asked for `--devices gpu --minutes 10`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import RESULTS
from charjax import cli
from charjax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
# Beside the time of its devices, a benchmark starts, draws and writes.
_GRACE = 15.0
_LEAST_SECONDS = 30.0


class Step(NamedTuple):
    """One command.

    Attributes:
      name: of its log.
      words: after `python`; `{out}`, `{devices}` and `{seconds}` are filled in.
      seconds: that one device may take.
      environment: variables it is given.
      keep: a file it leaves, and under which name it is copied to the results; or none.
    """

    name: str
    words: tuple[str, ...]
    seconds: float
    environment: tuple[tuple[str, str], ...] = ()
    keep: tuple[str, str] | None = None


# tests/conftest.py sets what is not set: the CPU, strict promotion and no optimisation. TF32 is
# not what the tests' tolerances are about.
_ON_GPU = (
    ("JAX_PLATFORMS", "cuda,cpu"),
    ("JAX_DEFAULT_MATMUL_PRECISION", "highest"),
    ("XLA_FLAGS", ""),
    ("XLA_PYTHON_CLIENT_PREALLOCATE", "false"),
)


def _benchmark(name: str, seconds: float) -> Step:
    words = ("-m", f"benchmarks.{name}", "--devices", "{devices}", "--seconds", "{seconds}")
    return Step(name, (*words, "--out", f"{{out}}/{name}-gpu.json"), seconds)


def _reproduction(name: str, words: tuple[str, ...], seconds: float) -> Step:
    folder = f"runs/gpu-bench-{name}"
    words = ("-m", *words, "--tier", "gpu", "--resume", "--out", folder)
    return Step(name, words, seconds, keep=(f"{folder}/results.json", f"{name}-gpu.json"))


STEPS = (
    Step("tests", ("-m", "pytest", "tests/ops", "tests/models"), 240.0, _ON_GPU),
    _benchmark("roofline", 60.0),
    _benchmark("peers", 300.0),
    _benchmark("gru", 180.0),
    _benchmark("time_to_quality", 240.0),
    _benchmark("throughput", 300.0),
    _benchmark("generate", 240.0),
    _benchmark("checkpoint_overhead", 150.0),
    _benchmark("startup", 240.0),
    _reproduction("initlab-reproduce", ("charjax.initlab", "reproduce"), 900.0),
    _reproduction("reproduce", ("charjax.reproduce",), 1800.0),
)


def main(argv: list[str]) -> int:
    """Run the command; 0 if every step went well."""
    parser = cli.Parser(
        prog="python -m benchmarks.gpu",
        usage="%(prog)s [--out DIR] [--devices gpu,cpu] [--minutes N] [--only NAME]",
        description=__doc__ or "",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="of the results ($OUT)")
    parser.add_argument(
        "--devices",
        choices=("gpu", "cpu", "gpu,cpu", "cpu,gpu"),
        default="gpu,cpu",
        help="what the benchmarks measure (gpu,cpu)",
    )
    parser.add_argument(
        "--minutes",
        metavar="N",
        type=cli.number_above_zero(100_000),
        default=120.0,
        help="of all steps together (120)",
    )
    parser.add_argument("--only", metavar="NAME", action="append", help="this step; repeatable")
    args = parser.parse_args(argv)
    names = [step.name for step in STEPS]
    for name in args.only or ():
        if name not in names:
            raise UserError(f"--only: {name!r} given; the steps are: {', '.join(names)}")
    steps = [step for step in STEPS if not args.only or step.name in args.only]
    out = (args.out or Path(os.environ.get("OUT") or RESULTS)).resolve()
    (out / "logs").mkdir(parents=True, exist_ok=True)
    return run(steps, out, args.devices, 60.0 * args.minutes)


def run(steps: list[Step], out: Path, devices: str, seconds: float) -> int:
    """Run the steps within so many seconds, and say what was left out."""
    began, lost = time.monotonic(), []
    for number, step in enumerate(steps, start=1):
        left = seconds - (time.monotonic() - began)
        if left < _LEAST_SECONDS:
            lost.append(f"{step.name}: no time left")
            continue
        print(f"{number}/{len(steps)} {step.name}", flush=True)
        if why := run_step(step, out, devices, left):
            lost.append(f"{step.name}: {why}; see {out / 'logs' / step.name}.txt")
        print(f"    {time.monotonic() - began:.0f} s in all", flush=True)
    print(f"results: {out}")
    for line in lost:
        print(f"left out: {line}")
    return 1 if lost else 0


def run_step(step: Step, out: Path, devices: str, left: float) -> str | None:
    """Run one step in the time that is left; what went wrong, in words, or None."""
    count = len(devices.split(",")) if "{devices}" in step.words else 1
    each = min(step.seconds, (left - _GRACE) / count)
    # A benchmark keeps to its time by itself, and then has written what it has.
    seconds = min(left, each * count + _GRACE)
    filled = {"out": str(out), "devices": devices, "seconds": f"{each:.0f}"}
    words = [word.format(**filled) for word in step.words]
    environment = {**os.environ, **dict(step.environment)}
    with (out / "logs" / f"{step.name}.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            # A group of its own, so that a step's processes end with it.
            start_new_session=True,
        )
        status = None
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(process)
        except KeyboardInterrupt:
            _end(process)
            raise
    if step.keep and (ROOT / step.keep[0]).exists():
        shutil.copyfile(ROOT / step.keep[0], out / step.keep[1])
    if status is None:
        return f"stopped after {seconds:.0f} s"
    return f"status {status}" if status else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the step's processes to stop, which saves what can be saved; then make them."""
    for number, patience in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 20.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


if __name__ == "__main__":
    cli.run(main)
