"""`charjax log`: write a run into TensorBoard or Weights & Biases, from its own files.

charjax log RUN --to tensorboard|wandb [--out DIR]
"""

from pathlib import Path

from charjax import cli
from charjax.errors import printable


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    from charjax.tracking.trackers import TRACKERS

    parser = cli.Parser(
        prog="charjax log",
        usage="%(prog)s RUN --to tensorboard|wandb [--out DIR]",
        description="Write the metrics and samples of a run into TensorBoard or Weights & Biases. "
        "A second time they replace the first.",
    )
    parser.add_argument("workdir", metavar="RUN", help="the run's directory")
    parser.add_argument("--to", required=True, choices=tuple(TRACKERS), help="where to")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="a folder for several runs (by default the files go into the run's directory)",
    )
    args = parser.parse_args(argv)
    from charjax.run.replay import replay

    done = replay(Path(args.workdir), args.to, args.out)
    print(f"written: {done.lines:,} lines of metrics, samples of {done.samples:,} steps")
    print(printable(done.message))
    return 0
