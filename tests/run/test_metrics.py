"""metrics.jsonl as crashes, bad disks and editors leave it."""

import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

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
