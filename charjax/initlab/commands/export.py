"""`python -m charjax.initlab export DIR`: a sweep's tables, verdicts and figures as files."""

from argparse import ArgumentTypeError
from pathlib import Path

from charjax import cli
from charjax.errors import printable

_FIGURES = ("png", "svg", "pdf")


def main(argv: list[str]) -> int:
    """Write the tables, verdicts.json and, where asked for, the figures."""
    args = _parser().parse_args(argv)
    from charjax.files import make_directory, replace, write_json
    from charjax.initlab import frames
    from charjax.initlab.report import read_sweep
    from charjax.initlab.report.page import document
    from charjax.initlab.report.verdict_file import verdicts

    directory = Path(args.directory)
    out = directory / "export" if args.out is None else Path(args.out)
    if args.format == "parquet":
        frames.require_parquet()
    sweep = read_sweep(directory)
    has_measured = (directory / "measurements.csv").is_file()
    names = ("runs", "curves", "layers", *["measurements"] * has_measured)
    tables = {name: frames.read_frame(directory, name) for name in names}
    found = verdicts(sweep)
    pictures = document(sweep, args.figures)[1] if args.figures else []
    make_directory(out, "--out")
    for name, frame in tables.items():
        frames.write_frame(frame, out / f"{name}.{args.format}", args.format)
    for picture in pictures:
        for kind in args.figures:
            replace(out / f"{picture.name}.{kind}", picture.files[kind])
    write_json(out / "verdicts.json", found)
    print(f"export: {printable(str(out))}")
    return 0


def _figures(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",")))
    if unknown := [kind for kind in kinds if kind not in _FIGURES]:
        raise ArgumentTypeError(f"{unknown[0]!r} given; must be of {', '.join(_FIGURES)}")
    return kinds


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="charjax initlab export",
        usage="%(prog)s DIR [--out DIR] [--format csv|parquet] [--figures svg,pdf,png]",
        description="Write a finished sweep for other programs: its tables, its verdicts as JSON,\n"
        "and its figures.",
    )
    parser.add_argument("directory", metavar="DIR", help="directory that `sweep` wrote")
    parser.add_argument("--out", metavar="DIR", help="of the files (DIR/export)")
    parser.add_argument(
        "--format",
        choices=("csv", "parquet"),
        default="csv",
        help="of the tables; parquet needs pyarrow: charjax[parquet] (csv)",
    )
    parser.add_argument(
        "--figures",
        metavar="KINDS",
        type=_figures,
        default=(),
        help="also write the figures of the page: svg, pdf, png, several as a,b",
    )
    cli.add_code(parser)
    return parser
