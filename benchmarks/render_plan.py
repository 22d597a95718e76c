"""What `charjax plan` knows from measurements: formulas of memory, shares of the roofline.

Written into charjax/performance/*.json from benchmarks/results/, so that the installed package has
them without the benchmarks.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize

from charjax.performance.activations import elements

_RESULTS = Path(__file__).parent / "results"
_PACKAGE = Path(__file__).resolve().parent.parent / "charjax" / "performance"
_FLOAT = 4
_PLATFORMS = {"h100": "cuda", "v5e": "tpu"}
# Smaller batches are bound by the launch of a program, which an accelerator has otherwise.
_LEAST_BATCH = 16


def package_files() -> dict[Path, str]:
    """Return the text of each file in the package that is made from the results."""
    compiled = json.loads((_RESULTS / "activations.json").read_text(encoding="utf-8"))
    throughput = json.loads((_RESULTS / "throughput-cpu.json").read_text(encoding="utf-8"))
    made = {"activations.json": formulas(compiled), "efficiency.json": efficiencies(throughput)}
    return {_PACKAGE / name: json.dumps(tree, indent=1) + "\n" for name, tree in made.items()}


def formulas(compiled: dict[str, Any]) -> dict[str, Any]:
    """Return the coefficients of every family by platform and dtype, and their errors."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in compiled["rows"]:
        key = (_PLATFORMS[row["device"]], row["family"], row["dtype"])
        groups.setdefault(key, []).append(row)
    tree: dict[str, Any] = {}
    for (platform, family, dtype), rows in sorted(groups.items()):
        fitted = [row for row in rows if not row.get("held_out")]
        held_out = [row for row in rows if row.get("held_out")]
        entry = fit(fitted, tpu=platform == "tpu")
        tree.setdefault(platform, {}).setdefault(family, {})[dtype] = {
            **entry,
            "fitted": worst(entry, fitted, tpu=platform == "tpu"),
            "worst": worst(entry, held_out or fitted, tpu=platform == "tpu"),
            "rows": [len(fitted), len(held_out)],
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


def worst(entry: dict[str, Any], rows: list[dict[str, Any]], *, tpu: bool) -> float:
    """Return the largest relative error of a formula on these rows."""
    errors = []
    for row in rows:
        names = list(entry["arrays"])
        numbers = [*entry["arrays"].values(), entry["parameters"]]
        predicted = sum(
            number * size
            for number, size in zip(numbers, features(row, names, tpu=tpu), strict=True)
        )
        errors.append(abs(predicted / row["temporary"] - 1))
    return round(max(errors), 3)


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
