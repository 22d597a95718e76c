"""Directories of runs without --workdir."""

import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest

from charjax.config import load_config
from charjax.run import directory
from charjax.run.directory import run_directory
from tests.commands import run, start


class Noon(datetime.datetime):
    """A stopped clock."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 2, 12, 0, 0)


@pytest.fixture
def at_noon(monkeypatch, tmp_path):
    monkeypatch.setattr(directory.datetime, "datetime", Noon)
    monkeypatch.chdir(tmp_path)


def test_runs_that_start_in_the_same_second_take_numbers(at_noon):
    config = load_config(None, ["model.kind=bigram"])
    with run_directory(None, config) as first, run_directory(None, config) as second:
        assert first == Path("runs/stdlib-bigram-20260102-120000")
        assert second == Path("runs/stdlib-bigram-20260102-120000-2")
        (first / "config.toml").touch()
    # One that nothing was written into is gone.
    assert first.is_dir()
    assert not second.exists()


def test_a_run_that_is_refused_leaves_no_directory(at_noon):
    done = run("train", "data.path=nosuch.txt")
    assert done.status == 2
    assert not Path("runs").exists()


def test_a_place_where_nothing_can_be_made_is_said(at_noon):
    Path("runs").touch()
    done = run("train", "model.kind=bigram")
    assert done.status == 2
    assert "--workdir" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_two_processes_started_at_once_both_train(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("abc def " * 100)
    words = [f"data.path={text}", "model.kind=bigram", "train.steps=2", "eval.every=0"]
    root = str(Path(__file__).parent.parent)
    both = [start("train", *words, cwd=tmp_path, PYTHONPATH=root) for _ in range(2)]
    printed = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert len(os.listdir(tmp_path / "runs")) == 2


SIGTERM_AT_START = """
import os, signal, sys, time
from charjax import cli, train
def open_slowly(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
train._open = open_slowly
cli.run(train.main, sys.argv[1:])
"""


def test_a_run_that_is_ended_while_it_starts_leaves_no_directory(tmp_path):
    command = [sys.executable, "-c", SIGTERM_AT_START, "model.kind=bigram"]
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, check=False
    )
    assert done.returncode == 143
    assert not (tmp_path / "runs").exists()
