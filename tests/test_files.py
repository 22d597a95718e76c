"""Files written atomically."""

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
    """Limit files to 1000 bytes, as on a full disk."""
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


@pytest.mark.parametrize("shared", [False, True])
def test_a_replacement_appears_whole_or_not_at_all(tmp_path: Path, shared: bool):
    path = tmp_path / "file"
    for text in ("old", "new"):
        with files.replacing(path, shared=shared) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text

    def stop() -> None:
        with files.replacing(path, shared=shared) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", [False, True])
def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path, there: bool):
    path = tmp_path / "directory"
    if there:
        path.mkdir()

    def stop() -> None:
        with files.replacing(path, shared=True) as temporary:
            temporary.mkdir()
            (temporary / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    with files.replacing(path, shared=True) as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("whole")
    assert list(tmp_path.rglob("*")) == [path, path / "file"]


def test_two_writers_of_a_shared_file_do_not_meet(tmp_path: Path):
    path = tmp_path / "file"
    with (
        files.replacing(path, shared=True) as first,
        files.replacing(path, shared=True) as second,
    ):
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"


def test_a_fixed_temporary_name_overwrites_what_a_killed_write_left(tmp_path: Path):
    (tmp_path / "file.tmp").write_text("left")
    files.replace(tmp_path / "file", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


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
