"""Published numbers equal those of the results files."""

import json

import pytest

from benchmarks import render, render_picture


def test_every_page_is_as_make_results_writes_it():
    for path, text in render.pages(render.reproduced()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run make results"


def test_the_picture_is_drawn_from_the_results():
    picture = (render.DOCS / "figures" / "overview.svg").read_text(encoding="utf-8")
    assert f">{render_picture.numbers().digest()}<" in picture, "overview.svg: run make results"


def test_the_picture_shows_both_losses_and_every_model():
    shown = render_picture.numbers()
    assert shown.train[-1] == (2000, pytest.approx(1.4, abs=0.1))
    assert [step for step, _ in shown.val] == [1000, 2000]
    assert len(shown.speed) == 8


def test_every_result_says_where_it_was_measured_and_by_what():
    for path in render.RESULTS.glob("reproduce-*.json"):
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            assert row["command"].startswith("python -m charjax.reproduce --only ")
            assert row["hardware"]["versions"]["jax"]
            assert row["hardware"]["processor"]
            figure = row["figures"][0]
            losses = [run["losses"][figure["quantity"]] for run in row["runs"]]
            assert figure["measured"]["mean"] == pytest.approx(sum(losses) / len(losses))
