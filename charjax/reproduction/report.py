"""Results as they are written: results.json, a table in Markdown, a table on the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from charjax.files import write_json
from charjax.hardware import in_words, versions_in_words
from charjax.reproduction import output
from charjax.reproduction.measure import FAILURES, Result
from charjax.reproduction.rows import Row

# How each loss is named in a table.
QUANTITIES = {
    "initial": "val at step 0",
    "final": "val",
    "random": "val, 200 random batches, lowest",
    "val": "val, best",
    "test": "test",
    "train": "train",
}
_FORMAT = 1
_COLUMNS = ("row", "parameters", "loss", "published", "measured", "seeds", "verdict")


def write_results(
    path: Path, results: Sequence[Result], orders: Sequence[dict[str, Any]], command: str
) -> None:
    """Replace results.json by these rows, in one move."""
    tree = {
        "format": _FORMAT,
        "command": command,
        "rows": list(results),
        "orders": list(orders),
    }
    write_json(path, tree)


def read_results(path: Path) -> dict[str, Result]:
    """The rows of a results.json, by name.

    Raises:
      UserError: the file is not one.
    """
    return output.read_results(path, _FORMAT, "rows")


def markdown(
    rows: Iterable[Row], results: Mapping[str, Result], orders: Sequence[dict[str, Any]]
) -> str:
    """The tables, one a text, and under each the machines its numbers came from."""
    parts = []
    chosen = list(rows)
    for text in dict.fromkeys(row.text for row in chosen):
        lines = [
            f"## {text}",
            "",
            "| row | parameters | loss | published | measured | seeds | verdict |",
        ]
        lines.append("|---|---|---|---|---|---|---|")
        own = [row for row in chosen if row.text == text]
        for row in own:
            lines += [f"| {' | '.join(line)} |" for line in cells(row, results.get(row.name))]
        machines = [results[row.name]["hardware"] for row in own if row.name in results]
        told = {
            f"Measured on {in_words(facts)} ({versions_in_words(facts)})." for facts in machines
        }
        for sentence in sorted(told):
            lines += ["", sentence]
        parts.append("\n".join(lines))
    if orders:
        parts.append(_orders(orders))
    return "\n\n".join(parts) + "\n"


def cells(row: Row, result: Result | None) -> list[list[str]]:
    """A line for every figure, and one for the losses shown beside them."""
    first = f"{row.title} (`{row.name}`)"
    if result is None:
        figure = row.figures[0]
        published = _published(figure.value, figure.source, figure.mark)
        return [[first, "", QUANTITIES[figure.quantity], published, "not run", "", "not run"]]
    lines = []
    params = "" if result["params"] is None else f"{result['params']:,}"
    # Where a figure was published is no measurement: the row says it as it is known now.
    sources = {(figure.quantity, figure.value): figure.source for figure in row.figures}
    for figure in result["figures"]:
        source = sources.get((figure["quantity"], figure["value"]), figure["source"])
        published = _published(figure["value"], source, figure["mark"])
        n = str(figure["measured"]["n"])
        quantity = QUANTITIES[figure["quantity"]]
        mean = mean_in_words(figure["measured"])
        lines.append([first, params, quantity, published, mean, n, figure["verdict"]])
        first = params = ""
    for name, told in result["shown"].items():
        lines.append(["", "", QUANTITIES[name], "", mean_in_words(told), str(told["n"]), ""])
    return lines


def _published(value: float | None, source: str, mark: str) -> str:
    if value is None:
        return source
    bound = "≤ " if mark == "target" else ""
    known = " [recalled]" if mark == "recalled" else ""
    return f"{bound}{value:.4f} ({source}){known}"


def mean_in_words(told: Mapping[str, Any]) -> str:
    """`2.1053 ± 0.0041`, the standard deviation of the seeds where there are several."""
    spread = "" if told["std"] is None else f" ± {told['std']:.4f}"
    return f"{told['mean']:.4f}{spread}"


def _orders(orders: Sequence[dict[str, Any]]) -> str:
    lines = [
        "## Orders",
        "",
        "| claim | difference, seed by seed | 95 % interval | seeds | verdict |",
        "|---|---|---|---|---|",
    ]
    for order in orders:
        told = order["difference"]
        interval = "" if told["ci95"] is None else "{:.4f} to {:.4f}".format(*told["ci95"])
        line = (order["source"], mean_in_words(told), interval, str(told["n"]), order["verdict"])
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def document(
    rows: Iterable[Row], results: Mapping[str, Result], orders: Sequence[dict[str, Any]], how: str
) -> str:
    """A whole page: what the columns mean, the tables, the reasons of the tolerances."""
    chosen = list(rows)
    head = (
        "# Results\n\n"
        f"Made by `{how}`; every number was measured by `python -m charjax.reproduce` and stands "
        "in its results.json with every seed, curve and version.\n\n"
        "Losses are nats a character: the mean of the seeds ± their standard deviation. "
        '"val" and "test" are exact: every target of the split counted once (a transformer reads '
        "non-overlapping windows of its context length, the short last one included). A row is "
        '"reproduced" if the mean lies within the tolerance of its figure, "better" if it lies '
        'below one that may be beaten, and "not run" where this hardware cannot finish it.\n\n'
    )
    return head + markdown(chosen, results, orders) + "\n" + _tolerances(chosen)


def _tolerances(rows: Sequence[Row]) -> str:
    lines = [
        "## Tolerances",
        "",
        "| row | loss | above | below | because |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        for figure in row.figures:
            if figure.value is not None:
                below = "any" if figure.below is None else f"{figure.below:g}"
                lines.append(
                    f"| `{row.name}` | {QUANTITIES[figure.quantity]} | {figure.above:g} | {below} "
                    f"| {figure.reason} |"
                )
    return "\n".join(lines) + "\n"


def show(
    console: Console,
    rows: Iterable[Row],
    results: Mapping[str, Result],
    orders: Sequence[dict[str, Any]],
) -> None:
    """Print the table on a terminal."""
    table = Table(box=None, pad_edge=False)
    for title in _COLUMNS:
        right = title in ("parameters", "measured", "seeds")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for row in rows:
        for line in cells(row, results.get(row.name)):
            line[0] = row.name if line[0] else ""
            colour = "red" if line[-1] in FAILURES else ""
            table.add_row(*map(escape, line), style=colour)
    console.print(table)
    for order in orders:
        told, verdict = order["difference"], order["verdict"]
        interval = "" if told["ci95"] is None else ", 95 % {:.4f} to {:.4f}".format(*told["ci95"])
        console.print(
            escape(f"{order['source']}: {verdict}, difference {told['mean']:.4f}{interval}"),
            highlight=False,
            soft_wrap=True,
        )
