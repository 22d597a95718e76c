"""Notebooks run from top to bottom; charjax shows plain text, tables and pictures in them."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
TRAIN = """
import charjax
open("text.txt", "w").write("the cat sat on the mat. " * 200)
words = ["text.txt", "model.kind=gru", "model.d_hidden=8", "model.context_length=8"]
run = charjax.fit(*words, "train.steps=12", "train.log_every=4", "eval.every=6", workdir="a")
"""
QUIET = """
run = charjax.fit(*words, "train.steps=2", workdir="b", quiet=True)
run
"""
BAR = """
import time
from rich.progress import TimeRemainingColumn
from charjax.progress import ProgressBar, plain_console

bar = ProgressBar(
    plain_console(), "work", "step {task.completed}/{task.total}", TimeRemainingColumn(), total=4
)
with bar:
    bar.update(completed=1)
    time.sleep(0.3)
    bar.update(completed=2)
"""


def execute(notebook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Run a notebook; return the outputs of each of its code cells."""
    nbclient = pytest.importorskip("nbclient", reason="make test installs nbclient")
    pytest.importorskip("ipykernel", reason="make test installs ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Warnings about the test's own folders of Jupyter are not charjax's.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
        client.execute(cwd=str(folder))
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def texts(outputs: list[Any]) -> str:
    return json.dumps(outputs)


def no_escape_sequences(outputs: list[Any]) -> bool:
    return "\\u001b" not in texts(outputs) and "\\r" not in texts(outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_stripped(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\((?![a-z]+:)([^)#\s]+)\)", path.read_text(encoding="utf-8"))
    assert targets
    assert not [target for target in targets if not (path.parent / target).exists()]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_goes_from_a_text_to_a_comparison(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat", reason="make test installs nbclient")
    outputs = execute(nbformat.read(path, 4), tmp_path, monkeypatch)
    assert not [out for cell in outputs for out in cell if out.output_type == "error"]
    assert no_escape_sequences(outputs)
    everything = texts(outputs)
    assert "best_val_loss" in everything
    assert "model.kind" in everything
    assert "image/png" in texts(outputs[-1])
    assert (tmp_path / "runs/gru/summary.json").exists()


@pytest.mark.slow
def test_progress_is_lines_and_one_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="make test installs nbclient")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in (TRAIN, QUIET, BAR)]
    training, quiet, bar = execute(notebook, tmp_path, monkeypatch)
    assert no_escape_sequences([training, quiet, bar])
    lines = "".join(out.text for out in training if out.output_type == "stream")
    assert "note: text.txt is no configuration" in lines
    assert re.search(r"^step 4/12  loss \d", lines, re.MULTILINE)
    assert {out.name for out in training if out.output_type == "stream"} == {"stdout"}
    # One place for the bar, empty at the end.
    (place,) = (out for out in training if out.output_type == "display_data")
    assert place.data == {"text/plain": ""}
    (shown,) = quiet
    assert "charjax.Run" in shown.data["text/plain"]
    assert "nats per character" in shown.data["text/html"]
    (place,) = bar
    assert place.data == {"text/plain": ""}
