"""What is told of measurements is what the results say: nothing is typed."""

import json

import pytest

from benchmarks import render


def test_every_page_is_as_make_results_writes_it():
    for path, text in render.pages(render.reproduced()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run make results"


def test_every_result_says_where_it_was_measured_and_by_what():
    for path in render.RESULTS.glob("reproduce-*.json"):
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            assert row["command"].startswith("python -m charjax.reproduce --only ")
            assert row["hardware"]["versions"]["jax"]
            assert row["hardware"]["processor"]
            figure = row["figures"][0]
            losses = [run["losses"][figure["quantity"]] for run in row["runs"]]
            assert figure["measured"]["mean"] == pytest.approx(sum(losses) / len(losses))
