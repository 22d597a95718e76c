"""Files that are written whole or not at all."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from charjax import files
from charjax.errors import UserError
from charjax.run.lock import Lock


@pytest.fixture
def quota() -> Iterator[None]:
    """No file may grow beyond 1000 bytes, as on a disk that is full there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("write", [files.append, files.replace])
def test_what_does_not_fit_changes_nothing(
    write: Callable[[Path, str], None], tmp_path: Path, quota: None
):
    path = tmp_path / "file"
    write(path, "é" * 300)
    with pytest.raises(OSError, match="file") as caught:
        write(path, "more\n" * 300)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_text() == "é" * 300
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_added_comes_after_what_is_there(tmp_path: Path):
    for text in ("one\n", "", "two\r\n"):
        files.append(tmp_path / "file", text)
    assert (tmp_path / "file").read_bytes() == b"one\ntwo\r\n"


def test_a_lock_that_cannot_be_written_is_said(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        lock = Lock(tmp_path)
        with pytest.raises(UserError, match="cannot be written: File too large; give another"):
            lock.acquire()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    lock.acquire()
    assert (tmp_path / ".lock").read_text() == str(os.getpid())
    lock.release()


def test_a_lock_that_holds_no_number_is_held_nevertheless(tmp_path: Path):
    first = Lock(tmp_path)
    first.acquire()
    (tmp_path / ".lock").write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(UserError, match="is being written by process unknown"):
        Lock(tmp_path).acquire()
    first.release()
