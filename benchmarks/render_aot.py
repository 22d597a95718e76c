"""Write the tables of docs/accelerators.md from benchmarks/results/aot.json."""

import json
from pathlib import Path
from typing import Any

from benchmarks.aot import RESULT, TARGETS
from benchmarks.aot_workloads import workloads
from charjax.hardware import in_words, versions_in_words

Row = dict[str, Any]


def page_parts(path: Path = RESULT) -> dict[str, str]:
    """Return the generated parts of the page, by name."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    rows = {(row["workload"], row["target"]): row for row in tree["rows"]}
    return {
        "aot-summary": summary(tree),
        "aot-programs": programs(rows),
        "aot-collectives": collectives(tree["rows"]),
    }


def summary(tree: dict[str, Any]) -> str:
    """Return how many programs were compiled and what was wrong, with command and hardware."""
    rows = tree["rows"]
    late = [row for row in rows if any(fault.startswith("not done") for fault in row["faults"])]
    bad = [row for row in rows if row["faults"] and row not in late]
    large = [row for row in rows if row.get("does_not_fit")]
    done = len(rows) - len(late) - len(bad) - len(large)
    wanted = len(workloads()) * len(TARGETS)
    lines = [
        f"{done} programs compiled without a fault; {len(large)} "
        f"{'was' if len(large) == 1 else 'were'} too large for its device; {len(late)} not done "
        f"within {tree['limit_seconds']:.0f} s; {len(bad)} at fault; {wanted - len(rows)} of "
        f"{wanted} are left for another call.",
        "",
        *(f"- {row['workload']} {row['target']}: {'; '.join(row['faults'])}" for row in bad),
        "" if bad else None,
    ]
    facts = tree["hardware"]
    where = f"{in_words(facts)}; {versions_in_words(facts)}"
    lines = [line for line in lines if line is not None]
    return "\n".join([*lines, f"Compiled by `{tree['command']}` on {where}."])


def programs(rows: dict[tuple[str, str], Row]) -> str:
    """Return a table of processor time and size per device, by program and target."""
    lines = [f"| program | {' | '.join(TARGETS)} |", "|---|" + "---:|" * len(TARGETS)]
    for name in workloads():
        cells = [_cell(rows.get((name, target))) for target in TARGETS]
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def collectives(rows: list[Row]) -> str:
    """Return a table of the sums over devices in a step, by program."""
    lines = [
        "| program | devices | all-reduces per step | bytes of them |",
        "|---|---|---:|---:|",
    ]
    found: dict[tuple[str, int, int], list[str]] = {}
    for row in rows:
        each = [one for one in row.get("collectives", []) if one["loops"]]
        if each:
            key = (row["workload"], len(each), sum(one["bytes"] for one in each))
            found.setdefault(key, []).append(row["target"])
    for (name, count, size), targets in found.items():
        lines.append(f"| {name} | {', '.join(targets)} | {count} | {size:,} |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if sizes := row.get("does_not_fit"):
        return f"does not fit: {sizes['needed'] / 1e9:.1f} GB"
    if row["faults"]:
        why = str(row["faults"][0])
        return why if why.startswith("not done") else "at fault"
    return f"{row['cpu_seconds']:.0f} s, {row['total'] / 1e6:,.1f} MB"
