"""The fault matrix of docs/durability.md equals its results file."""

import json
from pathlib import Path

from benchmarks.render_faults import FAULTS, page_parts

HARDWARE = {"accelerator": None, "cores": 2, "processor": "X", "versions": {"jax": "1.2"}}


def part(row: int, passed: int, cases: int, whole: bool = True) -> dict:
    fields = {"row": row, "fault": "a fault", "cases": cases, "passed": passed}
    return {**fields, "seconds": 1.6, "whole": whole}


def test_what_was_not_run_is_said(tmp_path: Path):
    text = page_parts(tmp_path)["faults"]
    assert text.count("| not run |") == len(FAULTS) == 22
    assert text.endswith(
        "Not run yet; `make faults FAULTS_OUT=benchmarks/results/faults-cpu.json`."
    )


def test_parts_of_a_row_are_added_and_failures_shown(tmp_path: Path):
    parts = [part(4, 10, 10), part(4, 1190, 1190), part(5, 9, 10, False), part(6, 3, 3, False)]
    tree = {"command": "make faults", "seconds": 90, "parts": parts}
    tree["hardware"] = {**HARDWARE, "date": "2026-01-01"}
    (tmp_path / "faults-cpu.json").write_text(json.dumps(tree))
    lines = page_parts(tmp_path)["faults"].splitlines()
    assert lines[1 + 4].endswith("| 1,200 of 1,200 | 3 s |")
    assert lines[1 + 5].endswith("| 9 of 10, failed | 2 s |")
    # Every case that was run has passed, but not every case was run.
    assert lines[1 + 6].endswith("| 3 of 3, failed | 2 s |")
    assert lines[1 + 7].endswith("| not run |  |")
    assert lines[-1] == (
        "Measured by `make faults` on 2 cores of X, jax 1.2, 2026-01-01, in 2 minutes."
    )
