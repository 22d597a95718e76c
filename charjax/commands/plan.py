"""`charjax plan`: memory, time and cost of a run on a device, before it."""

from charjax import cli
from charjax.errors import UserError


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = cli.Parser(
        prog="charjax plan", usage="%(prog)s [CONFIG.toml] [section.key=value ...]", description=""
    )
    parser.parse_args(argv)
    raise UserError("plan: not written yet")
