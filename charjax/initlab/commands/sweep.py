"""`python -m charjax.initlab sweep`: compare schemes over many seeds, one program per size."""

import dataclasses
import datetime
import shlex
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from charjax import cli
from charjax.cluster.launch import add_processes, find_launch
from charjax.config.families import FAMILIES, families_where
from charjax.errors import UserError
from charjax.extensions import is_reference, name_word
from charjax.initlab.sweeps.axes import Axes, numbers
from charjax.initlab.sweeps.parts import parse_part, split_axis

if TYPE_CHECKING:
    from charjax.config import Config
    from charjax.initlab.measurements.catalogue import Measuring

TRAINED = families_where(fitted=False)
_SCHEMES = "pytorch,lecun_normal,glorot_normal,he_normal"
_STEPS = 1000


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    args = _arguments(argv)
    if (launch := find_launch(args)) is None:
        return _start(args, argv)
    from charjax.cluster.connection import connected

    with connected(launch):
        return _start(args, argv)


def _start(args: Namespace, argv: list[str]) -> int:
    """Check the grid, and train it."""
    base, axes = _grid(args)
    args.measuring = _measuring(args, base.train.steps)
    from charjax.initlab.commands.sweeping import run_sweep
    from charjax.signals import Interrupted, Signals

    with Signals() as signals:
        out = _directory(args, base)
        try:
            run_sweep(args, argv, base, axes, out, signals)
        except Interrupted as stop:
            again = shlex.join([word for word in argv if word not in ("--resume", "--extend")])
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
        "--axis",
        metavar="SECTION.KEY=A,B,...",
        action="append",
        type=split_axis,
        default=[],
        help="values of any other setting, as in optim.beta2=0.9,0.95 or "
        "model.activation=tanh,relu; may be given several times",
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
    parser.add_argument(
        "--measure",
        metavar="A,B,...",
        help="measurements during training, in measurements.csv: sharpness, noise_scale, ntk, ... "
        "(docs/initlab.md lists them)",
    )
    parser.add_argument(
        "--measure-at",
        metavar="STEPS",
        type=numbers(whole=True, spacing="even", low=0, high=10**12),
        help="steps of --measure, as a,b,c or lo:hi:n (0, 1, 2, 5, 10, ... and the last)",
    )
    parser.add_argument("--steps", metavar="S", type=cli.whole_number(1), help="of each run (1000)")
    parser.add_argument(
        "--at-once", metavar="N", type=cli.whole_number(1), help="runs per program (as many as fit)"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory of the tables and the report (a new one in runs/)"
    )
    parser.add_argument("--resume", action="store_true", help="continue a stopped sweep in --out")
    parser.add_argument(
        "--extend",
        action="store_true",
        help="train what this grid has beyond that of the finished sweep in --out, and put both "
        "together",
    )
    parser.add_argument(
        "--part",
        metavar="K/N",
        type=parse_part,
        help="train part K of the grid in N parts, here or on another machine; `merge` puts them "
        "together",
    )
    add_processes(parser)
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
    if args.extend and args.out is None:
        raise UserError("--extend: no --out given; name the directory of the sweep to extend")
    if args.extend and args.part is not None:
        raise UserError(
            f"--extend: given with --part {args.part}; extend the merged sweep, or give it "
            "--processes"
        )
    args.print_config = args.dry_run = False
    return args


def _family(text: str) -> str:
    if text not in TRAINED and not is_reference(text):
        known = ", ".join(repr(name) for name in TRAINED)
        raise ArgumentTypeError(f"invalid choice: {text!r} (choose from {known})")
    return name_word("model.kind", text)


def _grid(args: Namespace) -> tuple["Config", Axes]:
    """Return the configuration that all runs share, and the axes that vary."""
    from charjax.config import load_config, read_settings
    from charjax.config.own_families import find_family
    from charjax.config.settings import DEFAULT_KIND
    from charjax.initlab.sweeps import settings
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
    unread = why_no_run_reads(axes)
    if not args.axis:
        base = load_config(args.config, overrides, note=cli.remark, unread=unread)
        check_axes(base, axes, args.overrides, cli.remark)
        return base, axes
    kind = kind or DEFAULT_KIND
    family = find_family(kind)
    sizes = {f"model.{family.depth_field}": "--depth"} if family and family.depth_field else {}
    if family and family.width_field:
        sizes.setdefault(f"model.{family.width_field}", "--width")
    settings.check_names(args.axis, kind, sizes, args.overrides)
    axes = dataclasses.replace(
        axes, settings=settings.read_values(args.config, overrides, args.axis)
    )
    first = [f"{name}={texts[0]}" for name, texts in args.axis]
    combinations = [dict(zip(axes.names, each, strict=True)) for each in axes.combinations]
    unread = settings.read_by_some(combinations, unread)
    base = load_config(args.config, [*overrides, *first], note=cli.remark, unread=unread)
    settings.check_read(base, axes)
    check_axes(base, axes, args.overrides, cli.remark)
    return base, axes


def _measuring(args: Namespace, steps: int) -> "Measuring | None":
    """Return what is measured during training."""
    if args.measure is None:
        if args.measure_at is not None:
            raise UserError("--measure-at: no --measure given; name what is measured there")
        return None
    from charjax.initlab.measurements.catalogue import Measuring, check_steps, parse_names
    from charjax.initlab.sweeps.record import recorded_steps

    names = parse_names(args.measure)
    at = recorded_steps(steps) if args.measure_at is None else args.measure_at
    return Measuring(names, check_steps(at, steps))


def _directory(args: Namespace, base: "Config") -> Path:
    """Return the output directory; it is made only once everything else has been checked."""
    if args.out is not None:
        return Path(args.out)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = Path("runs") / f"sweep-{base.model.kind}-{stamp}"
    if not args.several:
        return out
    from charjax import processes

    return Path(processes.from_first(str(out.absolute())))
