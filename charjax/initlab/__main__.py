"""`python -m charjax.initlab`: what an initialisation scheme does, measured and set against theory.

python -m charjax.initlab probe | sweep | reproduce | report ...
"""

import importlib

from charjax import cli

COMMANDS = ("probe", "sweep", "reproduce", "report")


def main(argv: list[str]) -> int:
    """Run one of the commands; returns its exit status."""
    parser = cli.Parser(
        prog="python -m charjax.initlab",
        usage="%(prog)s probe|sweep|reproduce|report ...",
        description="What an initialisation scheme does to a network.\n\n"
        "probe      one network at its first step: seconds\n"
        "sweep      schemes, gains, depths, widths and learning rates, trained over many seeds\n"
        "reproduce  the published numbers, with verdicts\n"
        "report     a sweep's tables as one page\n\n"
        "`probe --help` and so on tell the rest.",
    )
    parser.add_argument("command", choices=COMMANDS, help="what to do")
    name = parser.parse_args(argv[:1]).command
    command = importlib.import_module(f"charjax.initlab.commands.{name}")
    status: int = command.main(argv[1:])
    return status


if __name__ == "__main__":
    cli.run(main)
