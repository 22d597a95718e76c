"""`python -m charjax.train`: train a model on a text, or resume a run.

    python -m charjax.train [CONFIG.toml] [section.key=value ...] [--workdir DIR] [--resume]
                            [--init-from RUN [--checkpoint best|latest|STEP]] [--print-config]
                            [--dry-run] [--list-configs] [--profile STEPS]
                            [--processes N --process I --coordinator HOST:PORT]

This file reads top to bottom: the configuration, the parts of the run, the run, the arguments.
"""

import argparse
import re
import shlex
import sys
import textwrap
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charjax import cli, signals
from charjax.cluster.launch import add_processes, find_launch
from charjax.config import (
    Config,
    describe_conflicts,
    load_config,
    read_settings,
    resume_conflicts,
)
from charjax.config.notes import schedule_notes
from charjax.errors import UserError

if TYPE_CHECKING:
    from charjax.run.display import Display
    from charjax.run.instrument import Instrument
    from charjax.training.session import Session


# A trace holds every operation of every step.
_MOST_PROFILED = 1000


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    notes: list[str] = []
    args = train_arguments(argv, notes.append)
    if args.list_configs:
        return _list_configs()
    if (launch := find_launch(args)) is None:
        return _start(args, notes)
    from charjax.cluster.connection import connected

    with connected(launch):
        return _start(args, notes)


def _start(args: Namespace, notes: list[str]) -> int:
    """Check the configuration, and train."""
    _check_measure(args)
    config, workdir = resolve_config(args, notes.append)
    if args.profile is not None and config.model.fitted:
        raise UserError(
            f"--profile: {args.profile} given, but model.kind={config.model.kind} counts and has "
            "no steps: leave it out"
        )
    if args.print_config or args.dry_run:
        return _check_start(args, config, workdir, notes)
    with cli.importing():
        if not args.several:
            # Before all other imports, which take as long as loading a program.
            from charjax.programs.command import begin_command

            begin_command("resume" if args.resume else "train", config)
        from rich.console import Console

        # Imports all that training needs.
        from charjax.run.directory import run_directory
        from charjax.run.display import Display

    display = Display(Console())
    if args.several:
        from charjax import processes
        from charjax.run.agreement import check_start

        check_start(config, args)
        if not processes.is_first():
            display = Display(Console(quiet=True))
    with run_directory(workdir, config) as directory:
        return train_run(args, config, directory, notes, display, signals.Signals())


def resolve_config(args: Namespace, note: Callable[[str], None]) -> tuple[Config, Path | None]:
    """Return the configuration, and the directory if one is named.

    A resumed run has the configuration saved with it, a fine-tuned one the other run's model.
    """
    if args.workdir is not None and not args.workdir.strip():
        raise UserError(
            f"--workdir: {args.workdir!r} given; name a directory, or leave the flag out for a new "
            "one in runs/"
        )
    if args.checkpoint is not None and args.init_from is None:
        raise UserError(
            "--checkpoint: given without --init-from; it names the saved step of that run to start "
            "from (--resume always continues from the latest)"
        )
    if not args.resume:
        workdir = Path(args.workdir) if args.workdir else None
        if args.init_from is not None:
            from charjax.run.fine_tuning import fine_tuning_config

            source = Path(args.init_from)
            return fine_tuning_config(source, args.config, args.overrides, note), workdir
        return load_config(args.config, args.overrides, note=note), workdir
    if args.workdir is None:
        raise UserError("--resume: no --workdir given; name the directory of the run to resume")
    if args.init_from is not None:
        raise UserError("--init-from: given with --resume; a run begins only once: leave one out")
    workdir = Path(args.workdir)
    saved = workdir / "config.toml"
    if not saved.is_file():
        # Imports JAX, for the message of the error.
        from charjax.run.load import require_run

        require_run(workdir)
    old = load_config(saved, saved=True)
    if args.config is not None:
        requested = read_settings(args.config, args.overrides).get("model", {})
        new = load_config(args.config, args.overrides, note=note)
        new = _with_settled_fields(new, old, requested)
    else:
        new = load_config(saved, args.overrides, saved=True, note=note)
    if resume_conflicts(old, new):
        # Knows no JAX, so that a mistake is found at once.
        from charjax.run.checkpoint_files import steps

        completed = max(steps(workdir / "checkpoints"), default=None)
        if resume_conflicts(old, new, completed):
            conflicts = describe_conflicts(old, new, completed=completed)
            raise UserError(f"--resume: the configuration has changed: {conflicts}")
    return new, workdir


def _with_settled_fields(config: Config, old: Config, requested: dict[str, Any]) -> Config:
    """Return a configuration with the fields that the saved run determined itself.

    They are a context length taken from the text, the steps of train.epochs, and, unless it is
    requested, whether embeddings are scaled: a run may have been saved before its scheme
    determined that.

    Args:
      config: the configuration given with --resume.
      old: the saved run's.
      requested: the settings of [model] in the configuration file and the overrides.
    """
    if config.model.kind != old.model.kind:
        return config
    names = {"context_length"} if config.model.context_length is None else set()
    names |= {"scale_embeddings"} - requested.keys()
    settled = {name: getattr(old.model, name) for name in names if hasattr(old.model, name)}
    config = config.model_copy(update={"model": config.model.model_copy(update=settled)})
    if config.optim.decay_steps is None and config.train.epochs == old.train.epochs:
        return config.with_steps(old.train.steps)
    return config


def _check_start(args: Namespace, config: Config, workdir: Path | None, notes: list[str]) -> int:
    """Check all that a run checks before its first step; print its header or configuration."""
    from rich.console import Console

    from charjax.run.directory import check_can_start
    from charjax.run.display import Display
    from charjax.run.header import show_plan

    # With --print-config there is only the configuration on stdout.
    display = Display(Console(stderr=args.print_config))
    session, _ = _open(args, config, workdir, [], display)
    if workdir is not None:
        check_can_start(workdir, session, resume=args.resume)
    # Not before: an error is printed as one line, without notes.
    for note in [*notes, *schedule_notes(session.config)]:
        display.say(f"note: {note}")
    if args.dry_run:
        show_plan(display, session)
        display.say("dry run: nothing was trained or written")
    if args.print_config:
        sys.stdout.write(session.config.to_toml(comments=True))
    return 0


def _list_configs() -> int:
    """Print the shipped configurations, each with the first sentence of its header."""
    from charjax.config import shipped_configs

    found = shipped_configs()
    indent = " " * (max(map(len, found), default=0) + 2)
    for name, path in found.items():
        lines = path.read_text(encoding="utf-8").split("\n")
        header = [line.removeprefix("# ") for line in lines[: lines.index("")]]
        about = " ".join(line for line in header if not line.startswith("Measured: "))
        first = re.split(r"(?<=[.)])\s+(?=[A-Z])", about)[0]
        start = f"{name:{len(indent)}}"
        print(textwrap.fill(first, cli.COLUMNS, initial_indent=start, subsequent_indent=indent))
    return 0


def _open(
    args: Namespace, config: Config, workdir: Path | None, notes: list[str], display: "Display"
) -> tuple["Session", Any]:
    """Return the session, and with --init-from the parameters of the other run."""
    from charjax.run.load import saved_dataset
    from charjax.tracking.trackers import check_installed
    from charjax.training.session import open_session, start_for_training

    check_installed(config)
    for note in notes:
        display.say(f"note: {note}")
    # Before anything else starts JAX.
    start_for_training(config, several=args.several)
    if args.init_from is not None:
        from charjax.run.fine_tuning import describe_source, initial_parameters, load_source

        source = load_source(Path(args.init_from), args.checkpoint or "best", config)
        display.say(describe_source(source, config))
        return open_session(config, source.tokenizer), initial_parameters(source, config)
    # A fine-tuned run has the alphabet of its source, which may not be that of its text.
    if not (args.resume and workdir):
        return open_session(config), None
    dtype = load_config(workdir / "config.toml", saved=True).runtime.dtype
    tokenizer, digest = saved_dataset(workdir)
    return open_session(config, tokenizer, digest, None if dtype == "auto" else dtype), None


def train_run(
    args: Namespace,
    config: Config,
    workdir: Path,
    notes: list[str],
    display: "Display",
    stopping: signals.Signals,
) -> int:
    """Train, or resume, the run of a directory; return its exit status.

    Args:
      args: of the command: `resume`, `init_from`, `checkpoint`, `profile`, `measure`,
        `measure_at` and `several` are read.
      config: resolved by `resolve_config`.
      workdir: the directory.
      notes: to be shown before the run.
      display: of the run.
      stopping: not entered yet.
    """
    # JAX is imported only now, so that mistakes in the config are reported at once.
    from charjax.run.agreement import check_session
    from charjax.run.recorder import Recorder

    display.say(f"run: {workdir}")
    session, params = _open(args, config, workdir, notes, display)
    check_session(session)
    instrument = _instrument(args, session, workdir)
    for note in schedule_notes(session.config):
        display.say(f"note: {note}")
    began = time.perf_counter()
    # A signal no longer ends the process at once: there is a state to save.
    with stopping as received:
        recorder = Recorder.open(workdir, session, display, received, resume=args.resume)
        status = 1
        try:
            if session.model.fitted:
                status = recorder.fit()
            else:
                status = recorder.train(params, args.profile, instrument)
        except signals.Interrupted as stop:
            status = stop.status
        finally:
            recorder.close(status)
    display.say(f"look at it: charjax report {shlex.quote(str(workdir))}")
    display.say(f"run: {workdir}  ({time.perf_counter() - began:.1f} s)")
    return status


def _check_measure(args: Namespace) -> None:
    """Raise a UserError for measurements that do not exist, or that this start cannot have."""
    if args.measure is None:
        if args.measure_at is not None:
            raise UserError("--measure-at: no --measure given; name what is measured there")
        return
    from charjax.initlab.measurements.catalogue import parse_names

    parse_names(args.measure)
    if args.several:
        raise UserError("--measure: given to several processes; measure a run of one process")
    if args.init_from is not None:
        raise UserError(
            "--measure: given with --init-from; measurements are from a run's own start: leave one "
            "out"
        )


def _instrument(args: Namespace, session: "Session", workdir: Path) -> "Instrument | None":
    """Return what measures the run, with --measure."""
    if args.measure is None:
        return None
    from charjax.initlab.measurements.catalogue import Measuring, check_steps, parse_names
    from charjax.initlab.measurements.run import RunMeasurements
    from charjax.initlab.sweeps.record import recorded_steps

    names, steps = parse_names(args.measure), session.config.train.steps
    at = recorded_steps(steps) if args.measure_at is None else args.measure_at
    measuring = Measuring(names, check_steps(at, steps))
    return RunMeasurements(session, measuring, workdir, resumed=args.resume)


def train_arguments(
    argv: list[str], note: Callable[[str], None] = cli.remark
) -> argparse.Namespace:
    """Parse the arguments; `config`, `workdir`, `init_from`, `checkpoint` are None unless given.

    `note` is called with a line about words that were understood as something else.
    """
    parser = cli.Parser(
        prog="charjax train",
        usage="%(prog)s [CONFIG.toml] [section.key=value ...] [options]",
        description="Train a character-level language model; by default a small one, on Python's "
        "own source.",
        epilog=_describe_config,
        advise=lambda flag: _advise_setting(flag, argv),
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG.toml | section.key=value",
        help="a configuration (a file, or the name of one that is shipped), and settings of it",
    )
    parser.add_argument("--workdir", metavar="DIR", help="where the run goes (a new one in runs/)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --workdir")
    parser.add_argument(
        "--init-from", metavar="RUN", help="start from the parameters of another run (fine-tuning)"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="best|latest|STEP",
        type=cli.checkpoint_step,
        help="with --init-from: which of its saved steps (best)",
    )
    parser.add_argument(
        "--profile",
        metavar="STEPS",
        type=cli.whole_number(1, _MOST_PROFILED),
        help="write a trace of so many steps to profile/ in the run (XProf, TensorBoard, Perfetto)",
    )
    parser.add_argument(
        "--measure",
        metavar="A,B,...",
        help="measure sharpness, noise_scale, ntk, ... during training, in measurements.csv of the "
        "run (docs/initlab.md lists them)",
    )
    parser.add_argument(
        "--measure-at",
        metavar="STEPS",
        type=cli.whole_numbers(0),
        help="steps of --measure, as a,b,c (0, 1, 2, 5, 10, ... and the last)",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="check all that comes before the first step, print the resolved configuration, and "
        "stop",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the same, print parameters, text, devices and epochs, and stop",
    )
    parser.add_argument(
        "--list-configs", action="store_true", help="print the shipped configurations, and stop"
    )
    add_processes(parser)
    cli.add_code(parser)
    args = parser.parse_intermixed_args(argv)
    args.config, args.overrides = cli.config_words(args.words, note)
    del args.words
    return args


def _advise_setting(flag: str, argv: list[str]) -> str | None:
    """Return the error message for an unknown flag that is a setting of charjax or of a peer."""
    from charjax.config.errors import unknown_flag

    name, equals, value = flag.partition("=")
    following = argv[argv.index(flag) + 1 :][:1] if flag in argv and not equals else []
    # A number may be negative.
    values = [word for word in following if not word.startswith("-") or word[1:2].isdigit()]
    return unknown_flag(name, value if equals else next(iter(values), None))


def _describe_config() -> str:
    """Return a table of all settings with type, default and meaning."""
    from charjax.config import describe_fields, shipped_configs

    known = f"configurations: {', '.join(shipped_configs()) or 'none'}"
    lines = textwrap.wrap(known, cli.COLUMNS, subsequent_indent="  ")
    groups = list(describe_fields())
    widths = [max(len(row[column]) for _, rows in groups for row in rows) for column in range(3)]
    for heading, rows in groups:
        lines += ["", *textwrap.wrap(heading, cli.COLUMNS)]
        for name, kind, default, meaning in rows:
            start = f"  {name:{widths[0]}}  {kind:{widths[1]}}  {default:{widths[2]}}  "
            indent = " " * len(start)
            lines += textwrap.wrap(
                meaning, cli.COLUMNS, initial_indent=start, subsequent_indent=indent
            )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
