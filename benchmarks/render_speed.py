"""Write the tables of speed from benchmarks/results/*.json: `make results`.

Every file NAME-*.json is shown as its command printed it: hardware, table, what was left out.
"""

import importlib
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import peers
from benchmarks import texts as long_texts
from benchmarks.results_file import RESULTS
from charjax.hardware import in_words, versions_in_words
from charjax.performance import show

NAMES = (
    "roofline",
    "throughput",
    "options",
    "feed",
    "contexts",
    "peers",
    "gru",
    "generate",
    "evaluation",
    "startup",
    "checkpoint_overhead",
    "time_to_quality",
    "correctness",
)


def benchmarks(results: Path = RESULTS) -> str:
    """Return the sections of all benchmarks."""
    return "\n".join(part(name, results) for name in NAMES).strip()


def summary(results: Path = RESULTS) -> str:
    """Return the README's table: tokens per second, and how much slower PyTorch is."""
    lines = []
    for path in sorted(results.glob("peers-*.json")):
        tree = json.loads(path.read_text(encoding="utf-8"))
        for section in tree["devices"]:
            lines += [
                "| model | tokens per second | speed relative to PyTorch |",
                "|---|---:|---:|",
            ]
            for (_, work, dtype), found in peers.by_work(section["rows"]).items():
                rate = f"{found['charjax']['tokens_per_second']:,.0f}"
                ratio = peers.ratio_to(found, ("torch eager", "torch compile"))
                extra = ", with charjax-kernels" if found["charjax"].get("kernels") else ""
                lines.append(f"| {work} {dtype}{extra} | {rate} | {ratio} |")
            lines += ["", _measured(tree, section)]
    return "\n".join(lines or ["Not run yet; `python -m benchmarks.peers`."])


def goals(results: Path = RESULTS) -> str:
    """Return the commands that reached a published loss, and after how long."""
    lines = []
    for path in sorted(results.glob("time_to_quality-*.json")):
        tree = json.loads(path.read_text(encoding="utf-8"))
        for section in (each for each in tree["devices"] if each["rows"]):
            lines += ["| command | goal | loss | reached after |", "|---|---|---|---|"]
            for row in section["rows"]:
                words = " ".join([row["config"], *row["overrides"]])
                losses = ", ".join(f"{loss:.4f}" for loss in row["losses"])
                cells = (f"`python -m charjax.train {words}`", row["goal"], losses)
                lines += [f"| {' | '.join(map(str, cells))} | {row['median']:.0f} s |"]
            lines += ["", _measured(tree, section), ""]
    return "\n".join(lines[:-1] or ["Not run yet; `python -m benchmarks.time_to_quality`."])


def scaling(results: Path = RESULTS) -> str:
    """Return the time of a step in one process and in several, each with a core."""
    lines = ["| processes | batch | step | quartiles | efficiency |", "|---:|---:|---:|---|---:|"]
    files = sorted(results.glob("scaling-*.json"))
    for path in files:
        tree = json.loads(path.read_text(encoding="utf-8"))
        for count, found in tree["seconds_per_step"].items():
            quartiles = " to ".join(f"{1e3 * found[q]:.1f}" for q in ("q1", "q3"))
            efficiency = 1.0 if count == "1" else tree["efficiency"]["median"]
            rows = int(count) * tree["rows_per_process"]
            step = f"{1e3 * found['median']:.1f} ms"
            lines.append(f"| {count} | {rows} | {step} | {quartiles} ms | {efficiency:.2f} |")
        facts = tree["hardware"]
        machine = f"{in_words(facts)}; {versions_in_words(facts)}"
        repeats = len(tree["efficiency"]["repeats"])
        lines += ["", f"Measured by `{tree['command']}` on {machine}; {repeats} turns.", ""]
    return "\n".join(lines[:-1]) if files else "Not run yet; `python -m benchmarks.scaling`."


def texts(results: Path = RESULTS) -> str:
    """Return the time and memory of long texts."""
    heads = [head for head, _ in long_texts.COLUMNS]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    files = sorted(results.glob("texts-*.json"))
    for path in files:
        tree = json.loads(path.read_text(encoding="utf-8"))
        cells = [[cell(row) for _, cell in long_texts.COLUMNS] for row in tree["rows"]]
        lines += [f"| {' | '.join(row)} |" for row in cells]
        facts = tree["hardware"]
        machine = f"{in_words(facts)}; {versions_in_words(facts)}"
        lines += ["", f"Measured by `{tree['command']}` on {machine}.", ""]
    return "\n".join(lines[:-1]) if files else "Not run yet; `python -m benchmarks.texts`."


def _measured(tree: dict[str, Any], section: dict[str, Any]) -> str:
    facts = section["hardware"]
    machine = f"{in_words(facts)}; {versions_in_words(facts)}"
    return f"Measured by `{tree['command']}` on {machine}, {tree['date']}."


def counting(results: Path = RESULTS) -> str:
    """Return the costs of counting n-grams of a long text."""
    lines, measured = (
        [
            "| | seconds | of processors | memory | checkpoint | numbers | val loss |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ],
        "Not run yet; `python -m benchmarks.counting`.",
    )
    for path in sorted(results.glob("counting-*.json")):
        tree = json.loads(path.read_text(encoding="utf-8"))
        for row in tree["rows"]:
            cells = (
                row["name"],
                f"{row['seconds']:.0f} s",
                f"{row['processor_seconds']:.0f} s",
                show.quantity(float(row["peak_bytes"]), "B"),
                show.quantity(float(row["checkpoint_bytes"]), "B"),
                f"{row['params']:,}",
                f"{row['val_loss']:.4f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
        measured = (
            f"Order {tree['order']}, {tree['megabytes']} MB; `{tree['command']}` on "
            f"{in_words(tree['hardware'])}."
        )
    return "\n".join([*lines, "", measured] if len(lines) > 2 else [measured])


def part(name: str, results: Path = RESULTS) -> str:
    """Return the section of one benchmark."""
    benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    lines = [f"### {name}: {benchmark.title}", ""]
    files = sorted(results.glob(f"{name}-*.json"))
    for path in files:
        tree = json.loads(path.read_text(encoding="utf-8"))
        lines += [f"`{tree['command']}`, {tree['date']}", ""]
        for section in tree["devices"]:
            lines += _section(benchmark, section)
        rows = [row for section in tree["devices"] for row in section["rows"]]
        for table in benchmark.extra(rows) if rows else []:
            lines += [f"**{table.title}**", "", *as_markdown(table), ""]
        lines += [
            f"- left out on {each['device']}: {_escaped(each['what'])}: {_escaped(each['why'])}"
            for each in tree["left_out"]
        ]
        if rows:
            picture = path.with_suffix(".png").name
            lines += ["", f"![{benchmark.title}](../benchmarks/results/{picture})", ""]
    if not files:
        lines += [f"Not run yet; `python -m benchmarks.{name}`", ""]
    return "\n".join(lines)


def as_markdown(table: Table) -> list[str]:
    """Return the lines of a table in Markdown."""
    rows = zip(*(column.cells for column in table.columns), strict=True)
    marks = ["---" if column.justify == "left" else "---:" for column in table.columns]
    head = [str(column.header) for column in table.columns]
    body = [[_escaped(str(cell)) for cell in row] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *body)]


def _section(benchmark: Any, section: dict[str, Any]) -> list[str]:
    flags = ", ".join(f"{name}={value}" for name, value in section["flags"].items()) or "none"
    facts = section["hardware"]
    lines = [
        f"{section['device']}: {in_words(facts)}; {versions_in_words(facts)}; flags: "
        f"{_escaped(flags)}",
        "",
        *as_markdown(show.make_table("", benchmark.columns, section["rows"])),
        "",
    ]
    if note := section.get("roofline", {}).get("note"):
        lines += [f"**Note: {note}.**", ""]
    return lines


def _escaped(text: str) -> str:
    """Escape for a table cell."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
