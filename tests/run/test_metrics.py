"""metrics.jsonl as crashes, bad disks and editors leave it."""

import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from charjax.run import metrics as metrics_module
from charjax.run.metrics import MetricsFile, draw_curves

BROKEN = {
    "nothing": "",
    "half": '{"step": 2, "spl',
    "zeros": "\0" * 100,
    "another object": "{}",
    "no object": "3",
    "a text for a step": '{"step": "2", "split": "train", "loss": 1.0}',
    "no loss": '{"step": 2, "split": "train"}',
    "a text for a loss": '{"step": 2, "split": "train", "loss": "1.0"}',
    "deep": "[" * 100_000,
    "a long number": '{"step": %s, "split": "train", "loss": 1.0}' % ("9" * 5000),
    "line separators": '{"step": 2, "split": "a\u2028b"',
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_line_costs_no_other(kind: str, tmp_path: Path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.cut(0, 0)
    metrics.write(1, "train", loss=1.0)
    with metrics.path.open("a") as file:
        file.write(f"{BROKEN[kind]}\n")
    metrics.write(3, "val", loss=None)
    metrics.write(4, "train", loss=2.0)
    metrics.cut(3, 3)
    whole = (
        '{"step": 1, "split": "train", "loss": 1.0}\n{"step": 3, "split": "val", "loss": null}\n'
    )
    assert metrics.path.read_text() == whole


def write_lines(metrics: MetricsFile, steps: int, every_val: int) -> list[dict[str, Any]]:
    """Write a line of training for each step, and one of validation after every few."""
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        lines.append({"step": step, "split": "train", "loss": 1.0 / step})
        if step % every_val == 0:
            lines.append({"step": step, "split": "val", "loss": 2.0 / step})
    metrics.cut(0, 0)
    metrics.write_all(lines)
    return lines


@pytest.mark.parametrize("cut", [(0, 0), (1, 1), (730, 720), (730, 730), (730, 30), (999, 999)])
def test_a_cut_of_a_long_file_parses_its_end_alone(cut, tmp_path: Path, monkeypatch):
    whole, cut_at_once = (MetricsFile(tmp_path / name) for name in ("a", "b"))
    lines = write_lines(whole, 800, 10)
    write_lines(cut_at_once, 800, 10)
    cut_at_once.cut(*cut)
    monkeypatch.setattr(metrics_module, "_BLOCK", 1000)
    parsed = []
    parse = metrics_module._parse
    monkeypatch.setattr(metrics_module, "_parse", lambda text: parsed.append(text) or parse(text))
    with whole.path.open("ab") as file:
        file.write(b'{"step": 900, "split": "tr')
    whole.cut(*cut)
    assert whole.path.read_bytes() == cut_at_once.path.read_bytes()
    if min(cut) > 700:
        # 90 lines, and at most a block of those before them; the kept ones of them twice.
        assert len(parsed) < 250 < len(lines)


def test_what_is_thinned_has_every_line_of_validation_and_the_last(tmp_path: Path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    assert metrics.read_thinned() == []
    lines = write_lines(metrics, 1000, 100)
    assert metrics.read_thinned(1000) == metrics.read() == lines
    thinned = metrics.read_thinned(300)
    steps = [line["step"] for line in thinned if line["split"] == "train"]
    assert steps == [*range(4, 1001, 4)]
    assert [x for x in thinned if x["split"] == "val"] == [x for x in lines if x["split"] == "val"]
    assert metrics.read_thinned(7)[-2]["step"] == 1000


@pytest.mark.parametrize(
    "count", [5_000, pytest.param(200_000, marks=[pytest.mark.slow, pytest.mark.longest])]
)
def test_memory_to_cut_does_not_grow_with_the_file(count: int, tmp_path: Path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    line = '{"step": %d, "split": "train", "loss": 1.5, "bpc": 2.1, "grad_norm": 0.25}\n'
    metrics.path.write_text("".join(line % step for step in range(1, count + 1)))
    tracemalloc.start()
    try:
        metrics.cut(count - 7, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    with metrics.path.open() as file:
        assert list(file) == [line % step for step in range(1, count - 6)]


def test_the_picture_marks_the_best_step_and_ln_v(tmp_path: Path, monkeypatch) -> None:
    lines = [
        {"step": step, "split": split, "loss": loss}
        for step, split, loss in [
            (1, "train", 3.0),
            (5, "val", 2.0),
            (9, "val", 1.5),
            (12, "val", 2),
            (5, "val_trained", 2.5),
            (9, "val_trained", 2.25),
        ]
    ]
    figures = []
    save = Figure.savefig

    def look(figure: Figure, *args: Any, **words: Any) -> None:
        figures.append(figure)
        save(figure, *args, **words)

    monkeypatch.setattr(Figure, "savefig", look)
    draw_curves(lines, "title", tmp_path / "curves.png", 65)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    (axes,) = figure.axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert drawn["best: 1.5000 at step 9"].get_xydata().tolist() == [[9, 1.5]]
    assert drawn["val, averaged parameters"].get_xydata().tolist() == [[5, 2], [9, 1.5], [12, 2]]
    assert drawn["val, as trained"].get_xydata().tolist() == [[5, 2.5], [9, 2.25]]
    assert set(drawn["ln 65"].get_ydata()) == {math.log(65)}
    (legend,) = figure.legends
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
