"""Results of checks, such as the claims on initialisation: a page in Markdown, a table."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from charjax.reproduction.checks import FAILURES, CheckData
from charjax.reproduction.output import Result
from charjax.reproduction.report import machine, markdown_table, print_table

CHECK_COLUMNS = ("quantity", "expected", "theory", "measured", "n", "verdict")


def document(results: Sequence[Result], command: str) -> str:
    """Return a whole page: the columns' meaning, and the tables."""
    # A code span has no escape for its own quotation mark.
    made_by = command.replace("`", "'")
    return (
        "# Initialisation, reproduced\n\n"
        f"Made by `{made_by}`; every number is in results.json. A measured mean is followed by "
        'its standard error, and n is the number of values in it. A number is "reproduced" if it '
        'lies within the tolerance of what is published; "theory" is what `charjax.theory` '
        "predicts for infinite width.\n\n"
    ) + markdown(results)


def markdown(results: Sequence[Result]) -> str:
    """Return a table for each result, with its source, time and machine under it."""
    parts = []
    for result in sorted(results, key=lambda result: result["number"]):
        lines = [[escape(cell) for cell in cells(check)] for check in result["checks"]]
        measured = dict.fromkeys(check["of"] for check in result["checks"] if check["of"])
        means = f" Measured: {'; '.join(measured)}." if measured else ""
        source = (
            f"Source: {result['source']}.{means} `{result['command']}`, {result['tier']} tier, "
            f"{result['seconds']:.0f} s on {machine(result)}."
        )
        heading = f"## {result['number']}. {escape(result['title'])}"
        parts.append("\n".join([heading, "", *markdown_table(CHECK_COLUMNS, lines), "", source]))
    return "\n\n".join(parts) + "\n"


def cells(check: CheckData) -> list[str]:
    """Return the line of a check: quantity, expected, theory, measured, n, verdict."""
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


def _expected(check: CheckData) -> str:
    if check["expected"] is None:
        return "shown" if check["relation"] == "shown" else ""
    bound = {"at most": "≤ ", "at least": "≥ "}.get(check["relation"], "")
    number = f"{bound}{check['expected']:g}"
    if not check["tolerance"]:
        return number
    if check["relative"]:
        return f"{number} ± {100 * check['tolerance'] / abs(check['expected']):.3g} %"
    return f"{number} ± {check['tolerance']:g}"


def escape(cell: str) -> str:
    """Escape Markdown and HTML."""
    for sign in "\\|<>*_`":
        cell = cell.replace(sign, f"\\{sign}")
    return cell


def show(console: Console, results: Sequence[Result]) -> None:
    """Print the table on a terminal, verdict by verdict."""
    lines: list[list[str]] = []
    for result in sorted(results, key=lambda result: result["number"]):
        lines.append([str(result["number"]), result["title"]])
        lines += [["", *cells(check)] for check in result["checks"]]
    print_table(console, ("#", *CHECK_COLUMNS), ("#", "measured", "n"), lines)


def verdicts_in_words(result: Result) -> str:
    """Return `3 reproduced, 1 stated (12 s)`."""
    counts = Counter(check["verdict"] for check in result["checks"])
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"{words} ({result['seconds']:.0f} s)"


def failures(results: Sequence[Result]) -> list[str]:
    """Return the names of the results with a check that failed, with the number of them."""
    failed = []
    for result in results:
        count = sum(check["verdict"] in FAILURES for check in result["checks"])
        if count:
            failed.append(f"{result['name']} ({count} of {len(result['checks'])})")
    return failed
