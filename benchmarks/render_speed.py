"""Writes docs/benchmarks.md from what the benchmarks left in benchmarks/results/: `make results`.

Every file NAME-*.json is shown as its command printed it: hardware, the table, what was left out.
"""

import importlib
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import show
from benchmarks.harness import RESULTS
from charjax.hardware import in_words, versions_in_words

NAMES = (
    "roofline",
    "throughput",
    "peers",
    "gru",
    "generate",
    "startup",
    "checkpoint_overhead",
    "time_to_quality",
)
_HEAD = """# Benchmarks

Made by `make results` from `benchmarks/results/*.json`, which hold every repeat; nothing here is
typed. A figure is a median with its quartiles. "Of nominal" and "MFU (nominal)" are n/a where the
device's data sheet is not known (benchmarks/devices.py).
"""


def document(results: Path = RESULTS) -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(part(name, results) for name in NAMES)])


def readme_parts(results: Path = RESULTS) -> dict[str, str]:
    """What the README shows: how much faster than others charjax is, and how soon it is as good."""
    parts = {f"faster-{name}": _ratios(name, results) for name in ("peers", "generate")}
    return {**parts, "time-to-quality": _goals(results)}


def _goals(results: Path) -> str:
    """The commands that reached a published loss, and when."""
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


def _measured(tree: dict[str, Any], section: dict[str, Any]) -> str:
    facts = section["hardware"]
    told = f"{in_words(facts)}; {versions_in_words(facts)}"
    return f"Measured by `{tree['command']}` on {told}, {tree['date']}."


def _ratios(name: str, results: Path) -> str:
    benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    lines = []
    for path in sorted(results.glob(f"{name}-*.json")):
        tree = json.loads(path.read_text(encoding="utf-8"))
        for section in tree["devices"]:
            for table in benchmark.extra(section["rows"]):
                lines += [f"{table.title}:", "", *as_markdown(table), ""]
            lines += [_measured(tree, section)]
    return "\n".join(lines or [f"Not run yet; `python -m benchmarks.{name}`."])


def part(name: str, results: Path = RESULTS) -> str:
    """One benchmark's part of the page."""
    benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    lines = [f"## {name}: {benchmark.title}", ""]
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
    """The lines of a table."""
    rows = zip(*(column.cells for column in table.columns), strict=True)
    marks = ["---" if column.justify == "left" else "---:" for column in table.columns]
    head = [str(column.header) for column in table.columns]
    body = [[_escaped(str(cell)) for cell in row] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *body)]


def _section(benchmark: Any, section: dict[str, Any]) -> list[str]:
    flags = ", ".join(f"{name}={value}" for name, value in section["flags"].items()) or "none"
    facts = section["hardware"]
    told = [
        f"{section['device']}: {in_words(facts)}; {versions_in_words(facts)}; flags: "
        f"{_escaped(flags)}",
        "",
        *as_markdown(show.make_table("", benchmark.columns, section["rows"])),
        "",
    ]
    if note := section.get("roofline", {}).get("note"):
        told += [f"**Note: {note}.**", ""]
    return told


def _escaped(text: str) -> str:
    """Safe within a table's cell."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
