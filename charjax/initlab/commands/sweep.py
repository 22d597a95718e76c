"""`python -m charjax.initlab sweep`: compare schemes over many seeds, one program per size."""

import dataclasses
import datetime
import shlex
import shutil
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from charjax import cli
from charjax.config.families import FAMILIES, families_where
from charjax.errors import UserError, printable
from charjax.extensions import is_reference, name_word, save_sources
from charjax.initlab.sweeps.axes import Axes, numbers

if TYPE_CHECKING:
    from charjax.config import Config
    from charjax.initlab.sweeps.grid import Group
    from charjax.initlab.sweeps.runner import Sweep

TRAINED = families_where(fitted=False)
_SCHEMES = "pytorch,lecun_normal,glorot_normal,he_normal"
_FORMAT = 1
_STEPS = 1000


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    args = _arguments(argv)
    base, axes = _grid(args)
    from charjax.signals import Interrupted, Signals

    with Signals() as signals:
        out = _directory(args, base)
        try:
            _sweep(args, argv, base, axes, out, signals.poll)
        except Interrupted as stop:
            again = shlex.join([word for word in argv if word != "--resume"])
            named = "" if args.out else f" --out {shlex.quote(str(out))}"
            cli.complain(
                f"stopped by {stop}; finished runs are saved: continue with python -m "
                f"charjax.initlab sweep {again}{named} --resume"
            )
            return stop.status
    return 0


def _arguments(argv: list[str]) -> Namespace:
    parser = cli.Parser(
        prog="charjax initlab sweep",
        usage="%(prog)s [CONFIG.toml] [section.key=value ...] [options]",
        description="Train a grid of networks and compare their schemes. Numbers are given as\n"
        "a,b,c, or as lo:hi:n for n of them. All runs of one size are trained in one program;\n"
        "seed k uses the same batches under every scheme.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG.toml | section.key=value",
        help="settings that all runs share, as for charjax.train",
    )
    parser.add_argument(
        "--arch",
        metavar="FAMILY",
        type=_family,
        help=f"the family: {', '.join(TRAINED)}, or your own as FILE.py:NAME (mlp, or the "
        "CONFIG's)",
    )
    parser.add_argument(
        "--scheme", metavar="A,B,...", default=_SCHEMES, help=f"values of init.scheme ({_SCHEMES})"
    )
    parser.add_argument(
        "--gain",
        metavar="GAINS",
        type=numbers(whole=False, spacing="even", low=0),
        default=(None,),
        help="values of init.gain, which multiplies every kernel but the readout (each scheme's "
        "default)",
    )
    whole = numbers(whole=True, spacing="even", low=1, high=100_000)
    parser.add_argument("--depth", metavar="DEPTHS", type=whole, default=(), help="layers")
    wide = numbers(whole=True, spacing="log", low=1, high=10_000_000)
    parser.add_argument("--width", metavar="WIDTHS", type=wide, default=(), help="units per layer")
    parser.add_argument(
        "--lr",
        metavar="RATES",
        type=numbers(whole=False, spacing="log", low=0),
        default=(),
        help="values of optim.learning_rate; lo:hi:n in equal ratios",
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=cli.whole_number(1, 1_000_000),
        default=8,
        help="runs at each grid point: 2 or more for intervals over seeds; 6 or more to separate "
        "schemes (8)",
    )
    parser.add_argument("--steps", metavar="S", type=cli.whole_number(1), help="of each run (1000)")
    parser.add_argument(
        "--at-once", metavar="N", type=cli.whole_number(1), help="runs per program (as many as fit)"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory of the tables and the report (a new one in runs/)"
    )
    parser.add_argument("--resume", action="store_true", help="continue a stopped sweep in --out")
    cli.add_code(parser)
    args = parser.parse_intermixed_args(argv)
    args.config, args.overrides = cli.config_words(args.words)
    if args.seeds < 2:
        raise UserError(
            f"--seeds: {args.seeds} given; a sweep reports intervals over seeds, which need 2 or "
            "more (6 or more to separate two schemes)"
        )
    if args.resume and args.out is None:
        raise UserError("--resume: no --out given; name the directory of the sweep to continue")
    return args


def _family(text: str) -> str:
    if text not in TRAINED and not is_reference(text):
        known = ", ".join(repr(name) for name in TRAINED)
        raise ArgumentTypeError(f"invalid choice: {text!r} (choose from {known})")
    return name_word("model.kind", text)


def _grid(args: Namespace) -> tuple["Config", Axes]:
    """Return the configuration that all runs share, and the axes that vary."""
    from charjax.config import load_config, read_settings
    from charjax.initlab.sweeps.unread import check_axes, why_no_run_reads

    overrides = list(args.overrides)
    arch = args.arch or (None if args.config else "mlp")
    if arch is not None and not any(word.startswith("model.kind=") for word in overrides):
        overrides.insert(0, f"model.kind={arch}")
    # Before anything else that an n-gram does not read.
    kind = read_settings(args.config, overrides).get("model", {}).get("kind")
    if isinstance(kind, str) and kind in FAMILIES and kind not in TRAINED:
        raise UserError(
            f"model.kind: {kind} given; counts have no initialisation: choose --arch "
            f"{', '.join(TRAINED)}"
        )
    has_steps = args.config or any(
        word.startswith(("train.steps=", "train.epochs=")) for word in overrides
    )
    if args.steps or not has_steps:
        overrides.append(f"train.steps={args.steps or _STEPS}")
    named = (name_word("init.scheme", name.strip()) for name in args.scheme.split(","))
    schemes = tuple(dict.fromkeys(named))
    seeds = tuple(range(args.seeds))
    axes = Axes(schemes, args.gain, args.depth, args.width, args.lr, seeds)
    base = load_config(args.config, overrides, note=cli.remark, unread=why_no_run_reads(axes))
    check_axes(base, axes, args.overrides, cli.remark)
    return base, axes


def _directory(args: Namespace, base: "Config") -> Path:
    """Return the output directory; it is made only once everything else has been checked."""
    if args.out is not None:
        return Path(args.out)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"sweep-{base.model.kind}-{stamp}"


def _sweep(
    args: Namespace,
    argv: list[str],
    base: "Config",
    axes: Axes,
    out: Path,
    poll: Callable[[], None],
) -> None:
    from charjax import backend
    from charjax.data.datasets import load_dataset
    from charjax.files import make_directory
    from charjax.initlab.report import read_sweep, verdict_lines, write_page
    from charjax.initlab.sweeps.grid import make_groups
    from charjax.initlab.sweeps.plan import Plan, check_room, check_tables, resumed_plan
    from charjax.initlab.sweeps.runner import Sweep
    from charjax.run.lock import Lock
    from charjax.training.cpu_plan import needs_one_heap
    from charjax.training.ensemble import check_config
    from charjax.training.session import with_context

    check_config(base)
    check_tables(axes.runs, 1, base.train.steps)
    of_one_seed = make_groups(base, dataclasses.replace(axes, seeds=axes.seeds[:1]))
    backend.make_device_of_every_core()
    # An ensemble computes a few runs at a time, or one if it is large.
    are_large = any(needs_one_heap(group.config, 1) for group in of_one_seed)
    devices = backend.start_backend(base.runtime, large_calls=are_large)
    dataset = load_dataset(base.data)
    base = with_context(base, dataset)
    if "val" not in dataset.splits:
        raise UserError("data.val_fraction: 0 given; a sweep measures a validation loss: raise it")
    groups = make_groups(base, axes)
    check_room(groups, dataset, devices)
    if not args.resume and out.is_dir() and any(out.iterdir()):
        raise UserError(
            f"--out: {str(out)!r} is not empty; continue its sweep with --resume, or give another"
        )
    plan = resumed_plan(out, base, axes) if args.resume else Plan(out, base, axes, {})
    make_directory(out, "--out")
    lock = Lock(out)
    lock.acquire()
    print(f"sweep: {printable(str(out))}")
    for scheme in axes.schemes:
        save_sources(out, {**base.model_dump(), "init": {"scheme": scheme}})
    try:
        if not (out / "sweep.json").exists():
            sweep = Sweep(groups, dataset, devices, out / "parts", plan, poll)
            with _bar(groups) as sweep.progress:
                sweep.run(args.at_once)
            _write(out, sweep, argv, base, axes)
        results = read_sweep(out)
        page = write_page(results)
    finally:
        lock.release()
    for line in verdict_lines(results):
        print(printable(line))
    print(f"report: {printable(str(page))}")


def _write(out: Path, sweep: "Sweep", argv: list[str], base: "Config", axes: Axes) -> None:
    """Write the tables, then sweep.json, and remove the parts."""
    from charjax.files import write_json
    from charjax.hardware import machine_facts
    from charjax.initlab.sweeps.record import recorded_steps
    from charjax.initlab.sweeps.tables import hidden_activation, unigram_entropy, write_tables

    finished = list(sweep.finished())
    write_tables(out, finished)
    points = [point for group in sweep.groups for point in group.points]
    tree = {
        "format": _FORMAT,
        "command": f"python -m charjax.initlab sweep {shlex.join(cli.without_out(argv))}",
        "config": base.model_dump(mode="json"),
        "config_toml": base.to_toml(),
        "arch": base.model.kind,
        "activation": hidden_activation(finished[0].layers),
        "schemes": list(axes.schemes),
        "gains": list(axes.gains),
        "depths": sorted({point.depth for point in points}),
        "widths": sorted({point.width for point in points}),
        "learning_rates": sorted({point.rate for point in points}),
        "seeds": list(axes.seeds),
        "steps": base.train.steps,
        "recorded": list(recorded_steps(base.train.steps)),
        "vocabulary": sweep.dataset.tokenizer.vocab_size,
        "unit": sweep.dataset.tokenizer.unit,
        "unigram_entropy": unigram_entropy(sweep.dataset),
        "hardware": machine_facts(),
        "seconds": round(sweep.seconds, 1),
        "run_steps_per_second": sweep.run_steps / max(sweep.seconds, 1e-9),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(out / "sweep.json", tree)
    shutil.rmtree(sweep.parts)


@contextmanager
def _bar(groups: list["Group"]) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with the time left on a terminal, otherwise a line when a group is done."""
    from rich.console import Console
    from rich.progress import TimeElapsedColumn, TimeRemainingColumn

    from charjax.progress import ProgressBar

    totals = [len(g.points) * g.config.train.steps for g in groups]
    names = [f"{len(g.points)} runs of depth {g.depth}, width {g.width}" for g in groups]
    console = Console(stderr=True)
    if not console.is_terminal:
        done = [0] * len(groups)

        def print_done(index: int, run_steps: int) -> None:
            done[index] += run_steps
            if done[index] >= totals[index]:
                print(f"{index + 1}/{len(groups)}: {names[index]}: done", flush=True)

        yield print_done
        return
    # The cost of a step: a constant, and the FLOPs of the hidden layers.
    weights = [5_000 + g.width**2 * max(1, g.depth) for g in groups]
    columns = ("{task.percentage:>3.0f}%", TimeElapsedColumn(), TimeRemainingColumn())
    whole = sum(w * t for w, t in zip(weights, totals, strict=True))
    with ProgressBar(console, "compiling", *columns, total=whole) as bar:

        def advance(index: int, run_steps: int) -> None:
            text = f"{index + 1}/{len(groups)} {names[index]}"
            bar.update(advance=run_steps * weights[index], description=text)

        yield advance
