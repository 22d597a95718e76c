"""More than one JAX process: refused before anything is written."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from charjax import backend
from charjax.config import RuntimeConfig
from charjax.errors import UserError
from charjax.run import checkpoint_files

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = """
import sys, jax
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
from charjax import cli, train
cli.run(train.main, sys.argv[3:])
"""


def test_a_second_process_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"2 JAX processes .* jax\.distributed"):
        backend.start_backend(RuntimeConfig())


def _write(place: Path, data: bytes | None) -> None:
    if data is not None:
        (place / "bytes-0").mkdir(parents=True)
        (place / "bytes-0" / "0").write_bytes(data)


@pytest.mark.parametrize("written", [None, b"", b"cut short", b"longer than its arrays"])
def test_a_step_without_its_arrays_is_not_committed(written, tmp_path):
    arrays = {"a": np.ones(3, np.float32), "b": np.ones(2, np.int32)}
    with ThreadPoolExecutor(1) as threads:
        saving = checkpoint_files.commit_step(tmp_path, 5, arrays, {}, False, threads)
        with pytest.raises(OSError, match="were not written"), saving as place:
            _write(place, written)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_two_real_processes_are_both_refused(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "text.txt").write_text("abc def " * 100)
    words = ["data.path=text.txt", "model.kind=bigram", "train.steps=2"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(port), str(index), *words, "--workdir", str(index)],
            cwd=tmp_path,
            # The tests' proxy, which leads nowhere, is not for the processes' own connection.
            env={**os.environ, "PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    assert all("error: runtime: 2 JAX processes" in error for error in errors)
    assert os.listdir(tmp_path) == ["text.txt"]
