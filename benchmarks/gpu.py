"""All tests, benchmarks and reproductions that need a GPU, by one command: `make gpu-bench`.

    python -m benchmarks.gpu [--out DIR] [--devices gpu,cpu] [--minutes N] [--only NAME]

In this order, each with a time limit, and continuing after a failure: the tests of the primitives
and the models on the GPU; every benchmark, on the GPU first and then on the CPU; the GPU tiers of
`python -m charjax.initlab reproduce` and `python -m charjax.reproduce`. Steps that fail or are
stopped are listed at the end. Results go to $OUT, or else to benchmarks/results/, with a log of
each step. The most important steps come first: with ten minutes of a GPU, use
`--devices gpu --minutes 10`.
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
# For starting, drawing and writing, in addition to the time of the devices.
_GRACE = 15.0
_LEAST_SECONDS = 30.0


class Step(NamedTuple):
    """A command of the list.

    Attributes:
      name: of its log.
      words: after `python`; `{out}`, `{devices}` and `{seconds}` are filled in.
      seconds: limit for one device.
      environment: additional variables.
      result: a file it writes, and its name among the results; or None.
    """

    name: str
    words: tuple[str, ...]
    seconds: float
    environment: tuple[tuple[str, str], ...] = ()
    result: tuple[str, str] | None = None


# tests/conftest.py sets the CPU, strict promotion and no optimization where they are not set. The
# tests' tolerances are not those of TF32.
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
    return Step(name, words, seconds, result=(f"{folder}/results.json", f"{name}-gpu.json"))


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
    """Run the command; return 0 if every step succeeded."""
    parser = cli.Parser(
        prog="python -m benchmarks.gpu",
        usage="%(prog)s [--out DIR] [--devices gpu,cpu] [--minutes N] [--only NAME]",
        description=__doc__ or "",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="directory of the results ($OUT)")
    parser.add_argument(
        "--devices",
        choices=("gpu", "cpu", "gpu,cpu", "cpu,gpu"),
        default="gpu,cpu",
        help="devices of the benchmarks (gpu,cpu)",
    )
    parser.add_argument(
        "--minutes",
        metavar="N",
        type=cli.number_above_zero(100_000),
        default=120.0,
        help="limit of all steps together (120)",
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
    """Run the steps within so many seconds, and print what was left out."""
    start, lost = time.monotonic(), []
    for number, step in enumerate(steps, start=1):
        left = seconds - (time.monotonic() - start)
        if left < _LEAST_SECONDS:
            lost.append(f"{step.name}: no time left")
            continue
        print(f"{number}/{len(steps)} {step.name}", flush=True)
        if why := run_step(step, out, devices, left):
            lost.append(f"{step.name}: {why}; see {out / 'logs' / step.name}.txt")
        print(f"    {time.monotonic() - start:.0f} s in all", flush=True)
    print(f"results: {out}")
    for line in lost:
        print(f"left out: {line}")
    return 1 if lost else 0


def run_step(step: Step, out: Path, devices: str, left: float) -> str | None:
    """Run a step in the time that is left; return what failed, or None."""
    count = len(devices.split(",")) if "{devices}" in step.words else 1
    each = min(step.seconds, (left - _GRACE) / count)
    # A benchmark stops in time, with everything measured so far on the disk.
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
            # A new process group, so that a step's processes end with it.
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
    if step.result and (ROOT / step.result[0]).exists():
        shutil.copyfile(ROOT / step.result[0], out / step.result[1])
    if status is None:
        return f"stopped after {seconds:.0f} s"
    return f"status {status}" if status else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the step's processes to stop, so that they save their results; then kill them."""
    for number, seconds in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 20.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


if __name__ == "__main__":
    cli.run(main)
