"""Write the examples of docs/benchmark.md from benchmarks/results/benchmark-*.json."""

import json
from typing import Any

from benchmarks.harness import RESULTS
from benchmarks.render_speed import as_markdown
from charjax.hardware import in_words, versions_in_words
from charjax.performance.report import tables


def page_parts() -> dict[str, str]:
    """Return the parts of docs/benchmark.md by name."""
    return {"devices": _example("benchmark-cpu"), "sweep": _example("benchmark-sweep-cpu")}


def _example(name: str) -> str:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return "Not run yet."
    tree = json.loads(path.read_text(encoding="utf-8"))
    lines = ["```", tree["command"], "```", ""]
    for table in tables(tree):
        lines += [f"{table.title}:", "", *as_markdown(table), ""]
    lines += [f"- {each['device']}: {each['what']}: {each['why']}" for each in tree["left_out"]]
    if tree["left_out"]:
        lines.append("")
    if tree["sweep"]:
        picture = f"../benchmarks/results/{name}.png"
        lines += [f"![throughput and memory by {tree['sweep']['setting']}]({picture})", ""]
    return "\n".join([*lines, _measured(tree)])


def _measured(tree: dict[str, Any]) -> str:
    facts = next(iter(tree["devices"].values()))["hardware"]
    before, after = tree["load_average"]
    versions = versions_in_words(facts) + (f", torch {tree['torch']}" if tree["torch"] else "")
    return (
        f"Measured on {in_words(facts)}; {versions}; {tree['date']}. Load average: {before:.1f} "
        f"before, {after:.1f} after (idle: 0)."
    )
