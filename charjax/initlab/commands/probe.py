"""`python -m charjax.initlab probe`: a network at its first step, from all sides, in seconds.

python -m charjax.initlab probe [CONFIG.toml] [section.key=value ...] [--seeds N] [--out DIR]
                                [--json] [--coordinates W,W,...]
"""

import json
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from charjax import cli
from charjax.config import Config, load_config
from charjax.errors import UserError, printable
from charjax.initlab.sweeps.axes import numbers

# Where the output is no terminal, wide enough for tables whose cells are not folded.
_PLAIN_COLUMNS = 140


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    args = arguments(argv)
    config = load_config(args.config, args.overrides, note=cli.remark)
    if config.model.kind == "ngram":
        raise UserError(
            "model.kind: 'ngram' given; counts have no initialisation: choose a family that is "
            "trained by gradients"
        )
    # JAX is imported only from here on, so that mistakes are told at once.
    from charjax.init import scheme_for

    scheme_for(config)
    out = None
    if args.out is not None:
        from charjax.files import make_directory

        out = Path(args.out)
        make_directory(out, "--out")
    _probe(args, argv, config, out)
    return 0


def arguments(argv: list[str]) -> Namespace:
    """Parse the command line: config, overrides, seeds, coordinates, out, json."""
    parser = cli.Parser(
        prog="python -m charjax.initlab probe",
        usage="%(prog)s [CONFIG.toml] [section.key=value ...] [options]",
        description="Look at a network at its first step, drawn with several seeds: the initial "
        "loss, what flows\nthrough each layer forth and back, how alike two inputs become with "
        "depth, the Jacobian, the\nHessian's largest eigenvalue; and what theory says of them. "
        "Configurations and settings\nare those of charjax.train.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG.toml | section.key=value",
        help="a configuration (a file, or the name of one that is shipped), and settings of it",
    )
    parser.add_argument(
        "--seeds", metavar="N", type=cli.whole_number(0, 1024), default=4, help="networks (4)"
    )
    parser.add_argument(
        "--coordinates",
        metavar="W,W,...",
        type=numbers(whole=True, spacing="log", low=1, high=1_000_000),
        help="check muP, too: train ten steps at these widths, and see whether every layer moves "
        "as far in a wide network as in a narrow one: passed, failed, or cannot tell and how many "
        "seeds or widths would",
    )
    parser.add_argument("--out", metavar="DIR", help="write probe.json and pictures there")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_intermixed_args(argv)
    args.config, args.overrides = cli.config_words(args.words)
    del args.words
    if args.seeds < 2:
        raise UserError(
            f"--seeds: {args.seeds} given; a standard deviation over seeds needs 2 or more"
        )
    if args.coordinates and len(args.coordinates) < 2:
        raise UserError(
            f"--coordinates: {args.coordinates[0]} given; a slope needs at least two widths"
        )
    return args


def _probe(args: Namespace, argv: list[str], config: Config, out: Path | None) -> None:
    from rich.console import Console

    from charjax import backend
    from charjax.hardware import machine_facts
    from charjax.initlab.probes.network import probe_seeds
    from charjax.initlab.probes.summary import summarise
    from charjax.training.session import open_session

    console = Console(width=None if sys.stdout.isatty() else _PLAIN_COLUMNS)
    with _status() as told:
        told("reading the text")
        backend.start_backend(config.runtime)
        session = open_session(config)
        coordinates = None
        if args.coordinates:
            # First, as it refuses widths that the family cannot have.
            coordinates = _coordinates(config, args.coordinates, args.seeds, told)
        probes = probe_seeds(session, args.seeds, told)
    command = f"python -m charjax.initlab probe {shlex.join(argv)}".strip()
    tree: dict[str, Any] = {"command": command, **summarise(session, probes)}
    tree |= {"coordinates": coordinates, "hardware": machine_facts()}
    if out is not None:
        from charjax.files import write_json
        from charjax.initlab.probes.pictures import draw

        draw(tree, probes[0], out)
        if coordinates is not None:
            from charjax.initlab.probes.coordinates_shown import draw_coordinates

            draw_coordinates(coordinates, out / "coordinates.png")
        write_json(out / "probe.json", tree)
    if args.json:
        json.dump(tree, sys.stdout, allow_nan=False)
        sys.stdout.write("\n")
        return
    from charjax.initlab.probes.tables import show

    show(console, tree)
    if coordinates is not None:
        from charjax.initlab.probes.coordinates_shown import coordinates_table

        console.print(coordinates_table(coordinates))
    if out is not None:
        drawn = ["activations", "gradients", "depth", *(["coordinates"] if coordinates else [])]
        told_where = f"written: {out}/probe.json, {', '.join(f'{name}.png' for name in drawn)}"
        console.print(
            printable(told_where), emoji=False, highlight=False, soft_wrap=True, markup=False
        )


def _coordinates(
    config: Config, widths: tuple[int, ...], seeds: int, told: Callable[[str], None]
) -> dict[str, Any]:
    from charjax.initlab.probes.coordinates import check_coordinates

    told(f"training at width {widths[0]}")
    first = config.train.seed
    return check_coordinates(
        config,
        widths,
        tuple(range(first, first + seeds)),
        progress=lambda width: told(f"trained at width {width}"),
    )


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """What is being done, on a terminal's stderr; silent elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what: None
        return
    with console.status("") as status:
        yield lambda what: status.update(what)
