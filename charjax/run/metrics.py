"""The metrics of a run on disk: metrics.jsonl and curves.png."""

import dataclasses
import io
import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from charjax import files
from charjax.errors import visible
from charjax.training.step import Metrics
from charjax.units import TextSize, bits_per_character

# Lines of training of which a picture is drawn: it has 840 columns.
MOST_DRAWN = 20_000
# Bytes that are read at once of a long file.
_BLOCK = 2**20


def columns(rows: np.ndarray) -> Metrics:
    """Return the columns of a buffer of metrics by name.

    Args:
      rows: shape (steps, fields of Metrics).

    Returns:
      Arrays of shape (steps,).
    """
    return Metrics(*rows.T)


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
        """Add the metrics of consecutive steps, shape (steps, fields of Metrics)."""
        if not len(rows):
            return
        self.steps += len(rows)
        self.learning_rate = float(columns(rows).learning_rate[-1])
        finite_rows = rows[columns(rows).skipped == 0].astype(np.float64)
        self.skipped += len(rows) - len(finite_rows)
        finite = columns(finite_rows)
        self.loss = _add_in_order(self.loss, finite.loss * finite.targets)
        self.targets = _add_in_order(self.targets, finite.targets)
        self.grad_norm = _add_in_order(self.grad_norm, finite.grad_norm)
        self.penalty = _add_in_order(self.penalty, finite.penalty)

    def line(self, size: TextSize) -> dict[str, Any]:
        """Return the means over the interval; None where every step was skipped.

        Losses per character and per byte are by the mean length of a token in the training split,
        whose size is given: the steps do not count the characters that they drew.

        `skipped` and `l2_penalty` (not part of the loss) are left out where they are 0.
        """
        finite_steps = self.steps - self.skipped
        line: dict[str, Any] = {
            **loss_fields(self.loss / self.targets if self.targets else math.nan, size),
            "learning_rate": self.learning_rate,
            "grad_norm": self.grad_norm / finite_steps if finite_steps else None,
        }
        if self.skipped:
            line["skipped"] = self.skipped
        if self.penalty:
            line["l2_penalty"] = self.penalty / finite_steps
        return line


def _add_in_order(start: float, values: Any) -> float:
    """Add the values to `start` one after the other; a pairwise sum would depend on the chunks."""
    return float(np.cumsum(np.concatenate([[start], values]))[-1])


def loss_fields(loss: float, size: TextSize) -> dict[str, float | None]:
    """Return a loss in nats per token, bits per character (bpc) and bits per byte (bpb).

    JSON has no NaN: None stands for what is not finite, or not defined.

    Args:
      loss: in nats per token.
      size: of the text that was predicted.
    """
    fields = {"loss": loss, "bpc": size.bpc(loss), "bpb": size.bpb(loss)}
    return {name: value if math.isfinite(value) else None for name, value in fields.items()}


def per_character(line: dict[str, Any]) -> float | None:
    """Return the loss of a metrics line in nats per character; None where it has none."""
    loss, bpc = line["loss"], line.get("bpc")
    # Older lines have no bpc, and a damaged one may have anything.
    if loss is None or not isinstance(bpc, float) or bits_per_character(loss) == bpc:
        return loss
    return float(bpc * math.log(2))


class MetricsFile:
    """metrics.jsonl: one JSON object per line, appended and flushed whole.

    `cut` creates the file. Later writes only append: if the file was removed, its run was removed
    with it, and it is not created again.
    """

    def __init__(
        self,
        path: Path,
        also: Callable[[list[dict[str, Any]]], None] | None = None,
        *,
        writes: bool = True,
    ):
        """Write to `path`, and call `also` with all lines that were appended.

        With `writes=False`, as in all processes of a run but the first, lines are dropped.
        """
        self.path, self._also, self._writes = path, also, writes

    def write(self, step: int, split: str, **fields: Any) -> None:
        """Append one line."""
        self.write_all([{"step": step, "split": split, **fields}])

    def write_all(self, lines: list[dict[str, Any]]) -> None:
        """Append several lines at once."""
        if not self._writes:
            return
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        files.append(self.path, text, create=False)
        if self._also is not None:
            self._also(lines)

    def cut(self, step: int, events_done: int) -> None:
        """Drop the lines that a resumed run will write again: later steps and unfinished events.

        A line at a time: however long the file, memory is that of its longest line. Of a long file
        only the end is parsed, and what stands before it is copied.
        """
        with (
            files.named(self.path),
            files.replacing(self.path) as temporary,
            temporary.open("wb") as file,
        ):
            begin = self._end_of_kept(min(step, events_done))
            self._copy(begin, file)
            for line in self._lines(begin):
                if line["step"] <= (step if line["split"] == "train" else events_done):
                    file.write(json.dumps(line).encode() + b"\n")

    def read(self) -> list[dict[str, Any]]:
        """Return the valid lines: a crash may break the last one, a bad disk any of them."""
        return list(self._lines())

    def read_thinned(self, most: int = MOST_DRAWN) -> list[dict[str, Any]]:
        """Return the valid lines, but of those of training at most so many and the last one.

        They are evenly spread; the others are not even parsed.
        """
        count = sum(map(_is_of_training, self._raw()))
        every, index, found = -(-count // most), 0, []
        for text in self._raw():
            if is_of_training := _is_of_training(text):
                index += 1
            if not is_of_training or index % every == 0 or index == count:
                found.append(_parse(text.decode(errors="replace")))
        return [line for line in found if line is not None]

    def _lines(self, begin: int = 0) -> Iterator[dict[str, Any]]:
        texts = (text.decode(errors="replace") for text in self._raw(begin))
        yield from (line for line in map(_parse, texts) if line is not None)

    def _raw(self, begin: int = 0) -> Iterator[bytes]:
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(begin)
                yield from file

    def _end_of_kept(self, step: int) -> int:
        """Return a place in the file before which no line is of a step after `step`.

        Lines are appended in the order of their steps, so it is the last line of training up to
        `step`. Of a short file it is its beginning.
        """
        end = self.path.stat().st_size if self.path.exists() else 0
        while (begin := end - _BLOCK) > 0:
            with self.path.open("rb") as file:
                file.seek(begin)
                # The first line may be a part of one.
                place = begin + len(file.readline())
                while place < end:
                    text = file.readline()
                    line = _parse(text.decode(errors="replace"))
                    if line is not None and line["split"] == "train" and line["step"] <= step:
                        return place
                    place += len(text)
            end = begin
        return 0

    def _copy(self, size: int, copy: BinaryIO) -> None:
        """Copy the first bytes of the file."""
        if size:
            with self.path.open("rb") as file:
                while size:
                    size -= copy.write(file.read(min(size, _BLOCK)))


def _is_of_training(text: bytes) -> bool:
    return b'"split": "train"' in text


def _parse(text: str) -> dict[str, Any] | None:
    """Return a line as `write` writes them, or None."""
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


def best_line(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the metrics line of the lowest validation loss, or None."""
    return min(validation_lines(lines), key=lambda line: line["loss"], default=None)


def validation_lines(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the metrics lines with a validation loss."""
    return [line for line in lines if line["split"] == "val" and line["loss"] is not None]


def draw_curves(
    lines: list[dict[str, Any]], title: str, path: Path, vocab_size: int | None = None
) -> None:
    """Draw training and validation loss by step, as a PNG, with the best step and ln V.

    Of a run that averages its parameters, the validation loss of both is drawn.

    Args:
      lines: of metrics.jsonl.
      title: of the picture.
      path: the file.
      vocab_size: V, where a token is a character; None: no line.
    """
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    averages = any(line["split"] == "val_trained" for line in lines)
    drawn = {
        "train": ("-", "train"),
        "val": ("o-", "val, averaged parameters" if averages else "val"),
        "val_trained": ("s:", "val, as trained"),
    }
    for split, (style, label) in drawn.items():
        points = [(x["step"], per_character(x)) for x in lines if x["split"] == split and x["loss"]]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=3, linewidth=1)
    if vocab_size:
        uniform, gray = math.log(vocab_size), "#59636e"
        axes.axhline(uniform, color=gray, linestyle="--", linewidth=1, label=f"ln {vocab_size:,}")
    if (best := best_line(lines)) is not None:
        loss = per_character(best)
        label = f"best: {loss:.4f} at step {best['step']:,}"
        axes.plot(best["step"], loss, "o", ms=9, mfc="none", mec="C1", mew=2, label=label)
    axes.set(xlabel="step", ylabel="loss (nats per character)")
    axes.set_title(visible(title), parse_math=False, fontsize=10)
    axes.grid(alpha=0.3)
    if axes.lines:
        # Below the axes, where it covers nothing.
        figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    png = io.BytesIO()
    with warnings.catch_warnings():
        # The title may have characters that no installed font has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(png, format="png")
    files.replace(path, png.getvalue())
