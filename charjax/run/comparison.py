"""Several runs beside each other: scores, differing settings, curves."""

import dataclasses
import html
import io
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
import pandas as pd

from charjax import files
from charjax.config import Config, differences, flat_settings, load_config
from charjax.config.reads import why_unread
from charjax.config.values import value_text
from charjax.errors import UserError, visible
from charjax.run.load import find_run, has_checkpoints, require_run
from charjax.run.metrics import MetricsFile, best_line, per_character, validation_lines
from charjax.run.notes import Notes

_SUMMARY = ("params", "tokens_per_second", "seconds")
# Of [data]: where a text is cut into parts.
_SPLITTING = ("split", "val_fraction", "documents", "rows", "chunk")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several runs beside each other, in the order in which they were given.

    Attributes:
      scores: a row for each run: model.kind, data.tokenizer, step (the last), best_val_loss,
        val_loss and test_loss (nats per character, whatever the tokens are), best_val_bpc and
        best_val_bpb (bits per character and per byte), best_step, params, tokens_per_second,
        seconds; NaN where a run has none, as before its end.
      settings: a row for each setting that differs, a column for each run.
      figure: training and validation losses by step.
      notes: why losses cannot be compared, a line each; empty where they can.
    """

    scores: pd.DataFrame
    settings: pd.DataFrame
    figure: matplotlib.figure.Figure
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        tables = [self.scores.T.to_string(), self._shown().to_string()]
        return "\n\n".join([*tables, *(f"note: {note}" for note in self.notes)])

    def _shown(self) -> pd.DataFrame:
        """Return the settings as the user writes them."""
        return self.settings.map(lambda x: x if isinstance(x, float) else value_text(x))

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>note: {html.escape(note)}</p>" for note in self.notes)
        return str(self.scores.T.to_html()) + str(self._shown().to_html()) + notes


def compare_runs(directories: Sequence[Path]) -> Comparison:
    """Compare runs, finished or not, on the same text; another one of the same alphabet is noted.

    Raises:
      UserError: fewer than two runs, an unknown one, one given twice, or different vocabularies.
    """
    if len(directories) < 2:
        raise UserError(f"compare: {len(directories)} runs given; at least two are needed")
    names = [str(directory) for directory in directories]
    for directory in directories:
        require_run(directory, "compare")
    if len({directory.resolve() for directory in directories}) < len(directories):
        raise UserError(f"compare: {', '.join(names)} given; a run is given twice: leave it out")
    notes = [find_run(each, "latest").notes for each in directories if has_checkpoints(each)]
    saved = [directory for directory in directories if has_checkpoints(directory)]
    _check_vocabularies(saved, notes)
    configs = [load_config(directory / "config.toml", saved=True) for directory in directories]
    lines = [MetricsFile(directory / "metrics.jsonl").read_thinned() for directory in directories]
    rows = [
        score_row(directory, config, read)
        for directory, config, read in zip(directories, configs, lines, strict=True)
    ]
    scores = pd.DataFrame(rows, index=pd.Index(names, name="run"))
    settings, figure = _settings(configs, names), _curves(lines, names)
    return Comparison(scores, settings, figure, tuple(_texts_that_differ(notes)))


def _texts_that_differ(notes: Sequence[Notes]) -> Iterator[str]:
    """Yield a line where the runs are not all of one text and split."""
    if len({note.dataset_digest for note in notes}) > 1:
        yield "these runs are not all of one text: their losses are of different texts"
    elif len({tuple(getattr(n.config.data, each) for each in _SPLITTING) for n in notes}) > 1:
        yield "these runs split their text in different ways: their losses are of different parts"


def _check_vocabularies(saved: Sequence[Path], notes: Sequence[Notes]) -> None:
    """Raise a UserError unless the losses per character of saved runs are comparable.

    They are within one vocabulary, or between kinds of tokens of one text.
    """
    for directory, note in zip(saved, notes, strict=True):
        first = notes[0]
        same_text = note.dataset_digest == first.dataset_digest
        kinds = {str(each.tokenizer.to_json()["kind"]) for each in (first, note)}
        if note.tokenizer == first.tokenizer or (same_text and kinds != {"char"}):
            continue
        raise UserError(
            f"compare: {str(saved[0])!r} has a vocabulary of {first.tokenizer.vocab_size:,} "
            f"symbols and {str(directory)!r} another one, of {note.tokenizer.vocab_size:,}, of "
            "another text; losses are comparable within one vocabulary, or per character of one "
            "text: give runs of one text"
        )


def score_row(directory: Path, config: Config, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a run's row; what is missing in the summary of an unfinished run is NaN."""
    summary = read_summary(directory)
    val, best = validation_lines(lines), best_line(lines)
    test = {"loss": _number(summary.get("test_loss")), "bpc": _number(summary.get("test_bpc"))}
    found = {
        "model.kind": config.model.kind,
        "data.tokenizer": config.data.tokenizer,
        "step": max((line["step"] for line in lines), default=0),
        "best_val_loss": per_character(best) if best else None,
        "best_val_bpc": best.get("bpc") if best else None,
        "best_val_bpb": best.get("bpb") if best else None,
        "val_loss": per_character(val[-1]) if val else None,
        "best_step": best["step"] if best else None,
        "params": None,
        "test_loss": per_character(test),
    }
    # The file may have been changed by hand.
    row = found | {name: _number(summary.get(name)) for name in _SUMMARY}
    return {name: math.nan if value is None else value for name, value in row.items()}


def read_summary(directory: Path) -> dict[str, Any]:
    """Return summary.json, or {} where it is missing or damaged."""
    try:
        tree = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _settings(configs: list[Config], names: list[str]) -> pd.DataFrame:
    """Return the settings that differ between any two runs; NaN where a run reads none."""
    trees = [dict(flat_settings(config)) for config in configs]
    keys = dict.fromkeys(
        key for config in configs[1:] for key, _, _ in differences(configs[0], config)
    )
    columns = {
        name: [
            tree[key] if key in tree and why_unread(config, key) is None else math.nan
            for key in keys
        ]
        for name, tree, config in zip(names, trees, configs, strict=True)
    }
    return pd.DataFrame(columns, index=pd.Index(list(keys), name="setting"), dtype=object)


def _curves(lines: list[list[dict[str, Any]]], names: list[str]) -> matplotlib.figure.Figure:
    """Draw the losses of every run, training thin and validation with points.

    The validation loss of parameters as they were trained, beside that of their average, is dotted.
    """
    figure = _Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for number, (read, name) in enumerate(zip(lines, names, strict=True)):
        drawn = (("train", "-", 0.8), ("val", "o-", 1.4), ("val_trained", ":", 1.0))
        for split, style, width in drawn:
            points = [
                (x["step"], per_character(x))
                for x in read
                if x["split"] == split and x["loss"] is not None
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    style,
                    color=f"C{number % 10}",
                    alpha=0.5 if split == "train" else 1.0,
                    linewidth=width,
                    markersize=3,
                    label=visible(name) if split == "val" else None,
                )
    axes.set(xlabel="step", ylabel="loss (nats per character)")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        for text in axes.legend(fontsize=8).get_texts():
            text.set_parse_math(False)
    return figure


class _Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows, even one that has not imported pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def save_figure(figure: matplotlib.figure.Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all.

    Raises:
      OSError: it cannot be written.
    """
    png = io.BytesIO()
    with warnings.catch_warnings():
        # A path may have characters that no installed font has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(png, format="png")
    files.replace(path, png.getvalue())
