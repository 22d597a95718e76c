"""`charjax`, or `python -m charjax`: all commands under one name.

charjax train | sample | evaluate | plan | benchmark | initlab | reproduce | interop ...
"""

import importlib
from typing import NoReturn

from charjax import __version__, cli, signals

# Module and purpose of each command.
COMMANDS = {
    "train": ("charjax.train", "train a model on a text, or resume a run"),
    "sample": ("charjax.sample", "generate text with a run"),
    "evaluate": ("charjax.evaluate", "the exact loss of a run on a split or a file"),
    "runs": ("charjax.commands.runs", "the runs of a directory: state, step, loss, size"),
    "compare": ("charjax.commands.compare", "scores and differing settings of several runs"),
    "report": ("charjax.commands.report", "one page about runs: curves, settings, samples"),
    "cache": ("charjax.commands.cache", "encoded texts: their size and limit, and clearing them"),
    "log": ("charjax.commands.log", "a run's metrics and samples into TensorBoard or W&B"),
    "plan": ("charjax.commands.plan", "memory, time and cost of a run on a device, before it"),
    "benchmark": ("charjax.commands.benchmark", "speed and memory of your model on your devices"),
    "initlab": ("charjax.initlab.__main__", "initialisation schemes, measured and compared"),
    "reproduce": ("charjax.reproduce", "measure published figures, with verdicts"),
    "completion": ("charjax.commands.completion", "completion of commands by bash and zsh"),
    "interop": ("charjax.interop", "PyTorch's and other programs' checkpoints, in and out"),
}


def main(argv: list[str]) -> int:
    """Run one of the commands; return its exit status."""
    width = max(map(len, COMMANDS))
    purposes = "\n".join(f"{name:{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items())
    parser = cli.Parser(
        prog="charjax",
        usage="%(prog)s COMMAND ...",
        description=f"A character-level language-model laboratory in JAX.\n\n{purposes}\n\n"
        "See `charjax COMMAND --help` for its arguments.",
    )
    parser.add_argument("--version", action="version", version=f"charjax {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="what to do")
    name = parser.parse_args(argv[:1]).command
    command = importlib.import_module(COMMANDS[name][0])
    status: int = command.main(argv[1:]) or 0
    return status


def start() -> NoReturn:
    """Run as the console script does."""
    signals.before_imports()
    cli.run(main)


if __name__ == "__main__":
    cli.run(main)
