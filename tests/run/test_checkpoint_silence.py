"""Loggers are silenced during saves and restores only."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from charjax.run import checkpoint_arrays
from charjax.run.checkpoint import Checkpoints
from charjax.run.checkpoint_silence import silenced

LOGGERS = ("absl", "asyncio")


def settings() -> list[Any]:
    return [sys.unraisablehook, *(logging.getLogger(name).level for name in LOGGERS)]


def complain(text: str = "Event loop is closed") -> None:
    """Log errors as orbax and asyncio do, and raise an unraisable one."""
    for name in LOGGERS:
        logging.getLogger(name).error("a failed write")
    sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(text)))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect what reaches the hook and the loggers of the process."""
    texts: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(record.name)  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "unraisablehook", lambda args: texts.append(str(args.exc_value)))
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
    yield texts
    for name in LOGGERS:
        logging.getLogger(name).removeHandler(handler)


def test_a_save_is_silent_and_leave_the_process_as_it_was(
    tmp_path: Path, heard: list[str], monkeypatch: pytest.MonkeyPatch
):
    before = settings()
    call = with_complaints(checkpoint_arrays._save)
    monkeypatch.setattr(checkpoint_arrays, "_save", call)
    state = {"w": np.ones(3)}
    store = Checkpoints(tmp_path, keep=1)
    store.save(1, state, {})
    store.wait()
    assert settings() == before
    store.close()
    assert (heard, settings()) == ([], before)
    complain()
    assert heard == [*LOGGERS, "Event loop is closed"]


def with_complaints(call: Callable[..., Any]) -> Callable[..., Any]:
    def complain_and_call(*arguments: Any) -> Any:
        complain()
        return call(*arguments)

    return complain_and_call


def test_other_errors_are_not_silenced(heard: list[str]):
    with silenced():
        complain("something else")
    assert heard == ["something else"]


def test_after_a_failed_save_its_abandoned_writes_are_still_silent(heard: list[str]):
    before = settings()
    for _ in range(2):
        with pytest.raises(OSError, match="full"), silenced():
            raise OSError("full")
        complain()
        assert heard == []
    with silenced():
        pass
    assert settings() == before


def test_saves_that_overlap_are_silent_to_the_last(heard: list[str]):
    before = settings()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with silenced():
            entered.set()
            assert leave.wait(20)

    thread = threading.Thread(target=other)
    with silenced():
        thread.start()
        assert entered.wait(20)
    complain()
    leave.set()
    thread.join()
    assert (heard, settings()) == ([], before)


def test_a_hook_installed_meanwhile_stays(heard: list[str]):
    with silenced():
        inner = sys.unraisablehook
        sys.unraisablehook = outer = lambda args: inner(args)
    assert sys.unraisablehook is outer
    with silenced():
        complain()
    assert sys.unraisablehook is outer
    complain("something else")
    assert heard == [*LOGGERS, "something else"]


_FILE_LIMIT = """
import resource, signal, sys, time
import numpy as np
from charjax.run.checkpoint import Checkpoints, SaveError
store = Checkpoints(sys.argv[1], keep=2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for step in range(2):
    state = {dtype: np.arange(90_000).astype(dtype) for dtype in ("f4", "f8", "i4", "i8")}
    store.save(step, state, {})
    try:
        store.wait()
    except SaveError as error:
        print("failed")
time.sleep(0.3)
"""


def test_a_storage_that_fails_prints_nothing_by_itself(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", _FILE_LIMIT, str(tmp_path)],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("failed\nfailed\n", "")
