"""`charjax benchmark`: speed and memory of your model on your devices."""

from charjax import cli
from charjax.errors import UserError


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = cli.Parser(
        prog="charjax benchmark",
        usage="%(prog)s [CONFIG.toml] [section.key=value ...]",
        description="",
    )
    parser.parse_args(argv)
    raise UserError("benchmark: not written yet")
