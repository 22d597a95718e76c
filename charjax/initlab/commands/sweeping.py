"""A sweep as it runs: its directory, its training in one process or several, its results."""

import dataclasses
import shlex
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from charjax import backend, processes
from charjax.config import Config
from charjax.data.datasets import Dataset, load_dataset
from charjax.errors import UserError, printable
from charjax.extensions import save_sources
from charjax.files import make_directory, write_json
from charjax.initlab.commands.together import Meeting
from charjax.initlab.measurements.catalogue import Measuring
from charjax.initlab.sweeps import extending, results
from charjax.initlab.sweeps.axes import Axes
from charjax.initlab.sweeps.grid import Group, Point, make_groups
from charjax.initlab.sweeps.measured import write_measurements
from charjax.initlab.sweeps.plan import (
    FILE,
    Plan,
    check_kernels,
    check_room,
    check_tables,
    describe,
    kernels_of,
    read_plan,
    resumed_plan,
)
from charjax.initlab.sweeps.runner import Sweep
from charjax.initlab.sweeps.shares import missing, part_of
from charjax.initlab.sweeps.tables import Finished, write_tables
from charjax.run.lock import Lock
from charjax.signals import Signals
from charjax.training.cpu_plan import needs_one_heap
from charjax.training.ensemble import check_config
from charjax.training.feed import check_on_device
from charjax.training.session import with_context

# Words of the command line that do not change the results, by the number of their values.
_LOCAL_FLAGS = {
    **{"--out": 1, "--part": 1, "--processes": 1, "--process": 1, "--coordinator": 1},
    **{"--resume": 0, "--extend": 0},
}


def run_sweep(
    args: Namespace, argv: list[str], base: Config, axes: Axes, out: Path, signals: Signals
) -> None:
    """Train a sweep, or a part of one, and write its results.

    Args:
      args: of the command.
      argv: its words.
      base: the settings that all runs share.
      axes: the values that vary.
      out: the directory.
      signals: entered.

    Raises:
      Interrupted: a signal has come, to this process or another; finished runs are saved.
      UserError: a mistake of the user's.
    """
    measuring = args.measuring
    groups, dataset, devices, base = processes.together(lambda: _open(base, axes, measuring))
    kernels = kernels_of(groups, dataset, devices)
    tree = describe(base, axes, args.part, dataset, measuring, kernels)
    meeting = Meeting(signals)
    meeting.check_equal(tree, out, {"--resume": args.resume, "--extend": args.extend})
    lock = Lock(out)
    try:
        plan = _prepare(args, base, groups, tree, out, lock)
        if processes.is_first():
            print(f"sweep: {printable(str(out))}")
        if not extending.is_finished(out):
            old = _old_points(base, out)
            spans = part_of(groups, args.part) if old is None else missing(groups, old)
            shares = (processes.count(), processes.index())
            sweep = Sweep(
                groups, spans, dataset, devices, out / "parts", plan, meeting.poll, shares
            )
            sweep.measuring = measuring
            # No process begins before all have seen what is finished.
            meeting.wait_for_all("listed")
            with _bar(groups, sweep.own_run_steps()) as sweep.progress:
                sweep.run(args.at_once)
            done = meeting.wait_for_all("trained", [sweep.seconds, sweep.run_steps])
            if processes.is_first():
                sweep.seconds, sweep.run_steps = (sum(column) for column in zip(*done, strict=True))
                _finish(args, argv, base, axes, sweep)
        if processes.is_first():
            if args.part is None:
                report_results(out)
            else:
                print(f"part: {args.part} is complete; merge it with the others")
        meeting.wait_for_all("written")
    finally:
        lock.release()


def without_local(argv: list[str]) -> list[str]:
    """Return the words of a command that its results depend on."""
    others, words = [], iter(argv)
    for word in words:
        flag, _, value = word.partition("=")
        if flag not in _LOCAL_FLAGS:
            others.append(word)
        elif _LOCAL_FLAGS[flag] and not value:
            next(words, None)
    return others


def _open(
    base: Config, axes: Axes, measuring: Measuring | None
) -> tuple[list[Group], Dataset, list[Any], Config]:
    """Return the grid, the text, this process's devices, and the resolved settings."""
    check_config(base)
    check_tables(axes.runs, 1, base.train.steps)
    of_one_seed = make_groups(base, dataclasses.replace(axes, seeds=axes.seeds[:1]))
    backend.make_device_of_every_core()
    # An ensemble computes a few runs at a time, or one if it is large.
    are_large = any(needs_one_heap(group.config, 1) for group in of_one_seed)
    devices = backend.start_backend(base.runtime, large_calls=are_large, several=True)
    dataset = load_dataset(base.data)
    base = with_context(base, dataset)
    if "val" not in dataset.splits:
        raise UserError("data.val_fraction: 0 given; a sweep measures a validation loss: raise it")
    for name in ("train", "val"):
        check_on_device(dataset.splits[name].tokens, base.data.device_bytes)
    groups = make_groups(base, axes)
    check_room(groups, dataset, devices, measuring)
    return groups, dataset, devices, base


def _prepare(
    args: Namespace, base: Config, groups: list[Group], tree: dict[str, Any], out: Path, lock: Lock
) -> Plan:
    """Check what is in the directory, lock it, and write the plan there."""

    def prepare() -> None:
        part_of(groups, args.part)
        if not processes.is_first():
            return
        if args.extend:
            plan = extending.extended_plan(out, tree)
            extending.check_grown(_points(base, extending.axes_of(out)), groups)
        elif args.resume:
            plan = resumed_plan(out, tree)
            if not extending.is_finished(out):
                check_kernels(plan.tree, tree, "--resume")
        else:
            plan = Plan(out, tree, {})
            if out.is_dir() and any(out.iterdir()):
                raise UserError(
                    f"--out: {str(out)!r} is not empty; continue its sweep with --resume, or give "
                    "another"
                )
        make_directory(out, "--out")
        lock.acquire()
        for group in groups:
            for config in group.configs.values():
                save_sources(out, config.model_dump())
        if args.extend and read_plan(out, "--extend").tree != tree:
            extending.keep_earlier(out)
        if not extending.is_finished(out):
            plan.write()

    def read() -> Plan:
        if not (out / FILE).is_file():
            raise UserError(
                f"--out: process {processes.index()} does not see {str(out)!r} as process 0 does; "
                "give a directory on a file system that all processes share"
            )
        return read_plan(out, "--resume")

    processes.together(prepare)
    return processes.together(read)


def _points(base: Config, axes: Axes) -> list[Point]:
    return [point for group in make_groups(base, axes) for point in group.points]


def _old_points(base: Config, out: Path) -> list[Point] | None:
    """Return the runs of the sweep that is being extended, or None."""
    earlier = extending.earlier_of(out)
    return _points(base, extending.axes_of(earlier)) if earlier.exists() else None


def _finish(args: Namespace, argv: list[str], base: Config, axes: Axes, sweep: Sweep) -> None:
    """Write the tables, then sweep.json or part.json, and remove the records."""
    out, new, earlier = (
        sweep.parts.parent,
        sweep.parts / "new",
        extending.earlier_of(sweep.parts.parent),
    )
    if absent := sweep.missing():
        raise UserError(
            f"{str(sweep.parts)!r}: the records of {sum(map(len, absent))} runs are not there; "
            "continue with --resume"
        )
    command = f"python -m charjax.initlab sweep {shlex.join(without_local(argv))}"
    facts = results.describe_results(sweep, command, base, axes)
    old = _old_points(base, out)
    finished = list(sweep.finished())
    if old is None:
        _write(out, finished, sweep)
    else:
        new.mkdir(exist_ok=True)
        if finished:
            _write(new, finished, sweep)
        before = results.read_results(earlier / results.WHOLE, "give another --out")
        facts = results.combined(facts, [facts, before])
        (out / results.WHOLE).unlink(missing_ok=True)
        extending.merge_earlier(out, old, sweep.groups, new)
    if args.part is None:
        write_json(out / results.WHOLE, facts)
    else:
        at_once = [[g, n // len(sweep.devices)] for g, n in sorted(sweep.plan.at_once.items())]
        write_json(
            out / results.PART,
            facts
            | {"part": str(args.part), "plan": sweep.plan.tree, "at_once": at_once}
            | {"runs": sum(map(len, sweep.spans))},
        )
    if old is not None:
        earlier.rename(sweep.parts / "earlier")
    sweep.plan.at_once.clear()
    sweep.plan.write()
    shutil.rmtree(sweep.parts)


def _write(directory: Path, finished: list[Finished], sweep: Sweep) -> None:
    write_tables(directory, finished)
    if sweep.measuring is not None:
        write_measurements(directory, finished, sweep.measuring)


def report_results(out: Path) -> None:
    """Write the page of a finished sweep, and print its verdicts."""
    from charjax.initlab.report import read_sweep, verdict_lines, write_page

    read = read_sweep(out)
    page = write_page(read)
    for line in verdict_lines(read):
        print(printable(line))
    print(f"report: {printable(str(page))}")


@contextmanager
def _bar(groups: list[Group], totals: list[int]) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with the time left on a terminal, otherwise a line when a group is done.

    Args:
      groups: the grid.
      totals: run-steps of each group.
    """
    from rich.console import Console
    from rich.progress import TimeElapsedColumn, TimeRemainingColumn

    from charjax.progress import ProgressBar

    if not processes.is_first():
        yield lambda index, run_steps: None
        return
    steps = groups[0].config.train.steps
    names = [
        f"{total // steps} runs of {group.title}"
        for group, total in zip(groups, totals, strict=True)
    ]
    console = Console(stderr=True)
    if not console.is_terminal:
        done = [0] * len(groups)

        def print_done(index: int, run_steps: int) -> None:
            done[index] += run_steps
            if done[index] >= totals[index]:
                print(f"{index + 1}/{len(groups)}: {names[index]}: done", flush=True)

        yield print_done
        return
    weights = [group.run_cost for group in groups]
    columns = ("{task.percentage:>3.0f}%", TimeElapsedColumn(), TimeRemainingColumn())
    whole = sum(w * t for w, t in zip(weights, totals, strict=True))
    with ProgressBar(console, "compiling", *columns, total=whole) as bar:

        def advance(index: int, run_steps: int) -> None:
            text = f"{index + 1}/{len(groups)} {names[index]}"
            bar.update(advance=run_steps * weights[index], description=text)

        yield advance
