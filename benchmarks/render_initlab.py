"""The laboratory's parts of README.md and docs/initlab.md, made from benchmarks/results/*.json."""

import json
from typing import Any

from benchmarks.configs import RESULTS
from charjax.config import InitConfig
from charjax.hardware import in_words
from charjax.init import find_scheme, scheme_names, scheme_numbers
from charjax.initlab.reproductions import REPRODUCTIONS
from charjax.reproduction.check_report import cells, markdown, read_results

Results = dict[tuple[str, str], dict[str, Any]]


def results() -> Results:
    """The newest result of every reproduction and tier."""
    found: Results = {}
    for path in sorted(RESULTS.glob("initlab-reproduce-*.json")):
        for name, result in read_results(path).items():
            key = (name, result["tier"])
            if key not in found or found[key]["finished"] < result["finished"]:
                found[key] = result
    return found


def readme_parts() -> dict[str, str]:
    """The README's: the ten reproductions, a line each, and the speed."""
    return {"initlab": _summary(results()), "initlab-speed": _speed()}


def page_parts() -> dict[str, str]:
    """docs/initlab.md's: every scheme with its source, and every number."""
    found = results()
    # Where a number was published is no measurement: the code says it as it is known now.
    order = [
        found[each.name, tier] | {"source": each.source}
        for each in REPRODUCTIONS
        for tier in ("cpu", "gpu")
        if (each.name, tier) in found
    ]
    return {"schemes": _schemes(), "reproductions": markdown(order).strip()}


def _summary(found: Results) -> str:
    columns = "first of its numbers | expected | measured | all of them | tier, time"
    lines = [
        f"| # | reproduction | {columns} |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in REPRODUCTIONS:
        told = False
        for tier in ("cpu", "gpu"):
            if result := found.get((each.name, tier)):
                told = True
                lines.append(_line(each.name, result))
        if not told:
            lines.append(f"| {each.number} | {each.title} (`{each.name}`) | | | not run | | |")
    machines = sorted({in_words(result["hardware"]) for result in found.values()})
    told_where = "; ".join(machines) or "nothing yet"
    return "\n".join(lines) + (
        f"\n\nMeasured by `python -m charjax.initlab reproduce` on {told_where}."
    )


def _line(name: str, result: dict[str, Any]) -> str:
    checks = result["checks"]
    judged = [check for check in checks if check["verdict"] not in ("stated", "not run")]
    what, expected, _, measured, _, _ = cells((judged or checks)[0])
    good = sum(check["verdict"] == "reproduced" for check in judged)
    row = (
        str(result["number"]),
        f"{result['title']} (`{name}`)",
        what,
        expected,
        measured,
        f"{good} of {len(judged)} reproduced",
        f"{result['tier']}, {result['seconds']:.0f} s",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _speed() -> str:
    lines = []
    for path in sorted(RESULTS.glob("initlab-speed-*.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        lines += [
            "| names MLP, batch 32, SGD | run-steps a second, median | quartiles |",
            "|---|---|---|",
        ]
        for row in told["rows"]:
            low, high = row["quartiles"]
            lines.append(f"| {row['name']} | {row['median']:,.0f} | {low:,.0f} to {high:,.0f} |")
        torch = told["hardware"]["versions"]["torch"]
        lines += [
            "",
            f"Best against best: {told['ratio']:.1f} times PyTorch's. Measured by "
            f"`{told['command']}` on {in_words(told['hardware'])}, torch {torch}.",
        ]
    return "\n".join(lines) if lines else "Not run yet."


def _schemes() -> str:
    lines = [
        "| `init.scheme` | what it is, and from where | numbers it reads | it needs |",
        "|---|---|---|---|",
    ]
    for name in scheme_names():
        scheme = find_scheme(InitConfig(scheme=name))
        needs = ", ".join(
            f"{key}={' or '.join(map(_word, allowed))}" for key, allowed in scheme.needs.items()
        )
        numbers = ", ".join(f"init.{number}" for number in scheme_numbers(name) if number != "gain")
        source = scheme.source.replace("|", "\\|").replace("*", "\\*").replace("<", "\\<")
        lines.append(f"| `{name}` | {source} | {numbers} | {needs} |")
    return "\n".join(lines)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
