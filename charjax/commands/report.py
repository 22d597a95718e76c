"""`charjax report`: one page about one or several runs.

charjax report RUN [RUN ...] [--out FILE.html] [--quick]
"""

from pathlib import Path

from charjax import cli
from charjax.errors import printable


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = cli.Parser(
        prog="charjax report",
        usage="%(prog)s RUN [RUN ...] [options]",
        description="Write one self-contained HTML page about runs, finished or not: curves, "
        "settings that differ,\nsamples, and a held-out passage with the loss of each character.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="directories of runs")
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        type=Path,
        help="the page (RUN/report.html; of several runs, report.html)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out the counts and the passage, which need the text and the model",
    )
    args = parser.parse_args(argv)
    from charjax.pages import write_report

    page = write_report(
        [Path(run) for run in args.runs], args.out, quick=args.quick, note=cli.remark
    )
    print(f"report: {printable(str(page))}")
    return 0
