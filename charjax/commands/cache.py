"""`charjax cache`: show the encoded texts of the user's cache, limit their size, or remove them.

charjax cache [--check] [--clear] [--limit SIZE] [--json]
"""

import argparse
import datetime
import json
import re
import sys
from typing import Any

from charjax import cli
from charjax.errors import printable
from charjax.units import shown_bytes


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = cli.Parser(
        prog="charjax cache",
        usage="%(prog)s [options]",
        description="Show the texts that were encoded into the user's cache ($CHARJAX_CACHE). "
        "What is removed is made again when it is needed.",
    )
    parser.add_argument(
        "--check", action="store_true", help="read all of them, and remove what is damaged"
    )
    parser.add_argument(
        "--clear", action="store_true", help="remove those that no process is writing"
    )
    parser.add_argument(
        "--limit",
        metavar="SIZE",
        type=_size,
        help="the most that they may take, such as 5GB; what was not used for longest is removed",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    from charjax.data import cache_limits
    from charjax.data.token_cache import cache_folder

    folder, freed = cache_folder(), 0
    damaged = [held.text for held in cache_limits.check()] if args.check else []
    if args.limit is not None:
        freed += cache_limits.set_limit(args.limit)
    if args.clear:
        freed += cache_limits.clear()
    texts = [
        {"text": held.text, "bytes": held.size, "used": _time(held.used), "whole": held.is_whole}
        for held in cache_limits.list_entries()
    ]
    tree = {
        "directory": str(folder),
        "texts": texts,
        "bytes": sum(text["bytes"] for text in texts),  # type: ignore[misc]
        "limit": cache_limits.limit(),
        "freed": freed,
        "damaged": damaged,
    }
    if args.json:
        sys.stdout.write(json.dumps(tree, allow_nan=False) + "\n")
    else:
        _print(tree, removed=args.clear or args.limit is not None, checked=args.check)
    return 0


def _print(tree: dict[str, Any], *, removed: bool, checked: bool) -> None:
    for text in tree["texts"]:
        name = printable(text["text"]) if text["whole"] else "(not finished)"
        print(f"{shown_bytes(text['bytes']):>14}  last used {text['used']}  {name}")
    for name in tree["damaged"]:
        print(f"removed, as it was damaged: {printable(name)}")
    if checked and not tree["damaged"]:
        print("nothing is damaged")
    if removed:
        print(f"freed {shown_bytes(tree['freed'])}")
    held, allowed = shown_bytes(tree["bytes"]), shown_bytes(tree["limit"])
    print(f"{held} of at most {allowed} in {printable(tree['directory'])}")


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?B)?", text.strip().upper(), re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} given; must be a number of bytes, or of KB, MB, GB or TB, such as 5GB"
        )
    return round(float(found[1]) * _UNITS[found[2] or ""])
