"""The tables of speed come from the benchmarks' files only."""

import json
from pathlib import Path

from rich.table import Table

from benchmarks import render_speed


def test_a_page_without_results_says_so(tmp_path: Path):
    page = render_speed.benchmarks(tmp_path)
    for name in render_speed.NAMES:
        assert f"Not run yet; `python -m benchmarks.{name}`" in page


def test_what_a_benchmark_wrote_is_what_the_page_shows(tmp_path: Path):
    row = {
        "name": "product float32 512",
        "unit": "FLOP/s",
        "repeats": [2e9, 3e9, 4e9],
        "median": 3e9,
        "q1": 2.5e9,
        "q3": 3.5e9,
        "nominal": None,
        "fraction_of_nominal": None,
    }
    hardware = {
        "processor": "A Processor",
        "cores": 2,
        "accelerator": None,
        "python": "3.13",
        "versions": {"jax": "1.2.3"},
        "date": "2026-01-01",
    }
    section = {
        "device": "cpu",
        "hardware": hardware,
        "flags": {"XLA_FLAGS": "--a|b"},
        "rows": [row],
        "roofline": {"note": "the roofline drifted during the run: copy -9.0%"},
    }
    tree = {
        "command": "python -m benchmarks.roofline",
        "date": "2026-01-01",
        "devices": [section],
        "left_out": [{"device": "gpu", "what": "everything", "why": "<none>", "failed": False}],
    }
    (tmp_path / "roofline-cpu.json").write_text(json.dumps(tree))
    part = render_speed.part("roofline", tmp_path)
    assert "2 cores of A Processor, jax 1.2.3" in part
    assert "| product float32 512 | 3.00 GFLOP/s | 2.50 GFLOP/s to 3.50 GFLOP/s |  | n/a |" in part
    assert "XLA_FLAGS=--a\\|b" in part
    assert "copy -9.0%" in part
    assert "left out on gpu: everything: &lt;none>" in part
    assert "roofline-cpu.png" in part


def test_a_table_of_the_terminal_becomes_one_of_markdown():
    table = Table()
    table.add_column("name")
    table.add_column("value", justify="right")
    table.add_row("a|b", "1")
    assert render_speed.as_markdown(table) == [
        "| name | value |",
        "| --- | ---: |",
        "| a\\|b | 1 |",
    ]


def test_the_command_that_reached_a_published_loss_is_shown(tmp_path: Path):
    assert "Not run yet" in render_speed.goals(tmp_path)
    row = {"config": "a-config", "overrides": ["train.steps=9"], "goal": 1.5, "median": 12.3}
    hardware = {"processor": "A Processor", "cores": 2, "accelerator": None, "date": "2026-01-01"}
    section = {
        "device": "cpu",
        "hardware": hardware | {"python": "3.13", "versions": {"jax": "1.2.3"}},
        "rows": [row | {"losses": [1.49, 1.4812]}],
    }
    tree = {"command": "python -m benchmarks.x", "date": "2026-01-01", "devices": [section]}
    (tmp_path / "time_to_quality-cpu.json").write_text(json.dumps(tree))
    part = render_speed.goals(tmp_path)
    line = "| `python -m charjax.train a-config train.steps=9` | 1.5 | 1.4900, 1.4812 | 12 s |"
    assert line in part.splitlines()
    assert "Measured by `python -m benchmarks.x` on 2 cores of A Processor" in part


def test_the_readme_shows_the_ratios_and_where_they_are_from(tmp_path: Path):
    assert "Not run yet" in render_speed.summary(tmp_path)
    row = {"device": "cpu", "work": "mlp B32", "dtype": "float32", "tokens_per_second": 1234.5}
    hardware = {"processor": "A Processor", "cores": 2, "accelerator": None, "date": "2026-01-01"}
    section = {
        "device": "cpu",
        "hardware": hardware | {"python": "3.13", "versions": {"jax": "1.2.3"}},
        "rows": [
            row | {"contestant": "charjax"},
            row | {"contestant": "torch eager", "times_charjax": {"median": 6.789}},
            row | {"contestant": "torch compile", "times_charjax": {"median": 5.432}},
        ],
    }
    tree = {"command": "python -m benchmarks.peers", "date": "2026-01-01", "devices": [section]}
    (tmp_path / "peers-cpu.json").write_text(json.dumps(tree))
    part = render_speed.summary(tmp_path)
    assert "| mlp B32 float32 | 1,234 | 5.43 |" in part
    assert "Measured by `python -m benchmarks.peers` on 2 cores of A Processor" in part
