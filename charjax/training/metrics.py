"""What a run writes down while it goes: metrics.jsonl and curves.png."""

import dataclasses
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from charjax.errors import visible


@dataclasses.dataclass
class Interval:
    """Sums over the steps since the last logged line; saved with a checkpoint.

    Float64 on the host, added in the order of the steps, so that the lines of an interrupted
    run and of an uninterrupted one are the same.
    """

    loss: float = 0.0
    targets: float = 0.0
    steps: int = 0
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    skipped: int = 0
    penalty: float = 0.0

    def add(self, rows: np.ndarray) -> None:
        """Take in some steps' Metrics: rows in the order of the steps, columns in their own."""
        if not len(rows):
            return
        self.steps += len(rows)
        self.learning_rate = float(rows[-1, 2])
        kept = rows[rows[:, 4] == 0].astype(np.float64)
        self.skipped += len(rows) - len(kept)
        self.loss = _add_in_order(self.loss, kept[:, 0] * kept[:, 3])
        self.targets = _add_in_order(self.targets, kept[:, 3])
        self.grad_norm = _add_in_order(self.grad_norm, kept[:, 1])
        self.penalty = _add_in_order(self.penalty, kept[:, 5])

    def line(self) -> dict[str, Any]:
        """Means over the interval; None where every step was skipped.

        `skipped` and `l2_penalty` (not part of the loss) are there where there are any.
        """
        kept = self.steps - self.skipped
        line: dict[str, Any] = {
            **loss_fields(self.loss / self.targets if self.targets else math.nan),
            "learning_rate": self.learning_rate,
            "grad_norm": self.grad_norm / kept if kept else None,
        }
        if self.skipped:
            line["skipped"] = self.skipped
        if self.penalty:
            line["l2_penalty"] = self.penalty / kept
        return line


def _open_existing(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_CREAT)


def _add_in_order(start: float, values: np.ndarray) -> float:
    """`start` and the values, one after the other; a pairwise sum would depend on the cuts."""
    return float(np.cumsum(np.concatenate([[start], values]))[-1])


def loss_fields(loss: float) -> dict[str, float | None]:
    """A loss in nats and in bits a character; None where it is not finite (JSON has no NaN)."""
    finite = math.isfinite(loss)
    return {"loss": loss if finite else None, "bpc": loss / math.log(2) if finite else None}


class MetricsFile:
    """metrics.jsonl: one JSON object a line, appended and flushed whole.

    `cut` makes the file. What is written later is only appended: a file that has gone has gone with
    its run, and is not begun again.
    """

    def __init__(self, path: Path):
        self.path = path

    def write(self, step: int, split: str, **fields: Any) -> None:
        """Append one line."""
        self.write_all([{"step": step, "split": split, **fields}])

    def write_all(self, lines: list[dict[str, Any]]) -> None:
        """Append some lines at once."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        with open(self.path, "a", encoding="utf-8", opener=_open_existing) as file:
            file.write(text)

    def cut(self, step: int, events_done: int) -> None:
        """Drop what a resumed run will write again: later steps, and unfinished events."""
        kept = [
            line
            for line in self.read()
            if line["step"] <= (step if line["split"] == "train" else events_done)
        ]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path)

    def read(self) -> list[dict[str, Any]]:
        """Every line up to the first that is not whole: a crash may leave anything at the end."""
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                break
            if not isinstance(line, dict):
                break
            lines.append(line)
        return lines


def draw_curves(lines: list[dict[str, Any]], title: str, path: Path) -> None:
    """Training and validation loss by step, as a PNG."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for split, style in (("train", "-"), ("val", "o-")):
        points = [(x["step"], x["loss"]) for x in lines if x["split"] == split and x["loss"]]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=split, markersize=3, linewidth=1)
    axes.set(xlabel="step", ylabel="loss (nats a character)")
    axes.set_title(visible(title), parse_math=False, fontsize=10)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    temporary = path.with_suffix(".tmp.png")
    with warnings.catch_warnings():
        # A name may have characters that no font here has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(temporary)
    temporary.replace(path)
