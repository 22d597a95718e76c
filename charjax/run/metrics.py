"""What a run writes down while it goes: metrics.jsonl and curves.png."""

import dataclasses
import io
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from charjax import files
from charjax.errors import visible
from charjax.units import bits_per_character


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


def _add_in_order(start: float, values: np.ndarray) -> float:
    """`start` and the values, one after the other; a pairwise sum would depend on the cuts."""
    return float(np.cumsum(np.concatenate([[start], values]))[-1])


def loss_fields(loss: float) -> dict[str, float | None]:
    """A loss in nats and in bits a character; None where it is not finite (JSON has no NaN)."""
    finite = math.isfinite(loss)
    return {"loss": loss if finite else None, "bpc": bits_per_character(loss) if finite else None}


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
        files.append(self.path, text, create=False)

    def cut(self, step: int, events_done: int) -> None:
        """Drop what a resumed run will write again: later steps, and unfinished events."""
        kept = [
            line
            for line in self.read()
            if line["step"] <= (step if line["split"] == "train" else events_done)
        ]
        files.replace(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def read(self) -> list[dict[str, Any]]:
        """Every line that is whole: a crash may leave anything at the end, a bad disk anywhere."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return [line for line in map(_parse, text.split("\n")) if line is not None]


def _parse(text: str) -> dict[str, Any] | None:
    """A line as `write` writes them, or None."""
    try:
        line = json.loads(text)
        whole = (
            type(line["step"]) is int
            and type(line["split"]) is str
            and isinstance(line["loss"], float | None)
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return line if whole else None


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
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # A name may have characters that no font here has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(drawn, format="png")
    files.replace(path, drawn.getvalue())
