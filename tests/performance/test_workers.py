"""Processes of contestants: the files of the user's that they may execute."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charjax.errors import UserError
from charjax.extensions import name_file, separate_names
from charjax.performance.workers import Worker

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "def double(x):\n    return 2 * x\n\n\ndef fail(x):\n    return x / 0\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    (tmp_path / "mine.py").write_text(SOURCE)
    with separate_names():
        yield tmp_path / "mine.py"


def facts(activation: str) -> Any:
    worker = Worker(sys.executable, "tests.performance.fake_own", activation=activation)
    try:
        return worker.facts
    finally:
        worker.close()


def test_a_process_executes_the_files_that_were_named(file: Path) -> None:
    with pytest.raises(UserError, match="add --code"):
        facts("mine.py:double")
    name_file(file)
    assert facts("mine.py:double") == 4
    with pytest.raises(UserError, match=rf"^{file}:6: ZeroDivisionError: division by zero$"):
        facts("mine.py:fail")


def test_a_file_that_has_changed_is_not_executed(file: Path) -> None:
    name_file(file)
    file.write_text(SOURCE.replace("2 * x", "3 * x"))
    with pytest.raises(UserError, match=r"mine\.py: changed while it was measured"):
        facts("mine.py:double")
