"""Runs of commit 6b45f14 resume, sample and evaluate ever after.

tests/fixtures/runs_6b45f14 holds one of each family, and in expected.json what that commit itself
made of them (make.py there says how). They are read where they lie, or from a copy.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run
from tests.fixtures.runs_6b45f14.make import HERE, RUNS, SAMPLE, processor

EXPECTED: dict[str, Any] = json.loads((HERE / "expected.json").read_text())
# Other processors and versions of XLA round otherwise: measured 3e-7 (see test_golden.py).
EVALUATED = 1e-6
# Six steps further on, of Adam, which divides by gradients that may be small.
RESUMED = 1e-5
# The quickest; and one with all that a state can hold, of dropout's key and batch norm.
QUICK = ("bigram", "mlp")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the text, which configurations name relatively; tests copy runs beside it."""
    shutil.copy(HERE / "text.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("family", RUNS)
@pytest.mark.quick("ngram", "transformer")
def test_an_old_run_evaluates_and_samples(family: str, folder: Path):
    shutil.copytree(HERE / family, folder / family)
    expected = EXPECTED["runs"][family]
    done = run("evaluate", family, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["loss"] == pytest.approx(expected["val_loss"], rel=EVALUATED)
    done = run("sample", family, *SAMPLE)
    assert done.status == 0, done.err
    assert json.loads(done.out)["samples"] == expected["samples"]


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in RUNS],
)
def test_an_old_run_resumes(family: str, folder: Path):
    shutil.copytree(HERE / family, folder / family)
    expected = EXPECTED["runs"][family]["resumed"]
    # Counts have nothing to go on with: their summary is written, and nothing else is changed.
    steps = [] if family == "ngram" else ["train.steps=12"]
    done = run("train", *steps, "--resume", "--workdir", family)
    assert done.status == 0, done.err
    summary = json.loads((folder / family / "summary.json").read_text())
    for name in ("steps", "params", "config_digest"):
        assert summary[name] == expected[name]
    assert summary["val_loss"] == pytest.approx(expected["val_loss"], rel=RESUMED)
    versions = {name: summary["versions"][name] for name in expected["versions"]}
    here = (processor(), versions, summary["devices"])
    if here == (EXPECTED["processor"], expected["versions"], expected["devices"]):
        assert summary["state_digest"] == expected["state_digest"]
