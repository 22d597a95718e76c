"""The tables of docs/accelerators.md, on rows of every kind."""

from typing import Any

from benchmarks import render_aot

SUM = {"kind": "all-reduce", "bytes": 3000, "dtypes": ["f32"], "loops": 1, "source": ""}
DONE = {"cpu_seconds": 12.3, "total": 26_300_000, "collectives": [SUM], "faults": []}


def row(workload: str, target: str, **facts: Any) -> dict[str, Any]:
    return {"workload": workload, "target": target, "collectives": [], "faults": []} | facts


ROWS = [
    row("tiny-gru", "h100:4", **DONE),
    row("tiny-gru", "v5e:4", **DONE),
    row("default", "h100:1", faults=["not done in 150 s"]),
    row("default", "v5e:1", does_not_fit={"needed": 20_000_000_000, "available": 16_000_000_000}),
    row("nanogpt-cpu", "h100:1", **{**DONE, "faults": ["a fault: its reason"]}),
]


def test_every_row_is_shown_as_what_it_is() -> None:
    lines = render_aot.programs({(each["workload"], each["target"]): each for each in ROWS})
    table = {line.split(" | ")[0].strip("| "): line for line in lines.splitlines()}
    assert table["tiny-gru"].count("12 s, 26.3 MB") == 2
    assert "not done in 150 s" in table["default"]
    assert "does not fit: 20.0 GB" in table["default"]
    assert "at fault" in table["nanogpt-cpu"]
    assert "tiny-rnn" not in table


def test_a_fault_is_never_counted_as_done() -> None:
    hardware = {
        "processor": "A CPU",
        "cores": 2,
        "python": "3.13.0",
        "versions": {"jax": "0.12"},
        "date": "2026-01-01",
    }
    tree = {"rows": ROWS, "hardware": hardware, "limit_seconds": 150.0, "command": "make aot"}
    text = render_aot.summary(tree)
    assert text.startswith("2 programs compiled without a fault; 1 was too large for its device;")
    assert "1 not done within 150 s; 1 at fault;" in text
    assert "- nanogpt-cpu h100:1: a fault: its reason" in text


def test_sums_are_listed_once_per_program() -> None:
    assert "| tiny-gru | h100:4, v5e:4 | 1 | 3,000 |" in render_aot.collectives(ROWS)
