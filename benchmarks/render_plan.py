"""The measurements that `charjax plan` uses: formulas of memory, shares of the roofline.

Written into charjax/performance/*.json from benchmarks/results/, so that the installed package has
them without the benchmarks.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize

from charjax.hardware import in_words
from charjax.performance.activations import elements
from charjax.performance.plan_table import duration

_RESULTS = Path(__file__).parent / "results"
_PACKAGE = Path(__file__).resolve().parent.parent / "charjax" / "performance"
_FLOAT = 4
_PLATFORMS = {"h100": "cuda", "v5e": "tpu"}
# Smaller batches are bound by the launch of a program, which an accelerator has otherwise.
_LEAST_BATCH = 16


def package_files() -> dict[Path, str]:
    """Return the text of each file in the package that is made from the results."""
    plans = read("plan-cpu")["rows"]
    growth = max(row["memory"]["after_calls"][1] / row["memory"]["measured"] for row in plans)
    made = {
        "activations.json": formulas(read("activations")),
        "efficiency.json": efficiencies(read("throughput-cpu")) | {"growth": _two_digits(growth)},
    }
    return {_PACKAGE / name: json.dumps(tree, indent=1) + "\n" for name, tree in made.items()}


def page_parts() -> dict[str, str]:
    """Return the parts of docs/plan.md."""
    return {"measured": _measured(read("plan-cpu")), "formulas": _formulas(read("activations"))}


def _measured(results: dict[str, Any]) -> str:
    """Return the table of predicted and measured memory and time."""
    lines = ["| model | devices | predicted MiB | measured MiB | error | after 8 calls |"]
    lines[0] += " step predicted | step measured | error |"
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in results["rows"]:
        memory, time = row["memory"], row.get("time") or {}
        words = " ".join(word.removeprefix("model.") for word in row["settings"])
        cells = [
            words.replace("train.batch_size", "batch_size"),
            str(memory["devices"]),
            *(f"{memory[name] / 2**20:,.0f}" for name in ("predicted", "measured")),
            f"{memory['error']:+.0%}",
            f"{memory['after_calls'][1] / 2**20:,.0f}",
            *(
                (duration(time["predicted"]), duration(time["median"]), f"{time['error']:+.0%}")
                if time.get("median")
                else ("not measured", "", "")
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    worst_memory = max(abs(row["memory"]["error"]) for row in results["rows"])
    within = sum(abs(row["memory"]["error"]) <= 0.15 for row in results["rows"])
    times = [row["time"] for row in results["rows"] if (row.get("time") or {}).get("median")]
    lines += [
        "",
        f"Memory: {within} of {len(results['rows'])} within 15 %, the largest error "
        f"{worst_memory:.0%}.",
    ]
    if times:
        close = sum(abs(time["error"]) <= 0.25 for time in times)
        lines[-1] += f" Time: {close} of {len(times)} within 25 %."
    lines += ["", f"Measured by `{results['command']}` on {in_words(results['hardware'])}."]
    return "\n".join(lines)


def _formulas(results: dict[str, Any]) -> str:
    """Return the table of the formulas' errors."""
    tree = formulas(results)["formulas"]
    lines = ["| compiled for | family | dtype | programs | largest error |"]
    lines.append("|---|---|---|---:|---:|")
    names = {platform: device for device, platform in _PLATFORMS.items()}
    for platform, families in tree.items():
        for family, dtypes in families.items():
            for dtype, entry in dtypes.items():
                lines.append(
                    f"| {names[platform]} | {family} | {dtype} | {entry['programs']} | "
                    f"{entry['worst']:.1%} |"
                )
    compilers = ", ".join(f"{name} {version}" for name, version in results["compilers"].items())
    return "\n".join([*lines, "", f"Compiled by `{results['command']}` with {compilers}."])


def read(name: str) -> Any:
    """Return a results file."""
    return json.loads((_RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def formulas(compiled: dict[str, Any]) -> dict[str, Any]:
    """Return the coefficients of every family by platform and dtype, and their errors."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in compiled["rows"]:
        key = (_PLATFORMS[row["device"]], row["family"], row["dtype"])
        groups.setdefault(key, []).append(row)
    tree: dict[str, Any] = {}
    for (platform, family, dtype), rows in sorted(groups.items()):
        if len(rows) <= len(rows[0]["shapes"]):
            continue
        tpu = platform == "tpu"
        tree.setdefault(platform, {}).setdefault(family, {})[dtype] = {
            **fit(rows, tpu=tpu),
            "programs": len(rows),
            "worst": round(max(left_out(rows, index, tpu=tpu) for index in range(len(rows))), 3),
        }
    return {"command": compiled["command"], "compilers": compiled["compilers"], "formulas": tree}


def fit(rows: list[dict[str, Any]], *, tpu: bool) -> dict[str, Any]:
    """Return numbers of arrays, none negative, with the least sum of squared relative errors."""
    names = list(rows[0]["shapes"])
    features_NF = np.array([features(row, names, tpu=tpu) for row in rows])
    bytes_N = np.array([float(row["temporary"]) for row in rows])
    found_F, _ = optimize.nnls(features_NF / bytes_N[:, None], np.ones(len(rows)))
    numbers = [round(float(number), 3) for number in found_F]
    return {"arrays": dict(zip(names, numbers[:-1], strict=True)), "parameters": numbers[-1]}


def features(row: dict[str, Any], names: list[str], *, tpu: bool) -> list[float]:
    """Return the bytes of one array of each shape, then of the parameters."""
    shapes = [tuple(row["shapes"][name]) for name in names]
    sizes = [row["batch"] * elements(shape, tpu=tpu) for shape in shapes]
    return [float(_FLOAT * size) for size in [*sizes, row["parameters"]]]


def left_out(rows: list[dict[str, Any]], index: int, *, tpu: bool) -> float:
    """Return the relative error on one program of the formula that is fitted to the others."""
    row = rows[index]
    entry = fit([*rows[:index], *rows[index + 1 :]], tpu=tpu)
    numbers = [*entry["arrays"].values(), entry["parameters"]]
    sizes = features(row, list(entry["arrays"]), tpu=tpu)
    predicted = sum(number * size for number, size in zip(numbers, sizes, strict=True))
    return float(abs(predicted / row["temporary"] - 1))


def efficiencies(throughput: dict[str, Any]) -> dict[str, Any]:
    """Return the share of the roofline that the steps of each family reached on a CPU."""
    section = throughput["devices"][0]
    rates, hardware = section["roofline"]["start"], section["hardware"]
    best: dict[tuple[str, str, int], float] = {}
    for row in section["rows"]:
        if row["batch"] >= _LEAST_BATCH:
            compute = (row["flops_a_token"] or 0.0) * row["tokens_a_step"] / rates[row["dtype"]]
            traffic = 2.0 * row["bytes_needed"] / rates["copy"]
            share = min(1.0, max(compute, traffic) / row["median"])
            key = row["family"], row["dtype"], row["batch"]
            best[key] = max(share, best.get(key, 0.0))
    families: dict[str, Any] = {}
    for family, dtype, _ in best:
        shares = [share for key, share in best.items() if key[:2] == (family, dtype)]
        pair = {"low": _two_digits(min(shares)), "high": _two_digits(max(shares))}
        families.setdefault(family, {})[dtype] = pair
    return {
        "command": throughput["command"],
        "where": f"{hardware['cores']} cores of {hardware['processor']}",
        "rates": {name: rates[name] for name in ("float32", "bfloat16", "copy")},
        "families": families,
    }


def _two_digits(share: float) -> float:
    return round(share, 1 - math.floor(math.log10(share)))
