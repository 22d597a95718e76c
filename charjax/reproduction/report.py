"""Results of the published figures: the page in Markdown, the terminal's table, the curves.

`markdown_table` and `print_table` also serve the claims on initialisation (check_report.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from charjax.files import replacing
from charjax.hardware import in_words, versions_in_words
from charjax.reproduction.checks import FAILURES
from charjax.reproduction.output import Result
from charjax.reproduction.rows import Row

# Names of the losses in a table.
QUANTITIES = {
    "initial": "val at step 0",
    "final": "val",
    "random": "val, 200 random batches, lowest",
    "val": "val, best",
    "test": "test",
    "train": "train",
}
_COLUMNS = ("row", "parameters", "loss", "published", "measured", "seeds", "verdict")


def document(
    rows: Iterable[Row], results: Mapping[str, Result], orderings: Sequence[Result], how: str
) -> str:
    """Return a whole page: the columns' meaning, the tables, the reasons of the tolerances."""
    chosen = list(rows)
    head = (
        "# Results\n\n"
        f"Made by `{how}`; every number was measured by `python -m charjax.reproduce` and is "
        "in its results.json with every seed, curve and version.\n\n"
        "Losses are nats per character: the mean of the seeds ± their standard deviation. "
        '"val" and "test" are exact: every target of the split counted once (a transformer reads '
        "non-overlapping windows of its context length, the short last one included). A row is "
        '"reproduced" if the mean lies within the tolerance of its figure, "better" if it lies '
        'below one that may be beaten, and "not run" where this hardware has not finished it.\n\n'
    )
    parts = [_text_table(text, chosen, results) for text in dict.fromkeys(r.text for r in chosen)]
    parts += [_ordering_table(orderings)] if orderings else []
    return head + "\n\n".join([*parts, _tolerances(chosen)]) + "\n"


def _text_table(text: str, rows: Sequence[Row], results: Mapping[str, Result]) -> str:
    """Return the table of a text's rows, and under it the machines that measured them."""
    rows = [row for row in rows if row.text == text]
    lines = [line for row in rows for line in cells(row, results.get(row.name))]
    machines = {machine(results[row.name]) for row in rows if row.name in results}
    notes = [f"\nMeasured on {each}." for each in sorted(machines)]
    return "\n".join([f"## {text}", "", *markdown_table(_COLUMNS, lines), *notes])


def machine(result: Result) -> str:
    """Return the machine and the versions that a result was measured with."""
    return f"{in_words(result['hardware'])} ({versions_in_words(result['hardware'])})"


def cells(row: Row, result: Result | None) -> list[list[str]]:
    """Return a line for every figure, and one for each loss shown beside them."""
    first = f"{row.title} (`{row.name}`)"
    if result is None:
        figure = row.figures[0]
        published = _published(figure.value, figure.source, figure.mark)
        return [[first, "", QUANTITIES[figure.quantity], published, "not run", "", "not run"]]
    lines = []
    params = "" if result["params"] is None else f"{result['params']:,}"
    # A source is no measurement: the row's is newer than the one in the result.
    sources = {(figure.quantity, figure.value): figure.source for figure in row.figures}
    for figure in result["figures"]:
        source = sources.get((figure["quantity"], figure["value"]), figure["source"])
        published = _published(figure["value"], source, figure["mark"])
        n = str(figure["measured"]["n"])
        quantity = QUANTITIES[figure["quantity"]]
        mean = mean_in_words(figure["measured"])
        lines.append([first, params, quantity, published, mean, n, figure["verdict"]])
        first = params = ""
    for name, measured in result["shown"].items():
        mean = mean_in_words(measured)
        lines.append(["", "", QUANTITIES[name], "", mean, str(measured["n"]), ""])
    return lines


def _published(value: float | None, source: str, mark: str) -> str:
    if value is None:
        return source
    bound = "≤ " if mark == "target" else ""
    recalled = " [recalled]" if mark == "recalled" else ""
    return f"{bound}{value:.4f} ({source}){recalled}"


def mean_in_words(summary: Mapping[str, Any]) -> str:
    """Return `2.1053 ± 0.0041`: the standard deviation of the seeds where there are several."""
    spread = "" if summary["std"] is None else f" ± {summary['std']:.4f}"
    return f"{summary['mean']:.4f}{spread}"


def _ordering_table(orderings: Sequence[Result]) -> str:
    columns = ("claim", "difference, seed by seed", "95 % interval", "seeds", "verdict")
    lines = []
    for ordering in orderings:
        difference = ordering["difference"]
        mean, n = mean_in_words(difference), str(difference["n"])
        lines.append([ordering["source"], mean, _interval(difference), n, ordering["verdict"]])
    return "\n".join(["## Orderings", "", *markdown_table(columns, lines)])


def _interval(difference: Mapping[str, Any]) -> str:
    ends = difference["ci95"]
    return "" if ends is None else "{:.4f} to {:.4f}".format(*ends)


def _tolerances(rows: Sequence[Row]) -> str:
    lines = [
        [
            f"`{row.name}`",
            QUANTITIES[figure.quantity],
            f"{figure.above:g}",
            "any" if figure.below is None else f"{figure.below:g}",
            figure.reason,
        ]
        for row in rows
        for figure in row.figures
        if figure.value is not None
    ]
    columns = ("row", "loss", "above", "below", "because")
    return "\n".join(["## Tolerances", "", *markdown_table(columns, lines)])


def show(
    console: Console,
    rows: Iterable[Row],
    results: Mapping[str, Result],
    orderings: Sequence[Result],
) -> None:
    """Print the table on a terminal, and a line for each ordering."""
    lines = [
        [row.name if line[0] else "", *line[1:]]
        for row in rows
        for line in cells(row, results.get(row.name))
    ]
    print_table(console, _COLUMNS, ("parameters", "measured", "seeds"), lines)
    for ordering in orderings:
        difference = ordering["difference"]
        interval = f", 95 % {_interval(difference)}" if difference["ci95"] else ""
        line = f"{ordering['source']}: {ordering['verdict']}, difference "
        console.print(
            escape(f"{line}{difference['mean']:.4f}{interval}"), highlight=False, soft_wrap=True
        )


def markdown_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; the cells are Markdown already."""
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return head + [f"| {' | '.join(line)} |" for line in lines]


def print_table(
    console: Console,
    columns: Sequence[str],
    right: Sequence[str],
    lines: Iterable[Sequence[str]],
) -> None:
    """Print lines of plain cells; those whose verdict, the last cell, is a failure are red.

    A line of two cells is a heading; the columns named in `right` are aligned to the right.
    """
    table = Table(box=None, pad_edge=False)
    for title in columns:
        justify = "right" if title in right else "left"
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for line in lines:
        if len(line) == 2:
            table.add_row(line[0], f"[bold]{escape(line[1])}[/bold]")
        else:
            failed = line[-1].startswith(FAILURES)
            table.add_row(*map(escape, line), style="red" if failed else "")
    console.print(table)


def draw_row(result: Result, path: Path) -> None:
    """Draw the validation losses of a row's seeds by step into a PNG, replaced in one move."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for run in result["runs"]:
        steps, train, val, _ = zip(*run["curve"], strict=True)
        lines = axes.plot(steps, val, "o-", markersize=3, linewidth=1, label=f"seed {run['seed']}")
        axes.plot(steps, train, ":", linewidth=1, color=lines[0].get_color())
    published = result["figures"][0]
    if published["value"] is not None and published["quantity"] in ("val", "final"):
        axes.axhline(published["value"], color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="step", ylabel="loss (nats per character)")
    axes.set_title(
        f"{result['title']}\nvalidation; dotted: training; dashed: published",
        parse_math=False,
        fontsize=9,
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
