"""Write docs/initlab.md's schemes, reproductions and speed from benchmarks/results/*.json."""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.results_file import RESULTS
from charjax.config import InitConfig
from charjax.hardware import in_words
from charjax.init import find_scheme, scheme_names, scheme_numbers
from charjax.initlab.reproductions import REPRODUCTIONS
from charjax.reproduction.check_report import cells, markdown
from charjax.reproduction.output import read_results

Results = dict[tuple[str, str], dict[str, Any]]


def results(folder: Path = RESULTS) -> Results:
    """Return the newest result of every reproduction and tier."""
    found: Results = {}
    for path in sorted(folder.glob("initlab-reproduce-*.json")):
        for name, result in read_results(path, "reproductions").items():
            key = (name, result["tier"])
            if key not in found or found[key]["finished"] < result["finished"]:
                found[key] = result
    return found


def page_parts(folder: Path = RESULTS) -> dict[str, str]:
    """Return the parts of docs/initlab.md: every scheme with its source, and every number."""
    found = results(folder)
    # The source of a figure is not a measurement: take it from the code, not from the results.
    order = [
        found[each.name, tier] | {"source": each.source}
        for each in REPRODUCTIONS
        for tier in ("cpu", "gpu")
        if (each.name, tier) in found
    ]
    # One level below the page's own heading.
    numbers = re.sub("^## ", "### ", markdown(order), flags=re.MULTILINE).strip()
    return {
        "schemes": _schemes(),
        "initlab": _summary(found),
        "initlab-speed": _speed(folder),
        "measurements": _measurements(folder),
        "reproductions": numbers,
    }


def _summary(found: Results) -> str:
    columns = "first check | expected | measured | all checks | tier, time"
    lines = [
        f"| # | reproduction | {columns} |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in REPRODUCTIONS:
        tiers = [found[each.name, tier] for tier in ("cpu", "gpu") if (each.name, tier) in found]
        lines += [_line(each.name, result) for result in tiers]
        if not tiers:
            lines.append(f"| {each.number} | {each.title} (`{each.name}`) | | | not run | | |")
    machines = sorted({in_words(result["hardware"]) for result in found.values()})
    where = "; ".join(machines) or "nothing yet"
    return "\n".join(lines) + (f"\n\nMeasured by `python -m charjax.initlab reproduce` on {where}.")


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


def _speed(folder: Path) -> str:
    lines = []
    for path in sorted(folder.glob("initlab-speed-*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        lines += [
            "| names MLP, batch 32, SGD | run-steps per second, median | quartiles |",
            "|---|---|---|",
        ]
        for row in result["rows"]:
            low, high = row["quartiles"]
            lines.append(f"| {row['name']} | {row['median']:,.0f} | {low:,.0f} to {high:,.0f} |")
        torch = result["hardware"]["versions"]["torch"]
        kernels = ""
        if "kernels" in result:
            kernels = (
                f", with charjax-kernels {result['kernels']} "
                f"{result['ratio_with_kernels']:.1f} times"
            )
        lines += [
            "",
            f"Best against best: {result['ratio']:.1f} times the speed of PyTorch{kernels}. "
            f"Measured by `{result['command']}` on {in_words(result['hardware'])}, torch {torch}.",
        ]
    return "\n".join(lines) if lines else "Not run yet."


def _measurements(folder: Path) -> str:
    path = folder / "initlab-measurements-cpu.json"
    if not path.is_file():
        return "Not run yet."
    result = json.loads(path.read_text(encoding="utf-8"))
    section = result["devices"][0]
    networks = list(dict.fromkeys(row["network"] for row in section["rows"]))
    names = list(dict.fromkeys(row["measurement"] for row in section["rows"]))
    cost = {(row["network"], row["measurement"]): row["steps"] for row in section["rows"]}
    lines = [f"| `--measure` | {' | '.join(networks)} |", "|---|" + "---|" * len(networks)]
    for name in names:
        found = (cost.get((network, name)) for network in networks)
        texts = ["" if steps is None else f"{steps:,.1f}" for steps in found]
        lines.append(f"| `{name}` | {' | '.join(texts)} |")
    return "\n".join(
        [
            "Cost of measuring one run once, in training steps of that run:",
            "",
            *lines,
            "",
            f"Measured by `{result['command']}` on {in_words(section['hardware'])}, in turns with "
            f"training steps, at a load average of {section['load_average']}.",
        ]
    )


def _schemes() -> str:
    lines = [
        "| `init.scheme` | description and source | settings read | requires |",
        "|---|---|---|---|",
    ]
    for name in scheme_names():
        scheme = find_scheme(InitConfig(scheme=name))
        needs = ", ".join(
            f"{key}={' or '.join(map(_word, allowed))}"
            for key, allowed in scheme.requirements.items()
        )
        numbers = ", ".join(f"init.{number}" for number in scheme_numbers(name) if number != "gain")
        source = scheme.source.replace("|", "\\|").replace("*", "\\*").replace("<", "\\<")
        lines.append(f"| `{name}` | {source} | {numbers} | {needs} |")
    return "\n".join(lines)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
