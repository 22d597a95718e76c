"""All tests, benchmarks and reproductions that need a GPU, by one command: `make gpu-bench`.

    python -m benchmarks.gpu [--minutes N] [--resume DIR] [--out DIR] [--only NAME]
                             [--devices gpu] [--dry-run] [--list] [--needs] [--publish]

First whether it is right: the tests of the primitives and the models on the GPU, every family's
losses beside a CPU's, resumption to the bit. Then its speed beside PyTorch, the time to a published
loss, the GPU tiers of `python -m charjax.reproduce` and `python -m charjax.initlab reproduce`, and
the other benchmarks. A step that fails or hangs is ended, and the next one runs; one whose text or
package is missing is left out.

All that was measured is in one file, gpu-bench.json in --out ($OUT, or else runs/gpu-bench),
written after every row. Where a GPU is lent for minutes, `--minutes 8` starts what fits, and
`--resume DIR` goes on in the next call, also on another machine, with the file that the call
before has left. `--publish` puts the results of `--resume DIR` into benchmarks/results/.
"""

import argparse
import contextlib
import importlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import gpu_state, gpu_steps, processes
from benchmarks.gpu_state import Record, State
from benchmarks.gpu_steps import LONGEST_SECONDS, ROOT, STEPS, Step
from benchmarks.results_file import RESULTS
from charjax import cli
from charjax.errors import UserError

# From SIGTERM to SIGKILL; a benchmark has its results on the disk, a run saves its last row.
_PATIENCE = 20.0
# For starting, drawing and writing, in addition to the time of a benchmark's devices.
_GRACE = 15.0
# How often a step may end without anything new.
_MOST_TRIES = 2
# Of a dry run compiling is most.
_UNOPTIMIZED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

# Runs the given step within so many seconds, and records what came of it.
Run = Callable[[Step, Record, float], None]


def main(argv: list[str]) -> int:
    """Run the command; return 0 if no step failed."""
    args = _arguments(argv)
    if args.needs:
        return _print_needs()
    steps = [step for step in STEPS if not args.only or step.name in args.only]
    with contextlib.ExitStack() as stack:
        work = ROOT / "runs" / "gpu-bench"
        out = args.out or args.resume or Path(os.environ.get("OUT") or work)
        if args.dry_run:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            out = args.out or args.resume or work
        out = out.resolve()
        state = _state(args, out)
        if args.list:
            _print_list(steps, state)
            return 0
        if args.publish:
            return _publish(state)
        _check_machine(dry=args.dry_run)
        out.mkdir(parents=True, exist_ok=True)
        state.save()

        def run(step: Step, record: Record, seconds: float) -> None:
            run_step(step, record, seconds, state, work / step.name, args.devices)

        try:
            work_through(steps, state, run, 60.0 * args.minutes)
        except processes.Stopped as stop:
            _report(steps, state, args)
            return stop.status
        return _report(steps, state, args)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser(
        prog="python -m benchmarks.gpu", usage="%(prog)s [options]", description=__doc__ or ""
    )
    parser.add_argument(
        "--minutes",
        metavar="N",
        type=cli.number_above_zero(100_000),
        default=240.0,
        help="what is not begun or not done by then is for the next call (240)",
    )
    parser.add_argument("--resume", metavar="DIR", type=Path, help="go on with its gpu-bench.json")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="where gpu-bench.json goes (--resume; $OUT)"
    )
    parser.add_argument("--only", metavar="NAME", action="append", help="this step; repeatable")
    parser.add_argument(
        "--devices",
        choices=("gpu", "gpu,cpu"),
        default="gpu",
        help="devices of the benchmarks; the CPU's rows beside the GPU's take as long again (gpu)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="every step at its smallest sizes, on the CPU"
    )
    parser.add_argument("--list", action="store_true", help="print the steps, and stop")
    parser.add_argument(
        "--needs", action="store_true", help="print the packages that are needed, and stop"
    )
    parser.add_argument(
        "--publish", action="store_true", help="write the results of --resume, and stop"
    )
    args = parser.parse_args(argv)
    names = [step.name for step in STEPS]
    for name in args.only or ():
        if name not in names:
            raise UserError(f"--only: {name!r} given; the steps are: {', '.join(names)}")
    if args.publish and args.resume is None:
        raise UserError("--publish: no --resume given; name the folder of the results")
    return args


def _state(args: argparse.Namespace, out: Path) -> State:
    if args.resume is not None:
        return gpu_state.load(args.resume, out, dry=args.dry_run)
    path = out / gpu_state.NAME
    if path.exists() and not args.list:
        raise UserError(
            f"--out: {str(path)!r} holds results; go on with them by --resume {out}, or give "
            "another folder"
        )
    return State(path, args.dry_run)


def work_through(
    steps: Sequence[Step],
    state: State,
    run: Run,
    seconds: float,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Run the steps that are not done, in order, and again those that have more to do.

    A step is begun if the time that is left is worth it, and a later one that is shorter may still
    fit. One that ends twice without anything new is given up.

    Args:
      steps: the most important first.
      state: their outcomes, kept up to date.
      run: runs one of them.
      seconds: of all.
      now: the clock.
    """
    start, ran = now(), True
    while ran:
        ran = False
        for step in steps:
            record, left = state[step.name], seconds - (now() - start)
            least = 1.0 if state.dry else step.least_seconds
            given_up = record.status == "done" or record.tries >= _MOST_TRIES
            if given_up or left < least or gpu_steps.lacking(step):
                continue
            print(f"{step.name}: at most {min(left, LONGEST_SECONDS):.0f} s", flush=True)
            run(step, record, min(left, LONGEST_SECONDS))
            print(f"    {record.status}; {now() - start:.0f} s in all", flush=True)
            ran = True


def run_step(
    step: Step, record: Record, seconds: float, state: State, folder: Path, devices: str = "gpu"
) -> None:
    """Run a step within so many seconds, and record what it measured and whether it is done.

    Raises:
      processes.Stopped: SIGTERM came; the step stays open.
    """
    gpu_state.fill(folder, record)
    before, start = record.measured(), time.monotonic()
    # The process is stopped early enough to end in time.
    limit = max(1.0, seconds - _PATIENCE)
    each = max(1.0, (limit - _GRACE) / len(devices.split(",")))
    words = gpu_steps.words_of(step, dry=state.dry, folder=folder, devices=devices, seconds=each)

    def save() -> None:
        gpu_state.collect(folder, record)
        state.save()

    status: int | None = None
    why = "stopped by SIGTERM"
    try:
        with gpu_state.log_path(folder).open("wb") as log:
            status = processes.run(
                words,
                limit,
                environment=_environment(step, dry=state.dry),
                log=log,
                cwd=ROOT,
                patience=_PATIENCE,
                watch=save,
            )
        why = f"stopped after {limit:.0f} s" if status is None else f"status {status}"
        gpu_state.collect(folder, record)
        _judge(record, status, progressed=record.measured() > before)
    finally:
        record.seconds = round(record.seconds + time.monotonic() - start, 1)
        record.why = "" if record.status == "done" else f"{why}; {_reason(record)}"
        save()


def _environment(step: Step, *, dry: bool) -> dict[str, str]:
    common = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if dry:
        return {"XLA_FLAGS": _UNOPTIMIZED, **common, "JAX_PLATFORMS": "cpu"}
    return common | dict(step.environment)


def _judge(record: Record, status: int | None, *, progressed: bool) -> None:
    """Set a step's status, and count the tries that brought nothing."""
    if status == 0 and record.is_complete():
        record.status = "done"
        return
    has_more = status is None or not record.is_complete()
    record.status = "open" if has_more else "failed"
    record.tries = 0 if has_more and progressed else record.tries + 1
    if record.tries >= _MOST_TRIES:
        record.status = "failed"


def _reason(record: Record) -> str:
    """Return the rows that failed, or else the last line of the log."""
    lines = [line.strip() for line in record.log.splitlines() if line.strip()]
    return "; ".join(record.failures()) or (lines[-1][:200] if lines else "no output")


def _report(steps: Sequence[Step], state: State, args: argparse.Namespace) -> int:
    """Print what is done, what is left and how to go on; return the exit status."""
    left, failed, absent = [], [], []
    for step in steps:
        record, lack = state[step.name], gpu_steps.lacking(step)
        if record.status == "done":
            continue
        if lack:
            absent.append(f"left out: {step.name}: {lack}")
        elif record.status == "failed":
            failed.append(f"failed: {step.name}: {record.why}")
        if not lack and record.tries < _MOST_TRIES:
            left.append(step)
    done = [step.name for step in steps if state[step.name].status == "done"]
    print(f"done: {', '.join(done) or 'nothing'}")
    for line in (*failed, *absent):
        print(line)
    if left:
        guesses = ", ".join(f"{step.name} ({step.minutes:.0f} min)" for step in left)
        print(f"left, with a guess of their minutes: {guesses}")
    print(f"results: {state.path}")
    if left and not args.dry_run:
        words = [f"--resume {shlex.quote(str(state.path.parent))}"]
        words += [f"--minutes {args.minutes:g}"]
        words += [f"--only {name}" for name in args.only or ()]
        words += [f"--devices {args.devices}"] if args.devices != "gpu" else []
        print(f'next call: make gpu-bench ARGS="{" ".join(words)}"')
    return 1 if failed or (args.dry_run and left) else 0


def _print_list(steps: Sequence[Step], state: State) -> None:
    for step in steps:
        status = gpu_steps.lacking(step) or state[step.name].status
        print(f"{step.name:<30} {step.minutes:4.0f} min (a guess)  {status}")


def _print_needs() -> int:
    """Print the packages, and how to get those that are missing; return 0 if none is."""
    lost = []
    for name, least, installed in gpu_steps.requirements():
        enough = gpu_steps.is_enough(least, installed)
        lost += [] if enough else [f"{name}>={least}"]
        print(f"{'ok' if enough else 'MISSING':<8} {name}>={least}  {installed or ''}".rstrip())
    for name, use, installed in gpu_steps.optional():
        print(f"{'ok' if installed else 'absent':<8} {name} ({use})  {installed or ''}".rstrip())
    if lost:
        words = shlex.join(lost)
        version = ".".join(map(str, sys.version_info[:2]))
        print(
            f"install: python -m pip install {words}\n"
            "without a network, on another machine: python -m pip download --dest wheels "
            f"--only-binary=:all: --python-version {version} {words}\n"
            "and here: python -m pip install --no-index --find-links wheels --target site "
            f"{words}; export PYTHONPATH=$PWD/site"
        )
    return 1 if lost else 0


def _check_machine(*, dry: bool) -> None:
    lost = [
        name
        for name, least, installed in gpu_steps.requirements()
        if not gpu_steps.is_enough(least, installed)
    ]
    if lost:
        raise UserError(
            f"packages: {', '.join(lost)} missing or too old; python -m benchmarks.gpu --needs "
            "lists what to install"
        )
    from benchmarks import harness

    if not dry and not harness.has_gpu():
        raise UserError(
            "device: JAX finds no GPU here; run it where there is one, or --dry-run on the CPU"
        )


def _publish(state: State) -> int:
    """Write the files of the steps into benchmarks/results/, with the benchmarks' pictures."""
    from benchmarks import harness, results_file
    from charjax.files import write_json

    results = {step.name: step.result for step in STEPS}
    if state.dry:
        raise UserError("--publish: these are the results of a dry run")
    for name, record in state.records.items():
        for file, tree in record.files.items():
            if "devices" in tree and "benchmark" in tree:
                results_file.write(RESULTS / file, tree)
                benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
                harness.draw(benchmark, (RESULTS / file).with_suffix(".png"), tree)
            elif file == "results.json" and (target := results[name]):
                write_json(RESULTS / target, tree)
            else:
                continue
            print(f"written: {RESULTS / (results[name] or file)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
