"""Write the simulations of verdicts as tables of docs/initlab.md."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.results_file import RESULTS
from charjax.hardware import in_words

Rows = list[dict[str, Any]]


def page_parts() -> dict[str, str]:
    """Return the parts `verdicts` and `coordinates` of docs/initlab.md."""
    return {"verdicts": _verdicts(), "coordinates": _coordinates()}


def _verdicts() -> str:
    path = RESULTS / "initlab-verdicts-cpu.json"
    if not path.exists():
        return "Not run yet; `python -m benchmarks.verdicts`."
    tree = json.loads(path.read_text(encoding="utf-8"))
    (section,) = tree["devices"]
    parts: list[str] = []
    tables: dict[str, Callable[[Rows, int], str]] = {
        "false": _false,
        "sizes": _sizes,
        "partial": _partial,
        "power": _power,
        "intervals": _intervals,
        "seeds": _seeds,
    }
    for name, table in tables.items():
        if name in section["sections"]:
            parts.append(table(section["sections"][name]["rows"], section["trials"]))
    seconds = sum(one["cpu_seconds"] for one in section["sections"].values())
    parts.append(
        f"Simulated by `{tree['command']}` ({seconds:,.0f} s of CPU time) on "
        f"{in_words(section['hardware'])}."
    )
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _false(rows: Rows, trials: int) -> str:
    """Return a line per null and kind of loss, with the numbers of seeds side by side."""
    seeds = sorted({row["seeds"] for row in rows})
    found = {(row["null"], row["loss"], row["seeds"]): row for row in rows}
    kinds = list(dict.fromkeys((row["null"], row["loss"]) for row in rows))
    head = ["null", "losses"]
    for n in seeds:
        head += [f"n = {n}: two", "three", "verdict", "before"]
    lines = []
    for null, loss in kinds:
        line = [null, loss]
        for n in seeds:
            row = found[null, loss, n]
            keys = ("two", "three", "three_verdicts", "three_before")
            line += [f"{row[key]:.1f}" for key in keys]
        lines.append(line)
    return (
        f"False findings, percent of {trials:,} simulated reports of identical schemes: p < 0.05 "
        "of a single pair; any adjusted p < 0.05 among three; the same together with the interval "
        "(the verdict); and among three by the earlier test, with signs flipped after tuning.\n\n"
    ) + table(head, lines)


def _sizes(rows: Rows, trials: int) -> str:
    lines = [
        [row["null"], str(row["sizes"]), f"{row['any']:.1f}", f"{row['any_before']:.1f}"]
        for row in rows
    ]
    return (
        f"Reports of several sizes, three identical schemes, 8 seeds: percent of {trials:,} "
        "reports with any adjusted p < 0.05. Before: each size was a separate family.\n\n"
    ) + table(["null", "sizes", "any finding", "before"], lines)


def _partial(rows: Rows, trials: int) -> str:
    lines = [
        [row["case"], row["loss"], str(row["seeds"]), row["settings"], f"{row['false']:.1f}"]
        for row in rows
    ]
    return (
        f"Some schemes identical, others not: percent of {max(1, trials // 2):,} reports with a "
        "finding among the identical ones.\n\n"
    ) + table(["schemes", "losses", "seeds", "settings", "false finding"], lines)


def _power(rows: Rows, trials: int) -> str:
    keys = ("two", "two_before", "three", "three_holm", "three_before")
    lines = [
        [
            row["case"],
            str(row["seeds"]),
            f"{row['d']:g}",
            *(f"{row[key]:.0f}" for key in keys),
        ]
        for row in rows
        if row["d"]
    ]
    return (
        "Power, percent: the first of three schemes is better by d standard deviations of a paired "
        "difference (normal losses). Two: the pair alone. Three: that pair in a report of three, "
        "by the step-down maximum that the report uses, and by Holm's method. Before: signs "
        "flipped after tuning, which is not a valid test where settings are tied.\n\n"
    ) + table(["settings", "seeds", "d", "two", "before", "three", "three, Holm", "before"], lines)


def _intervals(rows: Rows, trials: int) -> str:
    lines = [
        [row["null"], str(row["seeds"]), f"{row['covered']:.1f}", f"{row['covered_before']:.1f}"]
        for row in rows
    ]
    return (
        f"The 95 % interval of a difference, two identical schemes: percent of "
        f"{max(1, trials // 10):,} in which it covers 0, now and with tuning ignored (before).\n\n"
    ) + table(["null", "seeds", "covered", "before"], lines)


def _seeds(rows: Rows, trials: int) -> str:
    keys = ("found", "found_rests", "found_skewed", "none_skewed", "decides")
    lines = [[row["case"], str(row["seeds"]), *(f"{row[key]:.1f}" for key in keys)] for row in rows]
    return (
        f"Single seeds, two schemes without tuning, percent of {max(1, trials // 5):,}: a verdict; "
        "a verdict reported to rest on one seed, or on skewed differences; no verdict and skewed; "
        "no verdict, with one seed reported to decide. A rare bad seed: every tenth run of one "
        "scheme, on average, ends 30 standard deviations higher; the means are equal. Its findings "
        "come from reports in which no bad run was drawn. Nothing in them can show it, so the page "
        "states how rare a kind of run that number of seeds may miss.\n\n"
    ) + table(
        [
            "losses",
            "seeds",
            "verdict",
            "rests on a seed",
            "skewed",
            "none, skewed",
            "none, decides",
        ],
        lines,
    )


def _coordinates() -> str:
    path = RESULTS / "initlab-coordinates-cpu.json"
    if not path.exists():
        return "Not run yet; `python -m benchmarks.coordinates`."
    tree = json.loads(path.read_text(encoding="utf-8"))
    (section,) = tree["devices"]
    lines = [
        [
            row["scheme"],
            ", ".join(map(str, row["widths"])),
            str(row["seeds"]),
            *(f"{row[key]:.1f}" for key in ("passed", "cannot tell", "failed", "point")),
        ]
        for row in section["rows"]
    ]
    head = ["parametrisation", "widths", "seeds", "passed", "cannot tell", "failed", "before"]
    return (
        f"Percent of {section['draws']:,} checks, each of seeds drawn from {section['seeds']} "
        "trained ones (a transformer of two blocks, 15 layers that change). Before: judged by the "
        "point estimate.\n\n" + table(head, lines) + f"\n\nMeasured by `{tree['command']}` on "
        f"{in_words(section['hardware'])}."
    )
