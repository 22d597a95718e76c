"""`python -m charjax.initlab merge OUT PART PART ...`: the parts of a sweep put together."""

import shutil
from pathlib import Path
from typing import Any

from charjax import cli
from charjax.errors import UserError, printable

_LOCAL = ("part", "plan", "at_once", "runs")


def main(argv: list[str]) -> int:
    """Put the parts together, write the page, and print the verdicts."""
    args = _parser().parse_args(argv)
    from charjax.initlab.commands.sweeping import report_results

    out = Path(args.out)
    merge_parts(out, [Path(part) for part in args.parts])
    print(f"sweep: {printable(str(out))}")
    report_results(out)
    return 0


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="charjax initlab merge",
        usage="%(prog)s OUT PART [PART ...]",
        description="Put the parts of a sweep together, in any order, as `sweep --part K/N --out\n"
        "PART` wrote them. OUT then holds what the whole sweep would have written in one go.",
    )
    parser.add_argument("out", metavar="OUT", help="a new directory")
    parser.add_argument("parts", metavar="PART", nargs="+", help="the directory of a part")
    cli.add_code(parser)
    return parser


def merge_parts(out: Path, directories: list[Path]) -> None:
    """Write the sweep whose parts are given; whole or not at all.

    Raises:
      UserError: a part is missing, double, not finished or of another sweep; or `out` is not empty.
    """
    from charjax.files import make_directory, replacing, write_json
    from charjax.initlab.sweeps import results
    from charjax.initlab.sweeps.merging import Source, merge_tables
    from charjax.initlab.sweeps.plan import Plan

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"OUT: {str(out)!r} is there and not empty; give a new directory")
    remedy = "give the directories that finished `sweep --part K/N --out DIR` wrote"
    found = [(part, results.read_results(part / results.PART, remedy)) for part in directories]
    _check_parts(found)
    found.sort(key=lambda item: _number(item[1])[0])
    sources = [Source(part, facts["runs"]) for part, facts in found]
    order = [(place, run) for place, source in enumerate(sources) for run in range(source.runs)]
    make_directory(out.absolute().parent, "OUT")
    first = found[0][1]
    plan = first["plan"] | {"part": None}
    facts = results.combined(first, [facts for _, facts in found])
    with replacing(out) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for part, _ in found:
            if (part / "code").is_dir():
                shutil.copytree(part / "code", temporary / "code", dirs_exist_ok=True)
        merge_tables(temporary, sources, order)
        Plan(temporary, plan, {}).write()
        write_json(
            temporary / results.WHOLE,
            {name: value for name, value in facts.items() if name not in _LOCAL},
        )


def _number(facts: dict[str, Any]) -> tuple[int, int]:
    number, count = facts["part"].split("/")
    return int(number), int(count)


def _check_parts(found: list[tuple[Path, dict[str, Any]]]) -> None:
    """Raise a UserError unless these are all parts of one sweep, each once."""
    from charjax.initlab.sweeps.plan import difference

    first, facts = found[0]
    for part, others in found[1:]:
        for name in ("format", "config", "axes", "measure", "kernels", "text", "versions"):
            ours, theirs = (_comparable(each["plan"], name) for each in (facts, others))
            if ours != theirs:
                field, one, other = difference(name, ours, theirs)
                raise UserError(
                    f"PART: {field.removeprefix('config.')} is {one} in {str(first)!r} and {other} "
                    f"in {str(part)!r}; merge parts of one sweep"
                )
        sizes = dict(facts["at_once"])
        for group, size in others["at_once"]:
            if sizes.get(group, size) != size:
                raise UserError(
                    f"PART: {sizes[group]} runs were trained at once on a device in "
                    f"{str(first)!r} and {size} in {str(part)!r}, so their last digits are not "
                    "those of one sweep; give all parts the same --at-once"
                )
    _check_numbers(found)


def _comparable(plan: dict[str, Any], name: str) -> Any:
    if name != "config":
        return plan.get(name)
    # Where the text is may differ from machine to machine: its SHA-256 is compared.
    data = {key: value for key, value in plan["config"]["data"].items() if key != "path"}
    return plan["config"] | {"data": data}


def _check_numbers(found: list[tuple[Path, dict[str, Any]]]) -> None:
    count = _number(found[0][1])[1]
    places: dict[int, Path] = {}
    for part, facts in found:
        number, others = _number(facts)
        if others != count:
            raise UserError(
                f"PART: {str(found[0][0])!r} is part {found[0][1]['part']} and {str(part)!r} is "
                f"part {facts['part']}; merge parts of one division"
            )
        if number in places:
            raise UserError(
                f"PART: {str(places[number])!r} and {str(part)!r} are both part {number}/{count}; "
                "give each part once"
            )
        places[number] = part
    missing = [number for number in range(1, count + 1) if number not in places]
    if missing:
        shown = ", ".join(f"{number}/{count}" for number in missing[:8])
        raise UserError(f"PART: {shown} missing; give all {count} parts")
