"""`python -m charjax.initlab report DIR`: verdicts, pictures and one page of a sweep's tables."""

from pathlib import Path

from charjax import cli
from charjax.errors import printable
from charjax.extensions import is_named, is_reference


def main(argv: list[str]) -> int:
    """Write the page of a finished sweep, and print its verdicts."""
    args = _parser().parse_args(argv)
    # matplotlib is slow to load; a mistyped flag is reported before.
    from charjax.initlab.report import read_sweep, verdict_lines, write_page

    sweep = read_sweep(Path(args.directory))
    activation = sweep.facts.get("activation")
    if is_reference(activation) and not is_named(activation):
        cli.remark(
            f"{activation} is code of your own: the page has its theory if --code names the file"
        )
    page = write_page(sweep, None if args.out is None else Path(args.out))
    for line in verdict_lines(sweep):
        print(printable(line))
    print(f"report: {printable(str(page))}")
    return 0


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="charjax initlab report",
        usage="%(prog)s DIR [--out FILE.html]",
        description="Write one self-contained page of a finished sweep: comparisons of schemes,\n"
        "measurements beside theory, histograms by layer, learning-rate transfer. Pictures go to\n"
        "DIR/figures.",
    )
    parser.add_argument("directory", metavar="DIR", help="directory that `sweep` wrote")
    parser.add_argument("--out", metavar="FILE.html", help="the page (DIR/report.html)")
    cli.add_code(parser)
    return parser
