"""`python -m charjax.initlab`: initialisation schemes, measured and compared with theory.

python -m charjax.initlab probe | sweep | merge | reproduce | study | report | export ...
"""

import importlib

from charjax import cli

COMMANDS = ("probe", "sweep", "merge", "reproduce", "study", "report", "export")


def main(argv: list[str]) -> int:
    """Run one of the commands; returns its exit status."""
    parser = cli.Parser(
        prog="charjax initlab",
        usage="%(prog)s probe|sweep|merge|reproduce|study|report|export ...",
        description="Measure the effect of initialisation schemes on networks.\n\n"
        "probe      one network at its first step: seconds\n"
        "sweep      schemes, gains, depths, widths and learning rates, trained over many seeds\n"
        "merge      the parts of a sweep (sweep --part K/N) put together\n"
        "reproduce  published numbers, with verdicts\n"
        "study      questions answered by experiments, with pages\n"
        "report     a sweep's tables as one page\n"
        "export     its tables, verdicts and figures for other programs\n\n"
        "See `probe --help` and so on for their arguments.",
    )
    parser.add_argument("command", metavar="|".join(COMMANDS), choices=COMMANDS, help="what to do")
    name = parser.parse_args(argv[:1]).command
    command = importlib.import_module(f"charjax.initlab.commands.{name}")
    status: int = command.main(argv[1:])
    return status


if __name__ == "__main__":
    cli.run(main)
