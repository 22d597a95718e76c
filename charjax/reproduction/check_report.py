"""Results as they are written: results.json, a page in Markdown, a table on the terminal."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from charjax.files import write_json
from charjax.hardware import in_words, machine_facts, versions_in_words
from charjax.reproduction import output
from charjax.reproduction.checks import FAILURES, Check, Reproduction, Tier

Result = dict[str, Any]

PROGRAM = "charjax.initlab reproduce"
_FORMAT = 1
_COLUMNS = ("#", "quantity", "expected", "theory", "measured", "n", "verdict")


def result_of(
    reproduction: Reproduction, tier: Tier, checks: Sequence[Check], seconds: float
) -> Result:
    """What results.json holds of a reproduction."""
    return {
        "name": reproduction.name,
        "number": reproduction.number,
        "title": reproduction.title,
        "source": reproduction.source,
        "tier": tier,
        "command": f"python -m {PROGRAM} {reproduction.name} --tier {tier}",
        "seconds": round(seconds, 1),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": machine_facts(),
        "checks": [check.as_data() for check in checks],
    }


def is_current(result: Result, tier: Tier) -> bool:
    """Whether a result is of this tier, this machine and these versions."""
    here = machine_facts() | {"date": result["hardware"]["date"]}
    return bool(result["tier"] == tier and result["hardware"] == here)


def failures(results: Sequence[Result]) -> list[str]:
    """The names of the reproductions with a number that failed, and how many of how many."""
    told = []
    for result in results:
        failed = sum(check["verdict"] in FAILURES for check in result["checks"])
        if failed:
            told.append(f"{result['name']} ({failed} of {len(result['checks'])})")
    return told


def write_results(path: Path, results: Sequence[Result], command: str) -> None:
    """Replace results.json by these, in one move."""
    ordered = sorted(results, key=lambda result: result["number"])
    tree = {
        "format": _FORMAT,
        "command": command,
        "hardware": machine_facts(),
        "reproductions": ordered,
    }
    write_json(path, tree)


def read_results(path: Path) -> dict[str, Result]:
    """The reproductions of a results.json, by name.

    Raises:
      UserError: the file is not one.
    """
    return output.read_results(path, _FORMAT, "reproductions")


def cells(check: dict[str, Any]) -> list[str]:
    """A check's line: quantity, expected, theory, measured, n, verdict."""
    unit = f" {check['unit']}" if check["unit"] else ""
    measured = "not run" if check["measured"] is None else f"{check['measured']:.5g}{unit}"
    if check["verdict"] == "not finite":
        measured = "not finite"
    if check["standard_error"] is not None:
        measured += f" ± {check['standard_error']:.2g}"
    theory = "" if check["theory"] is None else f"{check['theory']:.5g}"
    n = "" if check["n"] < 2 else f"{check['n']:,}"
    verdict = check["verdict"] + (f": {check['note']}" if check["note"] else "")
    return [check["what"], _expected(check), theory, measured, n, verdict]


def _expected(check: dict[str, Any]) -> str:
    if check["expected"] is None:
        return "shown" if check["relation"] == "shown" else ""
    bound = {"at most": "≤ ", "at least": "≥ "}.get(check["relation"], "")
    number = f"{bound}{check['expected']:g}"
    if not check["tolerance"]:
        return number
    if check["relative"]:
        return f"{number} ± {100 * check['tolerance'] / abs(check['expected']):.3g} %"
    return f"{number} ± {check['tolerance']:g}"


def markdown(results: Sequence[Result]) -> str:
    """A table for each reproduction, with its source, time and machine under it."""
    parts = []
    for result in sorted(results, key=lambda result: result["number"]):
        lines = [
            f"## {result['number']}. {_text(result['title'])}",
            "",
            "| quantity | expected | theory | measured | n | verdict |",
            "|---|---|---|---|---|---|",
        ]
        lines += [f"| {' | '.join(map(_text, cells(check)))} |" for check in result["checks"]]
        what = {check["of"]: None for check in result["checks"] if check["of"]}
        means = f" Measured: {'; '.join(what)}." if what else ""
        facts = result["hardware"]
        lines += [
            "",
            f"Source: {result['source']}.{means} `{result['command']}`, {result['tier']} tier, "
            f"{result['seconds']:.0f} s on {in_words(facts)} ({versions_in_words(facts)}).",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def document(results: Sequence[Result], command: str) -> str:
    """A whole page: what the columns mean, and the tables."""
    # In a code span there is no escape for its own quotation mark.
    made_by = command.replace("`", "'")
    return (
        "# Initialisation, reproduced\n\n"
        f"Made by `{made_by}`; every number stands in results.json. Behind a measured mean stands "
        'its standard error, and n is what it is the mean of. A number is "reproduced" if it lies '
        'within the tolerance of what is published; "theory" is what `charjax.theory` '
        "gives, for infinite width.\n\n"
    ) + markdown(results)


def show(console: Console, results: Sequence[Result]) -> None:
    """Print the table on a terminal, verdict by verdict."""
    table = Table(box=None, pad_edge=False)
    for title in _COLUMNS:
        right = title in ("#", "measured", "n")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for result in sorted(results, key=lambda result: result["number"]):
        table.add_row(str(result["number"]), f"[bold]{escape(result['title'])}[/bold]")
        for check in result["checks"]:
            colour = "red" if check["verdict"] in FAILURES else ""
            table.add_row("", *map(escape, cells(check)), style=colour)
    console.print(table)


def _text(cell: str) -> str:
    """A cell as it stands, not as Markdown or HTML."""
    for sign in "\\|<>*_`":
        cell = cell.replace(sign, f"\\{sign}")
    return cell
