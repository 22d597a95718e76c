"""`python -m charjax.initlab probe`: a network at its first step, measured in seconds.

python -m charjax.initlab probe [CONFIG.toml] [section.key=value ...] [--seeds N] [--out DIR]
                                [--json] [--coordinates [W,W,...]] [--depths D,D,...]
"""

import contextlib
import json
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from charjax import cli
from charjax.config import Config, load_config
from charjax.config.values import format_value
from charjax.errors import UserError, printable
from charjax.initlab.sweeps.axes import numbers

# Width of the output where it is not a terminal: tables are not folded.
_PLAIN_COLUMNS = 140


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    args = arguments(argv)
    config = load_config(args.config, args.overrides, note=cli.remark)
    if orders := getattr(config.model, "counts", ()):
        raise UserError(
            f"model.counts: {format_value(orders)} given; a probe measures a network alone: set "
            "model.counts=[]"
        )
    if config.model.fitted:
        raise UserError(
            "model.kind: 'ngram' given; counts have no initialisation: choose a family that is "
            "trained by gradients"
        )
    # JAX is imported only now, so that mistakes are reported at once.
    from charjax.files import check_directory
    from charjax.init import scheme_for

    scheme_for(config)
    if args.out is not None:
        check_directory(args.out, "--out")
    _probe(args, argv, config)
    return 0


def arguments(argv: list[str]) -> Namespace:
    """Parse the command line: config, overrides, seeds, coordinates, out, json."""
    parser = cli.Parser(
        prog="charjax initlab probe",
        usage="%(prog)s [CONFIG.toml] [section.key=value ...] [options]",
        description="Measure a network at its first step, drawn with several seeds: the initial "
        "loss, activations\nand gradients of each layer, the correlation of two inputs by depth, "
        "the Jacobian, the Hessian's\nlargest eigenvalue, each beside its theory. Configurations "
        "and settings are those of charjax.train.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG.toml | section.key=value",
        help="a configuration (a file, or the name of one that is shipped), and settings of it",
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=cli.whole_number(0, 1024),
        default=4,
        help="number of networks (4)",
    )
    parser.add_argument(
        "--coordinates",
        metavar="W,W,...",
        nargs="?",
        const=(),
        type=numbers(whole=True, spacing="log", low=1, high=1_000_000),
        help="also run muP's coordinate check: train ten steps at these widths; every layer must "
        "move as far in a wide network as in a narrow one. It passes, fails, or cannot tell, and "
        "then gives the number of seeds or widths that would decide",
    )
    parser.add_argument(
        "--depths",
        metavar="D,D,...",
        type=numbers(whole=True, spacing="log", low=1, high=100_000),
        help="the same check over depth, of the layers that a network of any depth has",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="write probe.json and pictures there"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    cli.add_code(parser, resumes=False)
    args = parser.parse_intermixed_args(argv)
    args.config, args.overrides = cli.config_words(args.words)
    del args.words
    if args.seeds < 2:
        raise UserError(
            f"--seeds: {args.seeds} given; a standard deviation over seeds needs 2 or more"
        )
    if args.coordinates == () and not args.depths:
        raise UserError(
            "--coordinates: no widths given; give W,W,..., or --depths D,D,... for the check over "
            "depth"
        )
    if args.depths and len(args.depths) < 2:
        raise UserError(f"--depths: {args.depths[0]} given; a slope needs at least two depths")
    if args.coordinates and len(args.coordinates) < 2:
        raise UserError(
            f"--coordinates: {args.coordinates[0]} given; a slope needs at least two widths"
        )
    return args


def _probe(args: Namespace, argv: list[str], config: Config) -> None:
    from rich.console import Console

    from charjax import backend
    from charjax.files import make_directory, write_json
    from charjax.hardware import machine_facts
    from charjax.initlab.probes.network import probe_seeds
    from charjax.initlab.probes.summary import summarise
    from charjax.training.session import open_session

    with _status() as show_stage:
        show_stage("reading the text")
        backend.start_backend(config.runtime)
        session = open_session(config)
        coordinates = None
        if args.coordinates:
            # First, as it refuses widths that the family cannot have.
            coordinates = _check(config, "width", args.coordinates, args.seeds, show_stage)
        over_depth = None
        if args.depths:
            over_depth = _check(config, "depth", args.depths, args.seeds, show_stage)
        probes = probe_seeds(session, args.seeds, show_stage)
    command = f"python -m charjax.initlab probe {shlex.join(argv)}".strip()
    tree: dict[str, Any] = {"command": command, **summarise(session, probes)}
    tree |= {"coordinates": coordinates, "depth_coordinates": over_depth}
    tree |= {"hardware": machine_facts()}
    pictures = []
    if args.out is not None:
        from charjax.initlab.probes.pictures import draw

        make_directory(args.out, "--out")
        pictures = draw(tree, probes[0], args.out)
        write_json(args.out / "probe.json", tree)
    if args.json:
        print(json.dumps(tree, allow_nan=False))
        return
    from charjax.initlab.probes.tables import show

    show(Console(width=None if sys.stdout.isatty() else _PLAIN_COLUMNS), tree)
    if args.out is not None:
        print(printable(f"written: {args.out}/probe.json, {', '.join(pictures)}"))


def _check(
    config: Config,
    axis: str,
    places: tuple[int, ...],
    seeds: int,
    show_stage: Callable[[str], None],
) -> dict[str, Any]:
    from charjax.initlab.probes.coordinates import check_coordinates
    from charjax.initlab.probes.depths import check_depths

    show_stage(f"training at {axis} {places[0]}")
    first = config.train.seed
    check = check_coordinates if axis == "width" else check_depths
    return check(
        config,
        places,
        tuple(range(first, first + seeds)),
        report_progress=lambda place: show_stage(f"trained at {axis} {place}"),
    )


@contextlib.contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current stage on a terminal's stderr; silent elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: None
        return
    with console.status("") as status:
        yield lambda stage: status.update(stage)
